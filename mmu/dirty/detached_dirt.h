// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Saves D bits of what was taken out of the tables: they go to the dirty logs of the slots, since
// no harvest of the tables will see them any more.

#ifndef TDP_MMU_DIRTY_DETACHED_DIRT_H_
#define TDP_MMU_DIRTY_DETACHED_DIRT_H_

#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/mmu/dirty/written_frames.h"
#include "tdp/mmu/format/table_page.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"

namespace tdp {

// Marks `written` in the log of `slot`, the frames that lie in it. Call it inside a section. A page
// that the log has no room for is left out: room is made before a page becomes writable, so D is
// older there than the log.
void MarkWritten(const MemorySlot& slot, absl::Span<const WrittenFrames> written);

// Saves the D bits of single leaves, from inside the writer's section that takes them out.
class DetachedDirt : public LostDirtyLeaves {
 public:
  DetachedDirt(const SlotSet& slots, AddressSpaceId space) : slots_(slots), space_(space) {}
  void OnLost(Gfn gfn) override;

 private:
  SlotReader slots_;
  const AddressSpaceId space_;
};

// Saves those of whole tables, after the flush that took the CPUs out of them.
class DetachedHarvest {
 public:
  // It lives for the time of one reclaim.
  DetachedHarvest(const SlotSet& slots, MmuLock& lock) : slots_(slots), reader_(lock) {}

  // Marks the pages that `table`, of leaves, says were written. Hold no lock.
  void Take(const TablePage& table);

 private:
  void MarkSlots(AddressSpaceId space, absl::Span<const WrittenFrames> written);

  SlotReader slots_;
  MmuLock::Reader reader_;
};

}  // namespace tdp

#endif  // TDP_MMU_DIRTY_DETACHED_DIRT_H_
