// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/slot_reader.h"

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/memslot/interval_tree_search.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_cell.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {

using internal::IntervalCell;
using internal::IntervalSearch;

ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool SlotReader::FindCell(AddressSpaceId address_space, Gfn gfn,
                                                              IntervalCell* cell) {
  TDP_DCHECK(address_space < set_.limits().address_spaces);
  const SlotSet& set = set_;
  IntervalSearch found;
  uint64_t generation;
  do {
    generation = set.generation(address_space);
    found = internal::IntervalTree::FindAtOrBelow(set.GfnRoot(address_space), gfn.raw(), cell, [&] {
      return set.generation(address_space) == generation;
    });
  } while (ABSL_PREDICT_FALSE(found == IntervalSearch::kChanged));
  answer_generation_ = generation;
  return found != IntervalSearch::kAbsent;
}

const MemorySlot* SlotReader::Keep(const IntervalCell& cell) {
  hit_ = internal::SlotOfGfnCell(cell);
  hit_generation_ = answer_generation_;
  return &hit_;
}

const MemorySlot* SlotReader::Search(AddressSpaceId address_space, Gfn gfn) {
  if (ABSL_PREDICT_FALSE(few_.generation != answer_generation_)) {
    return SearchTree(address_space, gfn);
  }
  const MemorySlot& slot = few_.At(gfn);
  if (!slot.Contains(gfn)) return nullptr;
  hit_ = slot;
  hit_generation_ = answer_generation_;
  return &hit_;
}

ABSL_ATTRIBUTE_NOINLINE const MemorySlot* SlotReader::SearchTree(AddressSpaceId address_space,
                                                                 Gfn gfn) {
  IntervalCell cell;
  if (!FindCell(address_space, gfn, &cell) || gfn.raw() - cell.key >= cell.length()) return nullptr;
  Keep(cell);
  return ABSL_PREDICT_FALSE(++searches_ % Few::kMost == 0) ? CopyFew(address_space) : &hit_;
}

// Copies the slots, if there are no more than fit, no change is under way, and it has not been
// tried. Returns the last hit.
ABSL_ATTRIBUTE_NOINLINE const MemorySlot* SlotReader::CopyFew(AddressSpaceId address_space) {
  const uint64_t generation = answer_generation_;
  if ((generation & kSlotUpdateInProgress) != 0 || generation == copied_generation_) return &hit_;
  copied_generation_ = generation;
  few_.generation = CopySlots(address_space, generation) ? generation : kNoGeneration;
  answer_generation_ = generation;
  return &hit_;
}

// Copies the slots from the last to the first, so that each search tells where the next one begins.
// Returns false if there are too many, or if they have changed.
bool SlotReader::CopySlots(AddressSpaceId address_space, uint64_t generation) {
  IntervalCell cells[Few::kMost];
  size_t count = 0;
  IntervalCell cell;
  for (uint64_t last = ~uint64_t{0}; FindCell(address_space, Gfn(last), &cell);
       last = cell.key - 1) {
    if (count == Few::kMost) return false;
    cells[count++] = cell;
    if (cell.key == 0) break;
    if (answer_generation_ != generation) return false;
  }
  for (size_t i = 0; i < Few::kMost; ++i) {
    const bool is_one = i < count;
    few_.bases[i] = is_one ? cells[count - 1 - i].key : ~uint64_t{0};
    few_.slots[i] = is_one ? internal::SlotOfGfnCell(cells[count - 1 - i]) : MemorySlot();
  }
  return answer_generation_ == generation;
}

bool SlotReader::FindPlain(AddressSpaceId address_space, Gfn gfn, uint64_t sequence) {
  const MemorySlot* slot = Find(address_space, gfn);
  if (slot == nullptr || slot->flags != 0 || slot->invalid) return false;
  const LargePagePermits& permits = slot->state->permits();
  plain_ = {slot->base,
            slot->pages,
            sequence,
            slot->hva.raw() - slot->base.address().raw(),
            permits.Large2MFrames(),
            &permits};
  return true;
}

const MemorySlot* SlotReader::FindAtOrBelow(AddressSpaceId address_space, Gfn gfn) {
  IntervalCell cell;
  return FindCell(address_space, gfn, &cell) ? Keep(cell) : nullptr;
}

bool SlotReader::FindHostSlot(HostRange range, uint64_t min_key, IntervalCell* cell) const {
  IntervalSearch found;
  do {
    const uint64_t version = set_.hva_version_.load(std::memory_order_acquire);
    found = set_.hva_tree_.FindOverlap(
        set_.HvaRoot(), range.first_page(), range.end_page(), min_key, cell,
        [&] { return set_.hva_version_.load(std::memory_order_acquire) == version; });
  } while (ABSL_PREDICT_FALSE(found == IntervalSearch::kChanged));
  return found == IntervalSearch::kFound;
}

void SlotReader::ForEachInHostRange(
    HostRange range,
    absl::FunctionRef<void(const MemorySlot& slot, Gfn first, PageCount pages)> visit) const {
  IntervalCell cell;
  for (uint64_t key = 0; FindHostSlot(range, key, &cell); key = cell.key + 1) {
    const MemorySlot slot = internal::SlotOfHvaCell(cell);
    const HostRange part = slot.host_range().Intersection(range);
    visit(slot, slot.base + PageCount::FromBytes(part.start() - slot.hva), part.pages());
  }
}

}  // namespace tdp
