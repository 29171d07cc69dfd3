// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The tags of a set-associative cache of any shape, with the replacement policies of hardware.

#ifndef TDP_BACKENDS_SIM_TAG_ARRAY_H_
#define TDP_BACKENDS_SIM_TAG_ARRAY_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tdp::sim {

enum class Replacement : uint8_t {
  kLru,      // the entry that was used the longest ago goes
  kTreePlru  // a binary tree over the ways, whose nodes point away from what was used last
};

// Keeps tags and their places; values are kept by the caller, in an array of `entries()`. A tag is
// not 0. Not thread-safe.
class TagArray {
 public:
  static constexpr size_t kNone = ~size_t{0};

  // Makes an array that never holds anything.
  TagArray() = default;
  // `sets` and `ways` are any numbers from 1 up. A tree over a number of ways that is no power of
  // two gives the left half of each node the odd one.
  TagArray(size_t sets, size_t ways, Replacement replacement);

  size_t entries() const { return tags_.size(); }
  // Returns how many entries hold something.
  size_t live() const { return live_; }
  size_t ways() const { return ways_; }

  // Returns the place of `tag` in the set that `index` modulo the number of sets names, now the
  // most recently used there; kNone if it is not there.
  size_t Find(uint64_t index, uint64_t tag) {
    if (live_ == 0) return kNone;
    // The place that was touched last needs no touch.
    if (tags_[recent_] == tag) return recent_;
    const size_t first = SetOf(index) * ways_;
    for (size_t way = 0; way < ways_; ++way) {
      if (tags_[first + way] != tag) continue;
      Touch(first, way);
      return first + way;
    }
    return kNone;
  }

  // Keeps `tag` in that set, in place of itself, of nothing, or of what the policy gives up, and
  // returns its place; kNone if the array has no entries at all.
  size_t Insert(uint64_t index, uint64_t tag);

  // Returns 0 for a place that holds nothing.
  uint64_t TagAt(size_t place) const { return tags_[place]; }
  void EraseAt(size_t place) {
    if (tags_[place] != 0) --live_;
    tags_[place] = 0;
  }
  void Erase(uint64_t index, uint64_t tag);
  void Clear();

 private:
  size_t SetOf(uint64_t index) const {
    return mask_ != 0 || sets_ == 1 ? index & mask_ : index % sets_;
  }
  void Touch(size_t first, size_t way);
  size_t Victim(size_t first) const;

  size_t sets_ = 1;
  size_t ways_ = 1;
  uint64_t mask_ = 0;  // sets - 1 where that is a mask, else 0
  Replacement replacement_ = Replacement::kLru;
  uint64_t clock_ = 0;
  size_t live_ = 0;
  size_t recent_ = 0;  // the place that was touched last
  std::vector<uint64_t> tags_;
  // Has a word for each place. With LRU it says when the place was last used; with a tree, of place
  // `first + n`, whether the next victim is to the right of the node that parts the ways before n
  // from those from n on.
  std::vector<uint64_t> order_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_TAG_ARRAY_H_
