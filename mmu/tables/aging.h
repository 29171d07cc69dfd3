// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says which pages the guest uses, which a host asks before it swaps one out (KVM's kvm_age_gfn and
// kvm_test_age_gfn).
//
// With A bits the CPU tells, and aging clears them. Without them aging takes a leaf's rights away
// and keeps them in the entry: the next access is a violation that gives them back without asking
// the host (`DirectMmu::WidenInPlace`). W is not kept: it comes back by a write alone, which may
// have to be logged.
//
// Only the A bits of leaves are read and cleared. Those of table entries would let clean subtrees
// be skipped, but only if aging cleared them too and a flush came before the next look (a CPU goes
// on below an upper entry that it caches without setting A there again); that flush costs more than
// the scan, and they belong to the harvest of dirty pages. What is skipped is what is not mapped.

#ifndef TDP_MMU_TABLES_AGING_H_
#define TDP_MMU_TABLES_AGING_H_

#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/range_walk.h"

namespace tdp {

// Works on the readers' side, in sections of its own. One thread uses it.
class Aging {
 public:
  Aging(const DirectMmu& mmu, MmuLock& lock)
      : hardware_(mmu.options().accessed_dirty), walk_(mmu, lock) {}

  // Makes every page of `range` old. Returns whether any was young.
  bool Age(FrameRange range);
  // Returns whether any page of `range` is young; changes nothing.
  bool Test(FrameRange range);

  // Returns whether rights were taken, which owes a flush.
  bool took_rights() const { return took_rights_; }

 private:
  bool IsYoung(EptEntry entry, Level level) const;
  void MakeOld(EntryRef entry, EptEntry value);

  const bool hardware_;  // A bits
  RangeWalk walk_;
  bool took_rights_ = false;
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_AGING_H_
