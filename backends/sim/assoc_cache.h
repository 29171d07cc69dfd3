// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A set-associative cache with true LRU replacement: the shape of every TLB and paging-structure
// cache of the model.

#ifndef TDP_BACKENDS_SIM_ASSOC_CACHE_H_
#define TDP_BACKENDS_SIM_ASSOC_CACHE_H_

#include <bit>
#include <cstdint>
#include <vector>

#include "absl/base/optimization.h"
#include "tdp/backends/sim/tag_array.h"
#include "tdp/base/check.h"
#include "tdp/base/index.h"

namespace tdp::sim {

struct CacheGeometry {
  int sets = 0;  // 0: no cache
  int ways = 1;  // from 1 up

  int entries() const { return sets * ways; }
  friend bool operator==(const CacheGeometry&, const CacheGeometry&) = default;
};

// `Value` is what is kept; `Note` is kept beside it once `EnableNotes` was called, and costs
// nothing before. Tags are not 0; the set follows from their low bits. A power of two of sets and
// up to 16 ways are quick; every other shape is kept in a `TagArray` and takes the longer way.
template <typename Value, typename Note>
class AssocCache {
 public:
  AssocCache() { Configure({}); }

  // Empties the cache and gives it a new shape.
  void Configure(CacheGeometry geometry) {
    TDP_CHECK(geometry.sets >= 0 && geometry.ways >= 1);
    geometry_ = geometry;
    is_odd_ = geometry.sets != 0 && (geometry.ways > kQuickWays ||
                                     !std::has_single_bit(static_cast<unsigned>(geometry.sets)));
    odd_ = is_odd_ ? TagArray(AsIndex(geometry.sets), AsIndex(geometry.ways), Replacement::kLru)
                   : TagArray();
    // A cache of no entries is one that never matches, so that a lookup needs no branch for it; one
    // of an odd shape too, and what is behind the first compare looks further.
    const bool quick = geometry.sets != 0 && !is_odd_;
    const size_t sets = quick ? AsIndex(geometry.sets) : 1;
    ways_ = quick ? AsIndex(geometry.ways) : 1;
    set_mask_ = sets - 1;
    sets_.assign(sets * (ways_ + 1), 0);
    for (size_t set = 0; set < sets; ++set) sets_[set * (ways_ + 1)] = kIdentityOrder;
    values_.assign(is_odd_ ? odd_.entries() : sets * ways_, Value());
    if (!notes_.empty()) notes_.assign(values_.size(), Note());
    live_ = 0;
  }

  CacheGeometry geometry() const { return geometry_; }
  int live() const { return live_; }
  void EnableNotes() {
    if (notes_.size() != values_.size()) notes_.assign(values_.size(), Note());
  }

  // Returns the value under `tag`, now the most recently used of its set; null if there is none.
  Value* Find(uint64_t tag) {
    const uint64_t set = tag & set_mask_;
    const uint64_t* block = &sets_[set * (ways_ + 1)];
    const uint64_t newest = block[0] & 15;
    if (ABSL_PREDICT_TRUE(block[1 + newest] == tag)) return &values_[set * ways_ + newest];
    return FindOlder(tag, set);
  }

  // Returns the same, but null unless it is the newest of its set already: then `Find` changes
  // nothing, until another tag of the set is found or kept. Always null in a shape that is not
  // quick.
  const Value* FindNewest(uint64_t tag) const {
    const uint64_t set = tag & set_mask_;
    const uint64_t* block = &sets_[set * (ways_ + 1)];
    const uint64_t newest = block[0] & 15;
    return block[1 + newest] == tag ? &values_[set * ways_ + newest] : nullptr;
  }
  // Returns whether `FindNewest` ever finds anything.
  bool keeps_order() const { return geometry_.sets != 0 && !is_odd_; }
  // The bits of a tag that say its set: two tags that differ in none share one.
  uint64_t set_mask() const { return set_mask_; }

  // Keeps `value` under `tag`, in place of what was there, of nothing, or of the oldest of the set.
  // Null if the cache has no entries at all.
  Value* Insert(uint64_t tag, const Value& value) {
    if (geometry_.sets == 0) return nullptr;
    if (is_odd_) return InsertOdd(tag, value);
    const uint64_t set = tag & set_mask_;
    uint64_t* block = &sets_[set * (ways_ + 1)];
    const uint64_t way = WayFor(tag, block);
    if (block[1 + way] == 0) ++live_;
    block[1 + way] = tag;
    Touch(block, way);
    Value& slot = values_[set * ways_ + way];
    slot = value;
    return &slot;
  }

  // Returns the note beside a value that `Find` or `Insert` returned. Notes are enabled.
  Note& NoteOf(const Value* value) { return notes_[static_cast<size_t>(value - values_.data())]; }

