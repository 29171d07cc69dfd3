// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/slot_set.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/index.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/interval_tree_search.h"
#include "tdp/memslot/large_page_permits.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_cell.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {
namespace {

using internal::GfnCellOf;
using internal::HvaCellOf;
using internal::IntervalCell;
using internal::IntervalEdits;
using internal::IntervalRoot;
using internal::IntervalSearch;
using internal::IntervalTree;

// Answers a search of the writer's whether its tree is unchanged: nothing changes it meanwhile.
constexpr auto kUnchanged = [] { return true; };

MemorySlot SlotOf(const MemoryRegion& region) {
  // `CheckRequest` has seen that no bit is beyond these.
  return {.id = region.slot & 0xffff,
          .address_space = static_cast<AddressSpaceId>(region.address_space & 0xff),
          .flags = region.flags & 0x7f,
          .base = Gfn::Of(region.gpa),
          .pages = PageCount::FromBytes(region.size),
          .hva = (region.flags & kSlotHostFrames) != 0 ? Hva(region.hpa.raw()) : region.hva};
}

SlotBacking BackingOf(const MemoryRegion& region) {
  SlotBacking backing;
  backing.rights = region.rights;
  backing.memory_type = region.memory_type;
  backing.cookie = region.cookie;
  if ((region.flags & kSlotPrivateMemory) != 0) backing.private_hva = region.private_hva;
  return backing;
}

absl::Status DiffersError(const char* field, uint64_t old_value, uint64_t new_value, uint32_t id) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s = 0x%x: slot %d has 0x%x there, which only deleting it can change", field,
                      new_value, id, old_value));
}

}  // namespace

SlotSet::SlotSet(const SlotLimits& limits)
    : limits_(limits),
      gfn_tree_(&pool_, 0),
      hva_tree_(&pool_, internal::kHvaKeyShift, internal::kHvaFineBits) {
  // Each address space counts in steps of their number from its own start, so values never meet.
  for (int i = 0; i < limits.address_spaces; ++i) {
    spaces_[AsIndex(i)].generation.store(static_cast<uint64_t>(i), std::memory_order_release);
  }
}

absl::StatusOr<SlotUpdate> SlotSet::Prepare(const MemoryRegion& region) {
  TDP_RETURN_IF_ERROR(CheckRequest(region, limits_));
  const Entry* const old = FindEntry(region.address_space, region.slot);
  if (region.size == 0) return PrepareDelete(region, old);
  if (old == nullptr) return PrepareCreate(region);
  return PrepareChange(region, *old);
}

absl::StatusOr<SlotUpdate> SlotSet::PrepareDelete(const MemoryRegion& region, const Entry* old) {
  if (old == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrFormat("slot = %d: deleted, but there is no such slot in address space %d",
                        region.slot, region.address_space));
  }
  SlotUpdate update(this, SlotChange::kDelete);
  update.old_slot_ = old->slot;
  TDP_RETURN_IF_ERROR(BuildTrees(&update));
  return update;
}

absl::StatusOr<SlotUpdate> SlotSet::PrepareCreate(const MemoryRegion& region) {
  SlotUpdate update(this, SlotChange::kCreate);
  update.new_slot_ = SlotOf(region);
  if (update.new_slot_.pages > limits_.total_pages - total_pages_) {
    return absl::InvalidArgumentError(
        absl::StrFormat("size = 0x%x: the slots have %d of %d pages already", region.size,
                        total_pages_.raw(), limits_.total_pages.raw()));
  }
  TDP_RETURN_IF_ERROR(CheckPlace(region));
  TDP_RETURN_IF_ERROR(AddNewState(&update, nullptr, BackingOf(region)));
  TDP_RETURN_IF_ERROR(BuildTrees(&update));
  return update;
}

