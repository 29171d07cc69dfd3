// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/region_slots.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/ordered_map.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_plan.h"

namespace tdp {
namespace {

// Adds the pages of a slot's word to those of its region, where they may straddle two words.
void AddPages(uint64_t first_page, uint64_t mask, OrderedMap<uint64_t, uint64_t>* pages) {
  const uint64_t shift = first_page % DirtyLog::kPagesPerWord;
  const uint64_t base = first_page - shift;
  if (const uint64_t low = mask << shift; low != 0) (*pages)[base] |= low;
  if (shift == 0) return;
  if (const uint64_t high = mask >> (DirtyLog::kPagesPerWord - shift); high != 0) {
    (*pages)[base + DirtyLog::kPagesPerWord] |= high;
  }
}

}  // namespace

RegionSlots::RegionSlots(RegionTree* tree, const Region* root, GuestMemory* memory,
                         AddressSpaceId address_space, const SlotPlanLimits& limits)
    : tree_(tree), root_(root), memory_(memory), address_space_(address_space), limits_(limits) {
  tree_->AddListener(this);
}

RegionSlots::~RegionSlots() { tree_->RemoveListener(this); }

absl::Status RegionSlots::OnRegionsChanged() {
  view_ = Flatten(*root_);
  const std::vector<PlannedSlot> wanted = PlanSlots(view_, limits_);
  const std::vector<Applied> before = applied_;
  std::vector<PlannedSlot> present;
  present.reserve(before.size());
  for (const Applied& applied : before) present.push_back(applied.slot);
  for (const SlotStep& step : PlanSteps(present, wanted)) {
    TDP_RETURN_IF_ERROR(Take(step, before, wanted));
  }
  ForgetBeyondEnds();
  return absl::OkStatus();
}

absl::Status RegionSlots::Take(const SlotStep& step, const std::vector<Applied>& old_slots,
                               const std::vector<PlannedSlot>& new_slots) {
  const bool creates = step.kind == SlotStep::Kind::kCreate;
  const bool deletes = step.kind == SlotStep::Kind::kDelete;
  const uint32_t id = creates ? LowestFreeId() : old_slots[step.old_slot].id;
  const PlannedSlot& slot = deletes ? old_slots[step.old_slot].slot : new_slots[step.new_slot];
  if (observer_) observer_(step.kind, id, slot);
  const absl::Status taken = deletes ? Delete(old_slots[step.old_slot]) : Put(id, slot);
  if (taken.ok()) return taken;
  return absl::Status(taken.code(), absl::StrCat(slot.region->Path(), ": ", taken.message()));
}

absl::Status RegionSlots::Delete(const Applied& old) {
  TDP_RETURN_IF_ERROR(memory_->DeleteSlot(
      old.id, [&](uint64_t base, uint64_t mask) { SavePages(old.slot, base, mask); },
      address_space_));
  // `old` may be one of them.
  const uint32_t id = old.id;
  std::erase_if(applied_, [&](const Applied& applied) { return applied.id == id; });
  return absl::OkStatus();
}

absl::Status RegionSlots::Put(uint32_t id, const PlannedSlot& slot) {
  const auto present = std::find_if(applied_.begin(), applied_.end(),
                                    [&](const Applied& applied) { return applied.id == id; });
  // Switching the log off drops it. In rings the entries stay.
  if (present != applied_.end() && (slot.flags & kSlotLogDirtyPages) == 0) {
    const absl::Status saved = SaveDirty(*present);
    if (!saved.ok() && !absl::IsFailedPrecondition(saved)) return saved;
  }
  TDP_RETURN_IF_ERROR(memory_->SetMemoryRegion({.slot = id,
                                                .address_space = address_space_,
                                                .flags = slot.flags,
                                                .gpa = slot.gpa,
                                                .size = slot.size,
                                                .hva = slot.hva}));
  if (present != applied_.end()) applied_.erase(present);
  const auto at =
      std::partition_point(applied_.begin(), applied_.end(),
                           [&](const Applied& applied) { return applied.slot.gpa < slot.gpa; });
  applied_.insert(at, Applied{id, slot});
  return absl::OkStatus();
}

void RegionSlots::SavePages(const PlannedSlot& slot, uint64_t base, uint64_t mask) {
  AddPages((slot.offset >> kPageShift) + base, mask, &saved_[slot.region]);
}

absl::Status RegionSlots::SaveDirty(const Applied& old) {
  if ((old.slot.flags & kSlotLogDirtyPages) == 0) return absl::OkStatus();
  std::vector<std::pair<uint64_t, uint64_t>> words;
  TDP_RETURN_IF_ERROR(memory_->GetDirtyLog(
      old.id,
      [&](uint64_t base, uint64_t mask) {
        SavePages(old.slot, base, mask);
        words.emplace_back(base, mask);
      },
      address_space_));
  return ClearTaken(old, words);
}

// With manual protection what was shown is still dirty. Without it there is nothing to clear: a
// page that was written again meanwhile is among those that the caller has still to look at.
absl::Status RegionSlots::ClearTaken(const Applied& slot,
                                     absl::Span<const std::pair<uint64_t, uint64_t>> words) {
  constexpr uint64_t kPages = 1024 * DirtyLog::kPagesPerWord;  // in one call, at most
  const uint64_t slot_pages = slot.slot.size >> kPageShift;
  while (!words.empty()) {
    const uint64_t first = words.front().first;
    std::vector<uint64_t> bits;
    while (!words.empty() && words.front().first - first < kPages) {
      bits.resize((words.front().first - first) / DirtyLog::kPagesPerWord);
      bits.push_back(words.front().second);
      words.remove_prefix(1);
    }
    const DirtyLogRange range{first,
                              std::min(bits.size() * DirtyLog::kPagesPerWord, slot_pages - first)};
    TDP_RETURN_IF_ERROR(memory_->ClearDirtyLog(slot.id, range, bits, address_space_));
  }
  return absl::OkStatus();
}

// A region may have become shorter. Were its pages kept, they would show when it grows again.
void RegionSlots::ForgetBeyondEnds() {
  for (auto& [region, pages] : saved_) {
    const RegionSize page_size = kPageSize;
    const RegionSize end = (region->size() + page_size - 1) / page_size;
    for (auto at = pages.begin(); at != pages.end();) {
      const RegionSize left = RegionSize(at->first) < end ? end - at->first : 0;
      if (left < DirtyLog::kPagesPerWord) {
        at->second &= (uint64_t{1} << absl::Uint128Low64(left)) - 1;
      }
      at = at->second == 0 ? pages.erase(at) : std::next(at);
    }
  }
}

uint32_t RegionSlots::LowestFreeId() const {
  std::vector<bool> used(applied_.size() + 1);
  for (const Applied& applied : applied_) {
    if (applied.id < used.size()) used[applied.id] = true;
  }
  return static_cast<uint32_t>(std::find(used.begin(), used.end(), false) - used.begin());
}

absl::Status RegionSlots::TakeDirty(const Region& region, DirtyPageVisitor visit) {
  for (const Applied& applied : applied_) {
    if (applied.slot.region == &region) TDP_RETURN_IF_ERROR(SaveDirty(applied));
  }
  ForgetBeyondEnds();
  const auto saved = saved_.find(&region);
  if (saved == saved_.end()) return absl::OkStatus();
  for (const auto& [base, mask] : saved->second) visit(base, mask);
  saved_.erase(saved);
  return absl::OkStatus();
}

}  // namespace tdp
