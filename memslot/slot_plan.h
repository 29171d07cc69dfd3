// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// From a flat view to slots, and from the slots that are to those that should be.

#ifndef TDP_MEMSLOT_SLOT_PLAN_H_
#define TDP_MEMSLOT_SLOT_PLAN_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/memslot/memory_region.h"

namespace tdp {

// A slot that a view wants, or that one has.
struct PlannedSlot {
  Gpa gpa;
  ByteCount size = 0;
  Hva hva;
  uint32_t flags = 0;
  const Region* region = nullptr;  // whose memory it is
  uint64_t offset = 0;             // of `gpa` in `region`

  Gpa end() const { return gpa + size; }
  friend bool operator==(const PlannedSlot&, const PlannedSlot&) = default;
};

struct SlotPlanLimits {
  // From 1 page to what is said here; what is not counts as the nearest that is.
  PageCount largest_slot = PageCount((uint64_t{1} << 31) - 1);
};

// Returns the slots for the memory of `view`, ascending: each range cut to whole pages, and into
// pieces of the largest slot. ROM, and a ROM device that is read as memory, become read-only slots.
std::vector<PlannedSlot> PlanSlots(absl::Span<const FlatRange> view,
                                   const SlotPlanLimits& limits = {});

// One call of SetMemoryRegion. It names slots by their index in the lists that the difference was
// made from.
struct SlotStep {
  enum class Kind { kDelete, kMove, kFlags, kCreate };

  Kind kind = Kind::kCreate;
  size_t old_slot = 0;  // kDelete, kMove, kFlags
  size_t new_slot = 0;  // kMove, kFlags, kCreate

  friend bool operator==(const SlotStep&, const SlotStep&) = default;
};

// Returns the fewest steps from `old_slots` to `new_slots`, in an order in which none overlaps what
// is there at its time: deletions first, then moves, changes of flags and creations. A slot that
// keeps memory, size and read-only moves or changes its flags; any other change is a deletion and a
// creation. Moves that wait for each other in a circle are broken by one deletion and creation. No
// two slots of one list overlap. Takes O(n log n) for n slots.
std::vector<SlotStep> PlanSteps(absl::Span<const PlannedSlot> old_slots,
                                absl::Span<const PlannedSlot> new_slots);

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_PLAN_H_