absl::StatusOr<SlotUpdate> SlotSet::PrepareChange(const MemoryRegion& region, const Entry& old) {
  const MemorySlot& was = old.slot;
  if (((region.flags | was.flags) & kSlotPrivateMemory) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "flags = 0x%x: slot %d is there, and one with private memory is only made or deleted",
        region.flags, was.id));
  }
  if (((region.flags ^ was.flags) & kSlotHostFrames) != 0) {
    return DiffersError("flags", was.flags, region.flags, was.id);
  }
  const MemorySlot wanted = SlotOf(region);
  if (wanted.hva != was.hva) {
    return DiffersError(was.has_host_frames() ? "hpa" : "hva", was.hva.raw(), wanted.hva.raw(),
                        was.id);
  }
  const SlotBacking& backing = old.state->backing();
  if (region.rights != backing.rights) {
    return DiffersError("rights", backing.rights.raw(), region.rights.raw(), was.id);
  }
  if (region.memory_type != backing.memory_type) {
    return DiffersError("memory_type", static_cast<uint64_t>(backing.memory_type),
                        static_cast<uint64_t>(region.memory_type), was.id);
  }
  if (region.cookie != backing.cookie) {
    return DiffersError("cookie", backing.cookie, region.cookie, was.id);
  }
  if (region.size != was.pages.bytes()) {
    return DiffersError("size", was.pages.bytes(), region.size, was.id);
  }
  if (((region.flags ^ was.flags) & kSlotReadOnly) != 0) {
    return DiffersError("flags", was.flags, region.flags, was.id);
  }
  const bool moves = Gfn::Of(region.gpa) != was.base;
  if (!moves && region.flags == was.flags) return SlotUpdate(this, SlotChange::kNone);
  if (moves) TDP_RETURN_IF_ERROR(CheckPlace(region));
  SlotUpdate update(this, moves ? SlotChange::kMove : SlotChange::kFlagsOnly);
  update.old_slot_ = was;
  update.new_slot_ = wanted;
  TDP_RETURN_IF_ERROR(AddNewState(&update, &old, backing));
  TDP_RETURN_IF_ERROR(BuildTrees(&update));
  return update;
}

// Looks for a slot in the way. Slots do not overlap, so the last one that begins before the end of
// the range is the only one, but for the moving slot itself, that can reach into it.
absl::Status SlotSet::CheckPlace(const MemoryRegion& region) const {
  const Gfn base = Gfn::Of(region.gpa);
  const Gfn end = base + PageCount::FromBytes(region.size);
  const IntervalRoot root = DraftGfnRoot(region.address_space);
  IntervalCell cell;
  uint64_t below = end.raw();
  while (IntervalTree::FindAtOrBelow(root, below - 1, &cell, kUnchanged) ==
         IntervalSearch::kFound) {
    if (cell.key + cell.length() <= base.raw()) break;
    const MemorySlot other = internal::SlotOfGfnCell(cell);
    if (other.id != region.slot) {
      return absl::AlreadyExistsError(absl::StrFormat(
          "gpa = 0x%x, size = 0x%x: overlaps slot %d at 0x%x to 0x%x", region.gpa.raw(),
          region.size, other.id, other.base.address().raw(), other.end().address().raw()));
    }
    if (cell.key == 0) break;
    below = cell.key;
  }
  if (end > limits_.gfn_end()) {
    if (limits_.max_physical_address_bits < limits_.guest_physical_address_bits) {
      return absl::InvalidArgumentError(
          absl::StrFormat("gpa = 0x%x, size = 0x%x: beyond the CPU's MAXPHYADDR of %d bits",
                          region.gpa.raw(), region.size, limits_.max_physical_address_bits));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("gpa = 0x%x, size = 0x%x: beyond the guest's %d physical address bits",
                        region.gpa.raw(), region.size, limits_.guest_physical_address_bits));
  }
  return absl::OkStatus();
}

// A move keeps the dirty log and makes new permits, which depend on the place; a change of flags
// keeps the permits. A log that is switched on is new.
absl::Status SlotSet::AddNewState(SlotUpdate* update, const Entry* old,
                                  const SlotBacking& backing) const {
  MemorySlot& slot = update->new_slot_;
  std::shared_ptr<DirtyLog> log;
  if (slot.logs_dirty_pages()) {
    if (old != nullptr) log = old->state->shared_log();
    if (log == nullptr) {
      TDP_ASSIGN_OR_RETURN(
          log, DirtyLog::Create(slot.pages, dirty_bitmap_policy_ == DirtyBitmapPolicy::kAllDirty
                                                ? DirtyLog::Initial::kAllDirty
                                                : DirtyLog::Initial::kClean));
    }
  }
  std::shared_ptr<LargePagePermits> permits;
  if (update->kind_ == SlotChange::kFlagsOnly) {
    permits = old->state->shared_permits();
  } else {
    permits = std::make_shared<LargePagePermits>(slot.base, slot.pages, slot.hva);
  }
  update->new_state_ =
      std::make_unique<SlotState>(std::move(permits), std::move(log), backing,
                                  dirty_bitmap_policy_ == DirtyBitmapPolicy::kRings);
  slot.state = update->new_state_.get();
  return absl::OkStatus();
}

