// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/slot_plan.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/numeric/int128.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
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

// Matches, orders and breaks circles in O(n log n) for n slots: a guest that moves one bridge's
// window moves every slot behind it.
class Planner {
 public:
  Planner(absl::Span<const PlannedSlot> old_slots, absl::Span<const PlannedSlot> new_slots)
      : old_(old_slots), new_(new_slots) {}

  std::vector<SlotStep> Plan() {
    Match();
    Sort();
    FindBlockers();
    Move();
    std::vector<SlotStep> steps;
    for (size_t i : deletions_) steps.push_back({SlotStep::Kind::kDelete, i, 0});
    for (size_t i : moves_) steps.push_back({SlotStep::Kind::kMove, partner_[i], i});
    for (size_t i : flags_) steps.push_back({SlotStep::Kind::kFlags, partner_[i], i});
    for (size_t i : creations_) steps.push_back({SlotStep::Kind::kCreate, 0, i});
    return steps;
  }

 private:
  static constexpr size_t kNone = ~size_t{0};

  // A slot that is to move. Movers are named by their index in `movers_`.
  struct Mover {
    size_t slot = 0;              // in the new list
    size_t blockers = 0;          // movers in its place that have yet to leave
    std::vector<size_t> waiting;  // movers whose places it is in
    bool has_left = false;
  };

  // Gives each new slot an old one of the same identity: the one at the same place if there is one,
  // else any.
  void Match() {
    const std::vector<size_t> olds = ByIdentity(old_);
    const std::vector<size_t> news = ByIdentity(new_);
    partner_.assign(new_.size(), kNone);
    is_kept_.assign(old_.size(), false);
    MatchSorted(olds, news,
                [](const PlannedSlot& slot) { return std::pair(IdentityOf(slot), slot.gpa); });
    MatchSorted(olds, news, IdentityOf);
  }

  static std::vector<size_t> ByIdentity(absl::Span<const PlannedSlot> slots) {
    std::vector<size_t> order(slots.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return std::tuple(IdentityOf(slots[a]), slots[a].gpa, a) <
             std::tuple(IdentityOf(slots[b]), slots[b].gpa, b);
    });
    return order;
  }

  // Pairs those that have no partner yet and one key. Both lists ascend by it.
  template <typename KeyOf>
  void MatchSorted(const std::vector<size_t>& olds, const std::vector<size_t>& news,
                   const KeyOf& key_of) {
    auto old = olds.begin();
    for (const size_t i : news) {
      if (partner_[i] != kNone) continue;
      const auto key = key_of(new_[i]);
      while (old != olds.end() && (is_kept_[*old] || key_of(old_[*old]) < key)) ++old;
      if (old == olds.end() || key < key_of(old_[*old])) continue;
      partner_[i] = *old;
      is_kept_[*old] = true;
    }
  }

  // Says what becomes of each slot, but for the order of the moves.
  void Sort() {
    for (size_t i = 0; i < old_.size(); ++i) {
      if (!is_kept_[i]) deletions_.push_back(i);
    }
    for (size_t i = 0; i < new_.size(); ++i) {
      if (partner_[i] == kNone) {
        creations_.push_back(i);
      } else if (old_[partner_[i]].gpa != new_[i].gpa) {
        movers_.push_back({.slot = i, .waiting = {}});
      } else if (old_[partner_[i]].flags != new_[i].flags) {
        flags_.push_back(i);
      }
    }
  }

  const PlannedSlot& OldOf(const Mover& mover) const { return old_[partner_[mover.slot]]; }

  // Slots of one list do not overlap each other, so those in the place of a new one are neighbours
  // among the old ones, and all of these pairs are no more than the slots of both lists.
  void FindBlockers() {
    std::vector<size_t> by_old_place(movers_.size());
    for (size_t i = 0; i < movers_.size(); ++i) by_old_place[i] = i;
    std::sort(by_old_place.begin(), by_old_place.end(),
              [&](size_t a, size_t b) { return OldOf(movers_[a]).gpa < OldOf(movers_[b]).gpa; });
    for (size_t i = 0; i < movers_.size(); ++i) {
      const PlannedSlot& place = new_[movers_[i].slot];
      auto at = std::partition_point(by_old_place.begin(), by_old_place.end(), [&](size_t other) {
        return OldOf(movers_[other]).end() - 1 < place.gpa;
      });
      for (; at != by_old_place.end() && Overlap(OldOf(movers_[*at]), place); ++at) {
        if (*at == i) continue;
        movers_[*at].waiting.push_back(i);
        ++movers_[i].blockers;
      }
    }
  }

  // Moves slots; a move waits while its place holds a slot that has yet to leave. Where each waits
  // for another, one is deleted first and created last.
  void Move() {
    for (size_t i = 0; i < movers_.size(); ++i) {
      if (movers_[i].blockers == 0) ready_.push_back(i);
    }
    MoveTheReady();
    for (Mover& mover : movers_) {
      if (mover.has_left) continue;
      deletions_.push_back(partner_[mover.slot]);
      creations_.push_back(mover.slot);
      Leave(mover);
      MoveTheReady();
    }
  }

  void MoveTheReady() {
    while (!ready_.empty()) {
      Mover& mover = movers_[ready_.back()];
      ready_.pop_back();
      if (mover.has_left) continue;
      moves_.push_back(mover.slot);
      Leave(mover);
    }
  }

  void Leave(Mover& mover) {
    mover.has_left = true;
    for (const size_t i : mover.waiting) {
      if (--movers_[i].blockers == 0) ready_.push_back(i);
    }
  }

  absl::Span<const PlannedSlot> old_;
  absl::Span<const PlannedSlot> new_;
  std::vector<size_t> partner_;  // of each new slot, or kNone
  std::vector<bool> is_kept_;    // of each old slot: it is a partner
  std::vector<Mover> movers_;
  std::vector<size_t> ready_;  // movers whose places are empty
  std::vector<size_t> deletions_;
  std::vector<size_t> moves_;
  std::vector<size_t> flags_;
  std::vector<size_t> creations_;
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
