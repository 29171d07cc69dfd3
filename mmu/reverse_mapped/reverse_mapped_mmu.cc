// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/reverse_mapped/reverse_mapped_mmu.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp {

RmapPlace& ReverseMappedMmu::NoPlaces::operator()(uint64_t* entry) const {
  internal::CheckFailed(__FILE__, __LINE__,
                        absl::StrFormat("two entries map one frame: the second is at %p", entry));
}

// --- Slots ---

absl::StatusOr<std::shared_ptr<SlotRmap>> ReverseMappedMmu::MakeRmap(const MemorySlot& slot) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<SlotRmap> rmap, SlotRmap::Create(slot.base, slot.pages));
  return std::shared_ptr<SlotRmap>(std::move(rmap));
}

void ReverseMappedMmu::SetRmap(uint32_t id, std::shared_ptr<SlotRmap> rmap) {
  AssertWriting();
  if (id >= rmaps_.size()) rmaps_.resize(id + 1);
  rmaps_[id] = std::move(rmap);
}

// --- Readers' side ---

// Has the shape of Linux 3.11's __direct_map: goes down to the level wanted, then sets the entry
// there.
MapResult ReverseMappedMmu::Map(const LeafRequest& request, SlotRmap& rmap, LeafMemo& memo,
                                TableCache& cache) {
  AssertInSection();
  if (memo.IsNear(request.gfn, request.level)) {
    const SlotRmap::Hold hold(rmap, request.gfn, request.level);
    if (mmu_.FillHoleNear(request.gfn, request.level, request.leaf, memo)) {
      NotePlace(memo.entry(request.gfn, request.level), hold);
      return MapResult(MapOutcome::kInstalled, request.level);
    }
  }
  Level target = request.level;
  bool flush_owed = false;
  for (;;) {
    const bool known = memo.LeadsTo(request.gfn, target, mmu_.structure());
    const auto [at, old] = known ? DirectMmu::DescendBy(memo, request.gfn, target)
                                 : mmu_.Descend(mmu_.Root(), request.gfn, target);
    Level level = std::min(at.level, request.level);
    MapOutcome outcome = MapOutcome::kRaced;
    switch (old.kind(at.level)) {
      case EntryKind::kTable:
        target = at.level.below();  // smaller pages stand here already
        continue;
      case EntryKind::kHole:
      case EntryKind::kMmio:
        outcome = SetLeaf(at, old, request, rmap, memo, cache);
        break;
      case EntryKind::kLeaf:
        if (at.level > request.level && !old.access().Covers(request.needed)) {
          // Nothing is dropped for what cannot be put in its place.
          if (cache.size() < at.level.raw() - request.level.raw()) {
            return MapResult(MapOutcome::kNeedsTables, level, flush_owed);
          }
          flush_owed |= DropLarge(at, old, request.gfn, rmap);
          continue;
        }
        level = at.level;
        outcome = mmu_.Widen(at, old, request, cache, flush_owed);
        break;
    }
    if (outcome != MapOutcome::kRaced) return MapResult(outcome, level, flush_owed);
  }
}

// Does what mmu_set_spte does where nothing stood, with the tables on the way. The lock is that of
// the leaf's level also where a link above makes it visible.
MapOutcome ReverseMappedMmu::SetLeaf(const EntryPosition& at, EptEntry old,
                                     const LeafRequest& request, SlotRmap& rmap, LeafMemo& memo,
                                     TableCache& cache) {
  const Level level = std::min(at.level, request.level);
  const SlotRmap::Hold hold(rmap, request.gfn, level);
  const MapOutcome outcome = mmu_.Install(at, old, request, memo, cache);
  if (outcome != MapOutcome::kInstalled) return outcome;
  const EntryRef leaf = at.level == level
                            ? at.entry(request.gfn)
                            : mmu_.Descend(mmu_.Root(), request.gfn, level).at.entry(request.gfn);
  NotePlace(leaf, hold);
  return outcome;
}