bool SlotSet::ReserveNodes(SlotUpdate* update) {
  const MemorySlot& slot = update->takes_away() ? update->old_slot_ : update->new_slot_;
  // At most two edits by gfn (remove, insert) and one by hva; a tree grows by a level at most in
  // each.
  const int by_gfn = IntervalTree::NodesForEdit(DraftGfnRoot(slot.address_space)) + 4;
  const int by_hva = IntervalTree::NodesForEdit(DraftHvaRoot()) + 4;
  const int nodes = 2 * by_gfn + by_hva;
  edits_.made.reserve(edits_.made.size() + AsIndex(nodes));
  edits_.replaced.reserve(edits_.replaced.size() + AsIndex(nodes));
  return pool_.Reserve(nodes);
}

absl::Status SlotSet::BuildTrees(SlotUpdate* update) {
  const bool creates = update->kind_ == SlotChange::kCreate;
  const MemorySlot& old_slot = update->old_slot_;
  const MemorySlot& new_slot = update->new_slot_;
  if (!ReserveNodes(update) || (creates && !by_id_[new_slot.address_space].Reserve(new_slot.id))) {
    return absl::ResourceExhaustedError("no memory for the index of memory slots");
  }
  IntervalEdits* const edits = &edits_;
  const bool has_hva = !(creates ? new_slot : old_slot).has_host_frames();
  IntervalRoot gfn_root = DraftGfnRoot(creates ? new_slot.address_space : old_slot.address_space);
  IntervalRoot hva_root = DraftHvaRoot();
  if (update->takes_away()) gfn_root = gfn_tree_.Remove(gfn_root, old_slot.base.raw(), edits);
  switch (update->kind_) {
    case SlotChange::kNone:
      break;
    case SlotChange::kDelete:
      if (has_hva) hva_root = hva_tree_.Remove(hva_root, internal::HvaKeyOf(old_slot), edits);
      break;
    case SlotChange::kCreate:
      gfn_root = gfn_tree_.Insert(gfn_root, GfnCellOf(new_slot), edits);
      if (has_hva) hva_root = hva_tree_.Insert(hva_root, HvaCellOf(new_slot), edits);
      break;
    case SlotChange::kMove:
      gfn_root = gfn_tree_.Insert(gfn_root, GfnCellOf(new_slot), edits);
      if (has_hva) hva_root = hva_tree_.Replace(hva_root, HvaCellOf(new_slot), edits);
      break;
    case SlotChange::kFlagsOnly:
      gfn_root = gfn_tree_.Replace(gfn_root, GfnCellOf(new_slot), edits);
      if (has_hva) hva_root = hva_tree_.Replace(hva_root, HvaCellOf(new_slot), edits);
      break;
  }
  update->gfn_root_ = gfn_root;
  update->hva_root_ = hva_root;
  return absl::OkStatus();
}

void SlotSet::BeginGeneration(Space& space) {
  const uint64_t generation = space.generation.load(std::memory_order_relaxed);
  space.generation.store(generation | kSlotUpdateInProgress, std::memory_order_release);
}

void SlotSet::EndGeneration(Space& space) {
  const uint64_t generation = space.generation.load(std::memory_order_relaxed);
  const uint64_t next = (generation & ~kSlotUpdateInProgress) + AsIndex(limits_.address_spaces);
  space.generation.store(next, std::memory_order_release);
}

void SlotSet::MarkInvalid(const MemorySlot& slot, bool invalid) {
  MemorySlot marked = slot;
  marked.invalid = invalid;
  IntervalTree::StoreFirstWord(GfnRoot(slot.address_space), slot.base.raw(),
                               internal::PackSlot(marked));
}

