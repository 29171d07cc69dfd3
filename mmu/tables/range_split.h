// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Splitting large leaves ahead of need (KVM's eager page splitting, tdp_mmu_split_huge_pages_root).

#ifndef TDP_MMU_TABLES_RANGE_SPLIT_H_
#define TDP_MMU_TABLES_RANGE_SPLIT_H_

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/range_walk.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

// Splits large leaves. A split maps the same frames with the same rights, so it is growth: the
// readers' side will do, in sections of its own. One thread uses it.
class RangeSplit {
 public:
  RangeSplit(const DirectMmu& mmu, MmuLock& lock) : mmu_(mmu), walk_(mmu, lock) {}

  // Splits every leaf larger than `to` that maps a frame of `range`, in order, while `cache` has
  // tables. Returns the first frame that is not done: `range.end`, or where to go on with more
  // tables.
  Gfn Run(FrameRange range, Level to, TableCache& cache);

  // Returns whether a leaf became a table, which owes a flush (SDM 29.4.3.3: until then a CPU may
  // use either mapping, and set D in the one that is gone).
  bool any() const { return any_; }

 private:
  void Split(const TablePart& leaf, TableCache& cache);

  const DirectMmu& mmu_;
  RangeWalk walk_;
  bool any_ = false;
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_RANGE_SPLIT_H_