  void Erase(uint64_t tag) {
    if (is_odd_) {
      odd_.Erase(tag & kIndexMask, tag);
      live_ = static_cast<int>(odd_.live());
      return;
    }
    uint64_t* block = &sets_[(tag & set_mask_) * (ways_ + 1)];
    for (uint64_t way = 0; way < ways_; ++way) {
      if (block[1 + way] == tag) Drop(block[1 + way]);
    }
  }

  // Drops every entry for which `predicate(tag, value)` holds.
  template <typename Predicate>
  void EraseIf(Predicate predicate) {
    if (live_ == 0) return;
    if (is_odd_) {
      EraseOddIf(predicate);
      return;
    }
    ForEachSlot([&](uint64_t& tag, const Value& value) {
      if (predicate(tag, value)) Drop(tag);
    });
  }

  void Clear() {
    EraseIf([](uint64_t, const Value&) { return true; });
  }

  // Calls `visit(tag, value)` for every entry.
  template <typename Visit>
  void ForEach(Visit visit) {
    for (size_t place = 0; is_odd_ && place < odd_.entries(); ++place) {
      if (odd_.TagAt(place) != 0) visit(odd_.TagAt(place), values_[place]);
    }
    ForEachSlot([&](uint64_t& tag, const Value& value) { visit(tag, value); });
  }

 private:
  static constexpr int kQuickWays = 16;
  // The part of a tag that chooses the set: the page number, whatever the context before it.
  static constexpr uint64_t kIndexMask = (uint64_t{1} << 45) - 1;

  Value* FindOdd(uint64_t tag) {
    const size_t place = odd_.Find(tag & kIndexMask, tag);
    return place == TagArray::kNone ? nullptr : &values_[place];
  }
  Value* InsertOdd(uint64_t tag, const Value& value) {
    Value& slot = values_[odd_.Insert(tag & kIndexMask, tag)];
    live_ = static_cast<int>(odd_.live());
    slot = value;
    return &slot;
  }
  template <typename Predicate>
  void EraseOddIf(Predicate predicate) {
    for (size_t place = 0; place < odd_.entries(); ++place) {
      const uint64_t tag = odd_.TagAt(place);
      if (tag != 0 && predicate(tag, values_[place])) odd_.EraseAt(place);
    }
    live_ = static_cast<int>(odd_.live());
  }

  // Sixteen way numbers, the most recently used in the lowest nibble.
  static constexpr uint64_t kIdentityOrder = 0xfedcba9876543210;

  template <typename Visit>
  void ForEachSlot(Visit visit) {
    const Value* value = values_.data();
    for (size_t first = 0; first < sets_.size(); first += ways_ + 1) {
      for (uint64_t way = 0; way < ways_; ++way, ++value) {
        if (sets_[first + 1 + way] != 0) visit(sets_[first + 1 + way], *value);
      }
    }
  }

  Value* FindOlder(uint64_t tag, uint64_t set) {
    if (is_odd_) return FindOdd(tag);
    uint64_t* block = &sets_[set * (ways_ + 1)];
    for (uint64_t way = 0; way < ways_; ++way) {
      if (block[1 + way] == tag) {
        Touch(block, way);
        return &values_[set * ways_ + way];
      }
    }
    return nullptr;
  }

  uint64_t WayFor(uint64_t tag, const uint64_t* block) const {
    uint64_t unused = ways_;
    for (uint64_t way = 0; way < ways_; ++way) {
      if (block[1 + way] == tag) return way;
      if (block[1 + way] == 0 && unused == ways_) unused = way;
    }
    return unused != ways_ ? unused : block[0] >> 4 * (ways_ - 1) & 15;
  }

  // Moves `way` to the front of the order; the nibbles before its old place move back by one.
  static void Touch(uint64_t* block, uint64_t way) {
    constexpr uint64_t kOnes = 0x1111111111111111;
    const uint64_t order = block[0];
    // Find the nibble equal to `way`: the lowest zero nibble of the difference.
    const uint64_t difference = order ^ kOnes * way;
    const uint64_t zeros = (difference - kOnes) & ~difference & kOnes << 3;
    const int place = std::countr_zero(zeros) / 4;
    const uint64_t before = place == 0 ? 0 : ~uint64_t{0} >> (64 - 4 * place);
    const uint64_t through = before << 4 | 15;
    block[0] = (order & ~through) | (order & before) << 4 | way;
  }

  void Drop(uint64_t& tag) {
    tag = 0;
    --live_;
  }

  CacheGeometry geometry_;
  uint64_t ways_ = 1;
  uint64_t set_mask_ = 0;
  int live_ = 0;
  // Block after block: the order of a set, then the tags of its ways; tag 0 is an unused way.
  std::vector<uint64_t> sets_;
  std::vector<Value> values_;
  std::vector<Note> notes_;
  bool is_odd_ = false;  // of a shape that `odd_` keeps in place of `sets_`
  TagArray odd_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_ASSOC_CACHE_H_
