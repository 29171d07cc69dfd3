// SPDX-License-Identifier: Apache-2.0
//
// A set-associative cache with true LRU replacement: the shape of every TLB and paging-structure
// cache of the model.

#ifndef TDP_BACKENDS_SIM_ASSOC_CACHE_H_
#define TDP_BACKENDS_SIM_ASSOC_CACHE_H_

#include <bit>
#include <cstdint>
#include <vector>

#include "absl/base/optimization.h"
#include "tdp/base/check.h"

namespace tdp::sim {

struct CacheGeometry {
  int sets = 0;  // a power of two, or 0: no cache
  int ways = 1;  // 1 to 16

  int entries() const { return sets * ways; }
  friend bool operator==(const CacheGeometry&, const CacheGeometry&) = default;
};

// `Value` is what is kept; `Note` is kept beside it once `EnableNotes` was called, and costs
// nothing before. Tags are not 0; the set follows from their low bits.
template <typename Value, typename Note>
class AssocCache {
 public:
  AssocCache() { Configure({}); }

  // Empties the cache and gives it a new shape.
  void Configure(CacheGeometry geometry) {
    TDP_CHECK(geometry.sets == 0 || std::has_single_bit(static_cast<unsigned>(geometry.sets)));
    TDP_CHECK(geometry.ways >= 1 && geometry.ways <= 16);
    geometry_ = geometry;
    // A cache of no entries is one that never matches, so that a lookup needs no branch for it.
    const int sets = geometry.sets == 0 ? 1 : geometry.sets;
    ways_ = geometry.sets == 0 ? 1 : geometry.ways;
    set_mask_ = static_cast<uint64_t>(sets) - 1;
    tags_.assign(static_cast<size_t>(sets) * ways_, 0);
    values_.assign(tags_.size(), Value());
    if (!notes_.empty()) notes_.assign(tags_.size(), Note());
    order_.assign(sets, kIdentityOrder);
    live_ = 0;
  }

  CacheGeometry geometry() const { return geometry_; }
  int live() const { return live_; }
  void EnableNotes() {
    if (notes_.size() != tags_.size()) notes_.assign(tags_.size(), Note());
  }

  // The value under `tag`, now the most recently used of its set; null if there is none.
  Value* Find(uint64_t tag) {
    const uint64_t set = tag & set_mask_;
    const uint64_t* tags = &tags_[set * ways_];
    const unsigned newest = order_[set] & 15;
    if (ABSL_PREDICT_TRUE(tags[newest] == tag)) return &values_[set * ways_ + newest];
    return FindOlder(tag, set);
  }

  // The value kept under `tag`, which was not there, in place of an unused or the oldest one.
  Value* Insert(uint64_t tag, const Value& value) {
    if (geometry_.sets == 0) return nullptr;
    const uint64_t set = tag & set_mask_;
    uint64_t* tags = &tags_[set * ways_];
    unsigned way = order_[set] >> 4 * (ways_ - 1) & 15;
    for (unsigned i = 0; i < static_cast<unsigned>(ways_); ++i) {
      if (tags[i] == 0) {
        way = i;
        break;
      }
    }
    if (tags[way] == 0) ++live_;
    tags[way] = tag;
    Touch(set, way);
    Value& slot = values_[set * ways_ + way];
    slot = value;
    return &slot;
  }

  // The note beside a value that `Find` or `Insert` returned. Notes are enabled.
  Note& NoteOf(const Value* value) { return notes_[value - values_.data()]; }

  void Erase(uint64_t tag) {
    const uint64_t first = (tag & set_mask_) * ways_;
    for (uint64_t i = first; i < first + ways_; ++i) {
      if (tags_[i] == tag) Drop(i);
    }
  }

  // Drops every entry for which `predicate(tag, value)` holds.
  template <typename Predicate>
  void EraseIf(Predicate predicate) {
    if (live_ == 0) return;
    for (size_t i = 0; i < tags_.size(); ++i) {
      if (tags_[i] != 0 && predicate(tags_[i], values_[i])) Drop(i);
    }
  }

  void Clear() {
    if (live_ == 0) return;
    tags_.assign(tags_.size(), 0);
    live_ = 0;
  }

  // Calls `visit(tag, value)` for every entry.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (size_t i = 0; i < tags_.size(); ++i) {
      if (tags_[i] != 0) visit(tags_[i], values_[i]);
    }
  }

 private:
  // Sixteen way numbers, the most recently used in the lowest nibble.
  static constexpr uint64_t kIdentityOrder = 0xfedcba9876543210;

  Value* FindOlder(uint64_t tag, uint64_t set) {
    const uint64_t* tags = &tags_[set * ways_];
    for (unsigned way = 0; way < static_cast<unsigned>(ways_); ++way) {
      if (tags[way] == tag) {
        Touch(set, way);
        return &values_[set * ways_ + way];
      }
    }
    return nullptr;
  }

  // Moves `way` to the front of the order; the nibbles before its old place move back by one.
  void Touch(uint64_t set, unsigned way) {
    constexpr uint64_t kOnes = 0x1111111111111111;
    const uint64_t order = order_[set];
    // Find the nibble equal to `way`: the lowest zero nibble of the difference.
    const uint64_t difference = order ^ kOnes * way;
    const uint64_t zeros = (difference - kOnes) & ~difference & kOnes << 3;
    const int place = std::countr_zero(zeros) / 4;
    const uint64_t before = place == 0 ? 0 : ~uint64_t{0} >> (64 - 4 * place);
    const uint64_t through = before << 4 | 15;
    order_[set] = (order & ~through) | (order & before) << 4 | way;
  }

  void Drop(uint64_t index) {
    tags_[index] = 0;
    --live_;
  }

  CacheGeometry geometry_;
  int ways_ = 1;
  int live_ = 0;
  uint64_t set_mask_ = 0;
  std::vector<uint64_t> tags_;
  std::vector<uint64_t> order_;
  std::vector<Value> values_;
  std::vector<Note> notes_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_ASSOC_CACHE_H_
