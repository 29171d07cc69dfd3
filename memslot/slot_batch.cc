// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/slot_batch.h"

#include <atomic>
#include <utility>

#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/interval_tree_search.h"
#include "tdp/memslot/slot_cell.h"

namespace tdp {

using internal::IntervalCell;
using internal::IntervalRoot;
using internal::IntervalSearch;
using internal::IntervalTree;

SlotBatch::SlotBatch(SlotSet& set)
    : set_(set),
      size_(set.size_),
      total_pages_(set.total_pages_),
      private_slots_(set.private_slots_) {
  for (size_t space = 0; space < first_roots_.size(); ++space) {
    first_roots_[space] = set.GfnRoot(static_cast<AddressSpaceId>(space));
  }
  set.BeginDraft();
}

SlotBatch::~SlotBatch() {
  set_.EndDraft();
  for (internal::IntervalNode* node : first_edits_.made) set_.pool_.Give(node);
  if (is_published_) return;
  set_.DropEdits();
  for (; !undo_.empty(); undo_.pop_back()) {
    Undo& undo = undo_.back();
    SlotSet::Entry& entry = set_.by_id_[undo.slot.address_space].At(undo.slot.id);
    entry.slot = undo.slot;
    entry.state = std::move(undo.state);
  }
  set_.size_ = size_;
  set_.total_pages_ = total_pages_;
  set_.private_slots_ = private_slots_;
}

absl::Status SlotBatch::Add(const MemoryRegion& region) {
  TDP_ASSIGN_OR_RETURN(SlotUpdate update, set_.Prepare(region));
  if (update.kind() == SlotChange::kNone) return absl::OkStatus();
  TDP_RETURN_IF_ERROR(ShowFirst(update));
  const bool creates = update.kind() == SlotChange::kCreate;
  const MemorySlot slot = creates ? update.new_slot() : update.old_slot();
  spaces_ |= uint32_t{1} << slot.address_space;
  steps_.push_back({update.kind(), update.old_slot(), update.new_slot()});
  undo_.push_back({slot, nullptr});
  undo_.back().state = set_.Draft(std::move(update));
  return absl::OkStatus();
}

// Adds to what readers see first, while mappings are taken away: only slots that were there before
// the batch are in it.
absl::Status SlotBatch::ShowFirst(const SlotUpdate& update) {
  if (update.kind() == SlotChange::kCreate) return absl::OkStatus();
  const MemorySlot& old = update.old_slot();
  IntervalRoot& root = first_roots_[old.address_space];
  IntervalCell cell;
  const auto unchanged = [] { return true; };
  const bool found =
      IntervalTree::FindAtOrBelow(root, old.base.raw(), &cell, unchanged) == IntervalSearch::kFound;
  // A slot is known by its state: one that was made anew at the same place has another.
  if (!found || internal::SlotOfGfnCell(cell).state != old.state) return absl::OkStatus();
  first_spaces_ |= uint32_t{1} << old.address_space;
  if (update.takes_away()) {
    going_.push_back(internal::SlotOfGfnCell(cell));
    return absl::OkStatus();
  }
  if (!set_.pool_.Reserve(IntervalTree::NodesForEdit(root))) {
    return absl::ResourceExhaustedError("no memory for the index of memory slots");
  }
  root = set_.gfn_tree_.Replace(root, internal::GfnCellOf(update.new_slot()), &first_edits_);
  return absl::OkStatus();
}

// Roots and marks, by which readers see, go first, then the generation: `SlotSet::PublishInvalid`
// says why.
void SlotBatch::PublishFirst() {
  const auto has_first = [this](size_t space) { return (first_spaces_ >> space & 1) != 0; };
  for (size_t space = 0; space < first_roots_.size(); ++space) {
    if (!has_first(space)) continue;
    set_.spaces_[space].root.store(first_roots_[space].raw(), std::memory_order_release);
  }
  for (const MemorySlot& slot : going_) set_.MarkInvalid(slot, true);
  for (size_t space = 0; space < first_roots_.size(); ++space) {
    if (has_first(space)) set_.BeginGeneration(set_.spaces_[space]);
  }
}

void SlotBatch::Publish() {
  TDP_CHECK(!is_published_);
  is_published_ = true;
  for (size_t space = 0; space < first_roots_.size(); ++space) {
    if ((spaces_ >> space & 1) == 0) continue;
    set_.PublishGfnRoot(set_.spaces_[space], set_.draft_gfn_[space]);
  }
  if (spaces_ != 0) set_.PublishHvaRoot(set_.draft_hva_);
  set_.FinishEdits();
}

}  // namespace tdp