// Does what drop_large_spte does with `old`, which was seen at `at`. Returns whether it still was
// there. The caller moves the clock in the same section, and flushes before the guest runs on.
bool ReverseMappedMmu::DropLarge(const EntryPosition& at, EptEntry old, Gfn gfn, SlotRmap& rmap) {
  const EntryRef entry = at.entry(gfn);
  const SlotRmap::Hold hold(rmap, gfn, at.level);
  if (!entry.CompareExchange(old, mmu_.empty_entry())) return false;
  TDP_CHECK(hold.head().is_single() && hold.head().single() == entry.where());
  hold.head() = RmapHead();
  return true;
}

// --- Writer's side ---

template <typename Visit>
void ReverseMappedMmu::ForEachHead(Gfn first, Gfn end, Visit visit) const {
  for (const std::shared_ptr<SlotRmap>& rmap : rmaps_) {
    if (rmap == nullptr || rmap->end() <= first || rmap->base() >= end) continue;
    const Gfn from = std::max(first, rmap->base());
    const Gfn to = std::min(end, rmap->end());
    if (from >= to) continue;
    for (int level = 1; level <= SlotRmap::kLevels; ++level) {
      rmap->ForEach(Level(level), from, to, [&visit](Gfn, RmapHead& head) { visit(head); });
    }
  }
}

bool ReverseMappedMmu::Detach(Gfn first, Gfn end, TableCache& spare, TableList& detached) {
  AssertWriting();
  bool any = false;
  ForEachHead(first, end, [this, &any](RmapHead& head) {
    Leaves::ForEach(head,
                    [this](uint64_t* entry) { EntryRef(entry).Exchange(mmu_.empty_entry()); });
    head = RmapHead();
    any = true;
  });
  return mmu_.Detach(first, end, spare, detached) || any;
}

bool ReverseMappedMmu::WriteProtect(Gfn first, Gfn end) {
  AssertWriting();
  bool any = false;
  ForEachHead(first, end, [&any](RmapHead& head) {
    Leaves::ForEach(head, [&any](uint64_t* entry) {
      any |= EntryRef(entry).Take(EntryBits::kWrite).is_writable();
    });
  });
  return any;
}

void ReverseMappedMmu::ForgetAll() {
  ForEachHead(Gfn(0), mmu_.end(), [](RmapHead& head) { head = RmapHead(); });
}

absl::Status ReverseMappedMmu::CheckInvariants() const {
  AssertWriting();
  size_t leaves = 0;
  absl::Status status;
  mmu_.ForEach([&](TablePage* table, int index, EptEntry entry, Level level) {
    if (entry.kind(level) != EntryKind::kLeaf) return;
    ++leaves;
    const Gfn gfn = table->base + PageCount(static_cast<uint64_t>(index) * level.pages().raw());
    const auto slot = std::find_if(rmaps_.begin(), rmaps_.end(), [gfn](const auto& rmap) {
      return rmap != nullptr && gfn >= rmap->base() && gfn < rmap->end();
    });
    const RmapHead* head = slot == rmaps_.end() ? nullptr : (*slot)->Find(gfn, level);
    if (head != nullptr && head->is_single() && head->single() == table->entry(index).where()) {
      return;
    }
    status.Update(absl::InternalError(absl::StrFormat(
        "the leaf of level %d at gfn 0x%x is not in the reverse map", level.raw(), gfn.raw())));
  });
  size_t mapped = 0;
  ForEachHead(Gfn(0), mmu_.end(),
              [&mapped](const RmapHead& head) { mapped += Leaves::Count(head); });
  if (mapped != leaves) {
    status.Update(absl::InternalError(
        absl::StrFormat("the reverse map has %u entries for %u leaves", mapped, leaves)));
  }
  return status;
}

size_t ReverseMappedMmu::bytes() const {
  size_t bytes = 0;
  for (const auto& rmap : rmaps_) bytes += rmap == nullptr ? 0 : rmap->bytes();
  return bytes;
}

}  // namespace tdp
