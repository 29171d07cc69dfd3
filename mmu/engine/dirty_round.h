// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Takes pages out of a slot's dirty log, whatever finds the writes.

#ifndef TDP_MMU_ENGINE_DIRTY_ROUND_H_
#define TDP_MMU_ENGINE_DIRTY_ROUND_H_

#include <cstdint>

#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {

// One round over one slot, which logs into a bitmap. Its calls come in this order: `Gather`, then
// take pages out of the log and `Rearm` each, then `Finish`, then hand them out. What is only to be
// cleared out of the log needs no `Gather`. docs/locking.md ("Dirty logging") has the timelines.
//
// It is used under the slots mutex: two rounds of one slot must not overlap. It waits for vCPUs to
// leave the guest.
class DirtyRound {
 public:
  DirtyRound(Engine& engine, const MemorySlot& slot)
      : engine_(engine), slot_(slot), reader_(engine.mmu_lock()), narrowing_(engine.clock()) {}

  DirtyRound(const DirtyRound&) = delete;
  DirtyRound& operator=(const DirtyRound&) = delete;

  // Brings the log up to date: it then has every page whose write was over before this call.
  void Gather();

  // Makes the next writes of pages noticed again that were taken out of the log: the pages `base` +
  // i of the slot, for every bit i of `mask`.
  void Rearm(uint64_t base, uint64_t mask);

  // Returns when no CPU writes to a page that was rearmed without it being noticed.
  void Finish();

 private:
  void GatherDirtyBits();

  Engine& engine_;
  const MemorySlot slot_;
  MmuLock::Reader reader_;
  const FlushClock::Narrowing narrowing_;  // of `Rearm`, until `Finish` has moved the generation
  uint64_t gathered_at_ = 0;               // flush generation
  bool any_ = false;
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_DIRTY_ROUND_H_