// The mark goes first: a reader that finds the new generation finds the mark too. The other way
// round, it could keep a valid slot under the new generation.
void SlotSet::PublishInvalid(SlotUpdate& update) {
  TDP_CHECK(update.set_ == this && update.takes_away() && !update.invalid_published_);
  MarkInvalid(update.old_slot_, true);
  BeginGeneration(spaces_[update.old_slot_.address_space]);
  update.invalid_published_ = true;
}

std::unique_ptr<SlotState> SlotSet::Publish(SlotUpdate&& update) {
  TDP_CHECK(update.set_ == this);
  update.set_ = nullptr;
  if (update.kind_ == SlotChange::kNone) return nullptr;
  const bool deletes = update.kind_ == SlotChange::kDelete;
  Space& space = spaces_[(deletes ? update.old_slot_ : update.new_slot_).address_space];
  PublishGfnRoot(space, update.gfn_root_);
  PublishHvaRoot(update.hva_root_);
  FinishEdits();
  return ExchangeEntry(update);
}

void SlotSet::PublishGfnRoot(Space& space, IntervalRoot root) {
  BeginGeneration(space);
  space.root.store(root.raw(), std::memory_order_release);
  EndGeneration(space);
}

void SlotSet::PublishHvaRoot(IntervalRoot root) {
  alone_ = HostRange();
  hva_root_.store(root.raw(), std::memory_order_release);
  hva_version_.store(hva_version_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
}

// Lets the old nodes be filled again. It comes last: whoever still reads them finds that the
// generation or the version has moved.
void SlotSet::FinishEdits() {
  for (internal::IntervalNode* node : edits_.replaced) pool_.Give(node);
  ForgetEdits();
}

void SlotSet::DropEdits() {
  for (internal::IntervalNode* node : edits_.made) pool_.Give(node);
  ForgetEdits();
}

void SlotSet::BeginDraft() {
  TDP_CHECK(!has_draft_);
  for (size_t i = 0; i < draft_gfn_.size(); ++i) {
    draft_gfn_[i] = GfnRoot(static_cast<AddressSpaceId>(i));
  }
  draft_hva_ = HvaRoot();
  has_draft_ = true;
}

std::unique_ptr<SlotState> SlotSet::Draft(SlotUpdate&& update) {
  TDP_CHECK(has_draft_ && update.set_ == this);
  update.set_ = nullptr;
  const bool deletes = update.kind_ == SlotChange::kDelete;
  draft_gfn_[(deletes ? update.old_slot_ : update.new_slot_).address_space] = update.gfn_root_;
  draft_hva_ = update.hva_root_;
  return ExchangeEntry(update);
}

std::unique_ptr<SlotState> SlotSet::ExchangeEntry(SlotUpdate& update) {
  std::unique_ptr<SlotState> retired = std::move(update.new_state_);
  const MemorySlot& old_slot = update.old_slot_;
  const MemorySlot& new_slot = update.new_slot_;
  total_pages_ = total_pages_ - old_slot.pages + new_slot.pages;
  if (update.kind_ == SlotChange::kDelete) {
    std::swap(by_id_[old_slot.address_space].At(old_slot.id).state, retired);
    if (retired->private_hva()) --private_slots_;
    --size_;
    return retired;
  }
  Entry& entry = by_id_[new_slot.address_space].At(new_slot.id);
  entry.slot = new_slot;
  std::swap(entry.state, retired);
  if (update.kind_ != SlotChange::kCreate) return retired;
  ++size_;
  if (entry.state->private_hva()) ++private_slots_;
  return retired;
}

void SlotSet::Abandon(SlotUpdate& update) {
  update.set_ = nullptr;
  if (update.invalid_published_) {
    MarkInvalid(update.old_slot_, false);
    EndGeneration(spaces_[update.old_slot_.address_space]);
  }
  if (!has_draft_) DropEdits();
}

std::optional<MemorySlot> SlotSet::FindById(AddressSpaceId address_space, uint32_t id) const {
  if (id >= limits_.slots || address_space >= limits_.address_spaces) return std::nullopt;
  const Entry* const entry = FindEntry(address_space, id);
  if (entry == nullptr) return std::nullopt;
  return entry->slot;
}

std::optional<MemorySlot> SlotSet::FindByGfn(AddressSpaceId address_space, Gfn gfn) const {
  IntervalCell cell;
  if (IntervalTree::FindAtOrBelow(GfnRoot(address_space), gfn.raw(), &cell, kUnchanged) !=
      IntervalSearch::kFound) {
    return std::nullopt;
  }
  const MemorySlot slot = internal::SlotOfGfnCell(cell);
  if (!slot.Contains(gfn)) return std::nullopt;
  return slot;
}

void SlotSet::ForEach(AddressSpaceId address_space,
                      absl::FunctionRef<void(const MemorySlot&)> visit) const {
  gfn_tree_.ForEachOverlap(GfnRoot(address_space), 0, limits_.gfn_end().raw(),
                           [&](const IntervalCell& cell) { visit(internal::SlotOfGfnCell(cell)); });
}

void SlotSet::SearchHostRange(HostRange range, HostVisitor visit) {
  MemorySlot slot;
  hva_tree_.ForEachOverlap(
      HvaRoot(), range.first_page(), range.end_page(), [&](const IntervalCell& cell) {
        slot = internal::SlotOfHvaCell(cell);
        const HostRange part = slot.host_range().Intersection(range);
        visit(slot, slot.base + PageCount::FromBytes(part.start() - slot.hva), part.pages());
      });
  if (ABSL_PREDICT_FALSE(private_slots_ != 0)) {
    ForEachPrivateInHostRange(range, visit);
  } else if (slot.host_range().Contains(range)) {
    NoteIfAlone(slot);
  }
}

// Slots may share host memory: where one does, each range is searched for.
void SlotSet::NoteIfAlone(const MemorySlot& slot) {
  const HostRange all = slot.host_range();
  size_t slots = 0;
  hva_tree_.ForEachOverlap(HvaRoot(), all.first_page(), all.end_page(),
                           [&](const IntervalCell&) { ++slots; });
  if (slots != 1) return;
  alone_ = all;
  alone_slot_ = slot;
}

void SlotSet::ForEachPrivateInHostRange(HostRange range, HostVisitor visit) const {
  const auto visit_entry = [&](const Entry& entry) {
    const std::optional<Hva> start = entry.state->private_hva();
    if (!start) return;
    const HostRange part = HostRange(*start, entry.slot.pages.bytes()).Intersection(range);
    if (part.is_empty()) return;
    visit(entry.slot, entry.slot.base + PageCount::FromBytes(part.start() - *start), part.pages());
  };
  for (const SlotIndex& slots : by_id_) slots.ForEach(visit_entry);
}

size_t SlotSet::bytes() const {
  size_t bytes = sizeof(*this) + pool_.nodes() * sizeof(internal::IntervalNode);
  for (const SlotIndex& slots : by_id_) {
    bytes += slots.bytes();
    slots.ForEach([&](const Entry& entry) { bytes += entry.state->bytes(); });
  }
  return bytes;
}

absl::Status SlotSet::CheckInvariants() const {
  size_t in_tree = 0;
  size_t with_hva = 0;
  absl::Status status;
  for (int space = 0; space < limits_.address_spaces; ++space) {
    Gfn end;
    ForEach(static_cast<AddressSpaceId>(space), [&](const MemorySlot& slot) {
      ++in_tree;
      if (!slot.has_host_frames()) ++with_hva;
      const Entry* const entry = FindEntry(slot.address_space, slot.id);
      if (entry == nullptr || entry->slot != slot || entry->state.get() != slot.state) {
        status =
            absl::InternalError(absl::StrFormat("slot %d differs between its indexes", slot.id));
      }
      if (slot.base < end) {
        status = absl::InternalError(absl::StrFormat("slot %d overlaps the one below", slot.id));
      }
      end = slot.end();
    });
  }
  size_t by_hva = 0;
  hva_tree_.ForEachOverlap(HvaRoot(), 0, ~uint64_t{0}, [&](const IntervalCell& cell) {
    ++by_hva;
    const MemorySlot slot = internal::SlotOfHvaCell(cell);
    const Entry* const entry = FindEntry(slot.address_space, slot.id);
    if (entry == nullptr || entry->slot != slot) {
      status = absl::InternalError(absl::StrFormat("slot %d differs in the index by hva", slot.id));
    }
  });
  if (in_tree != size_ || by_hva != with_hva) {
    status = absl::InternalError(absl::StrFormat("%d slots by id, %d by gfn, %d of %d by hva",
                                                 size_, in_tree, by_hva, with_hva));
  }
  return status;
}

}  // namespace tdp
