// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/slot_plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/ordered_map.h"
#include "tdp/memslot/flat_view.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/region.h"

namespace tdp {
namespace {

// Cuts a range to whole pages of the guest.
void CutToPages(const FlatRange& range, RegionSize* start, RegionSize* end) {
  const RegionSize mask = kPageOffsetMask;
  *start = (RegionSize(range.start) + mask) & ~mask;
  *end = range.end() & ~mask;
}

uint32_t FlagsOf(const FlatRange& range) {
  const bool read_only = range.read_only || range.region->kind() != RegionKind::kRam;
  return (read_only ? kSlotReadOnly : 0) | (range.region->log_dirty() ? kSlotLogDirtyPages : 0);
}

void PlanRange(const FlatRange& range, ByteCount largest, std::vector<PlannedSlot>* slots) {
  RegionSize start;
  RegionSize end;
  CutToPages(range, &start, &end);
  while (start < end) {
    const RegionSize size = std::min<RegionSize>(end - start, largest);
    PlannedSlot slot;
    slot.gpa = Gpa(absl::Uint128Low64(start));
    slot.size = absl::Uint128Low64(size);
    slot.offset = range.offset + (slot.gpa.raw() - range.start);
    slot.hva = range.region->host() + slot.offset;
    slot.flags = FlagsOf(range);
    slot.region = range.region;
    // Memory at an odd place inside its page cannot be mapped; accesses there are exits.
    if (slot.hva.is_page_aligned()) slots->push_back(slot);
    start += size;
  }
}

// Holds what a slot must have in common with another to become it by a move or a change of flags.
using Identity = std::tuple<uintptr_t, uint64_t, ByteCount, uint32_t>;

Identity IdentityOf(const PlannedSlot& slot) {
  return {reinterpret_cast<uintptr_t>(slot.region), slot.hva.raw(), slot.size,
          slot.flags & kSlotReadOnly};
}

bool Overlap(const PlannedSlot& a, const PlannedSlot& b) {
  return a.gpa <= b.end() - 1 && b.gpa <= a.end() - 1;
}

class Planner {
 public:
  Planner(absl::Span<const PlannedSlot> old_slots, absl::Span<const PlannedSlot> new_slots)
      : old_(old_slots), new_(new_slots) {}

  std::vector<SlotStep> Plan() {
    Match();
    DeleteTheUnmatched();
    Move();
    for (size_t i : flags_) steps_.push_back({SlotStep::Kind::kFlags, partner_[i], i});
    for (size_t i : creations_) steps_.push_back({SlotStep::Kind::kCreate, 0, i});
    return steps_;
  }

 private:
  static constexpr size_t kNone = ~size_t{0};

  // Gives each new slot an old one of the same identity: the one at the same place if there is one,
  // else any.
  void Match() {
    OrderedMultimap<Identity, size_t> by_identity;
    for (size_t i = 0; i < old_.size(); ++i) by_identity.emplace(IdentityOf(old_[i]), i);
    partner_.assign(new_.size(), kNone);
    MatchWhere(by_identity,
               [](const PlannedSlot& a, const PlannedSlot& b) { return a.gpa == b.gpa; });
    MatchWhere(by_identity, [](const PlannedSlot&, const PlannedSlot&) { return true; });
    for (const auto& [identity, i] : by_identity) deletions_.push_back(i);
    std::sort(deletions_.begin(), deletions_.end());
  }

  template <typename Fits>
  void MatchWhere(OrderedMultimap<Identity, size_t>& by_identity, const Fits& fits) {
    for (size_t i = 0; i < new_.size(); ++i) {
      if (partner_[i] != kNone) continue;
      const auto [first, last] = by_identity.equal_range(IdentityOf(new_[i]));
      const auto found = std::find_if(first, last, [&](const auto& candidate) {
        return fits(old_[candidate.second], new_[i]);
      });
      if (found == last) continue;
      partner_[i] = found->second;
      by_identity.erase(found);
    }
  }

  void DeleteTheUnmatched() {
    for (size_t i : deletions_) steps_.push_back({SlotStep::Kind::kDelete, i, 0});
    for (size_t i = 0; i < new_.size(); ++i) {
      if (partner_[i] == kNone) {
        creations_.push_back(i);
      } else if (old_[partner_[i]].gpa != new_[i].gpa) {
        moves_.push_back(i);
      } else if (old_[partner_[i]].flags != new_[i].flags) {
        flags_.push_back(i);
      }
    }
  }

  // Moves slots; a move waits while its place holds a slot that has yet to leave.
  void Move() {
    while (!moves_.empty()) {
      const auto ready = std::find_if(moves_.begin(), moves_.end(), [&](size_t move) {
        return std::none_of(moves_.begin(), moves_.end(), [&](size_t other) {
          return other != move && Overlap(old_[partner_[other]], new_[move]);
        });
      });
      if (ready != moves_.end()) {
        steps_.push_back({SlotStep::Kind::kMove, partner_[*ready], *ready});
        moves_.erase(ready);
      } else {
        BreakCircle();
      }
    }
  }

  void BreakCircle() {
    const size_t i = moves_.front();
    moves_.erase(moves_.begin());
    steps_.insert(steps_.begin(), {SlotStep::Kind::kDelete, partner_[i], 0});
    creations_.push_back(i);
  }

  absl::Span<const PlannedSlot> old_;
  absl::Span<const PlannedSlot> new_;
  std::vector<size_t> partner_;  // of each new slot, or kNone
  std::vector<size_t> deletions_;
  std::vector<size_t> moves_;
  std::vector<size_t> flags_;
  std::vector<size_t> creations_;
  std::vector<SlotStep> steps_;
};

}  // namespace

std::vector<PlannedSlot> PlanSlots(absl::Span<const FlatRange> view, const SlotPlanLimits& limits) {
  std::vector<PlannedSlot> slots;
  const PageCount largest =
      std::clamp(limits.largest_slot, PageCount(1), SlotPlanLimits().largest_slot);
  for (const FlatRange& range : view) {
    if (range.region->is_memory()) PlanRange(range, largest.bytes(), &slots);
  }
  return slots;
}

std::vector<SlotStep> PlanSteps(absl::Span<const PlannedSlot> old_slots,
                                absl::Span<const PlannedSlot> new_slots) {
  return Planner(old_slots, new_slots).Plan();
}

}  // namespace tdp
