// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Keeps the slots of one address space in step with a tree of regions.

#ifndef TDP_MEMSLOT_REGION_SLOTS_H_
#define TDP_MEMSLOT_REGION_SLOTS_H_

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/base/ordered_map.h"
#include "tdp/memslot/dirty_pages.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/memslot/guest_memory.h"
#include "tdp/memslot/memory_region.h"
#include "tdp/memslot/region.h"
#include "tdp/memslot/slot_plan.h"

namespace tdp {

// Listens to `tree` and turns each commit into the fewest slot changes. Dirty bits of a slot that
// has to be deleted while its memory stays are kept and come with the region's next `TakeDirty`;
// with a `Vm` none is missed (`GuestMemory::DeleteSlot` says where one may be). Those of a region
// that is destroyed, or beyond its new end, are forgotten.
class RegionSlots : public RegionListener {
 public:
  // All three outlive this. The slots of `address_space` belong to this object alone.
  RegionSlots(RegionTree* tree, const Region* root, GuestMemory* memory,
              AddressSpaceId address_space = 0, const SlotPlanLimits& limits = {});
  ~RegionSlots() override;

  // Applies the difference now. If a step fails it returns that status; the steps before it stand,
  // and the next commit goes on from there. The message begins with the path of the region whose
  // slot it was.
  absl::Status OnRegionsChanged() override;

  void OnRegionDestroyed(const Region& region) override { saved_.erase(&region); }

  // Takes the pages of the memory of `region` that became dirty since the last call, by index in
  // it: with manual protection too, they are clean when `visit` is called, and their next write is
  // noticed. FailedPrecondition where dirty pages are logged in rings: their entries name slots, so
  // harvest before a commit changes them (`set_observer`).
  absl::Status TakeDirty(const Region& region, DirtyPageVisitor visit);

  // Sees each step before it is taken: the slot as it will be, or, for a deletion, as it was.
  using Observer = std::function<void(SlotStep::Kind kind, uint32_t id, const PlannedSlot& slot)>;
  void set_observer(Observer observer) { observer_ = std::move(observer); }

  const std::vector<FlatRange>& view() const { return view_; }

  struct Applied {
    uint32_t id = 0;
    PlannedSlot slot;
  };
  // Returns the slots that stand, by ascending gpa.
  const std::vector<Applied>& slots() const { return applied_; }

 private:
  absl::Status Take(const SlotStep& step, const std::vector<Applied>& old_slots,
                    const std::vector<PlannedSlot>& new_slots);
  absl::Status Delete(const Applied& old);
  absl::Status Put(uint32_t id, const PlannedSlot& slot);
  absl::Status SaveDirty(const Applied& old);
  absl::Status ClearTaken(const Applied& slot,
                          absl::Span<const std::pair<uint64_t, uint64_t>> words);
  void SavePages(const PlannedSlot& slot, uint64_t base, uint64_t mask);
  void ForgetBeyondEnds();
  uint32_t LowestFreeId() const;

  RegionTree* const tree_;
  const Region* const root_;
  GuestMemory* const memory_;
  const AddressSpaceId address_space_;
  const SlotPlanLimits limits_;
  std::vector<FlatRange> view_;
  std::vector<Applied> applied_;
  // The dirty pages that were saved, by region: word index in it and mask.
  OrderedMap<const Region*, OrderedMap<uint64_t, uint64_t>> saved_;
  Observer observer_;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_REGION_SLOTS_H_
