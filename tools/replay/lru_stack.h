// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Mattson's stack: for each use of a page, how many other pages were used since its last one. A
// fully associative LRU cache of n entries hits where that is less than n, for every n at once
// (Mattson et al., "Evaluation Techniques for Storage Hierarchies", IBM Systems Journal 1970; the
// tree is Bennett and Kruskal's, "LRU Stack Processing", 1975).

#ifndef TDP_TOOLS_REPLAY_LRU_STACK_H_
#define TDP_TOOLS_REPLAY_LRU_STACK_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace tdp::tools {

class LruStack {
 public:
  static constexpr uint64_t kNew = ~uint64_t{0};

  // The number of other pages that were touched since `page` was; kNew at its first touch. It is on
  // top afterwards. Takes time in the logarithm of the number of pages, less near the top.
  uint64_t Touch(uint64_t page) {
    // Looks for the page and moves those before it down in one go.
    uint64_t moved = page;
    for (size_t i = 0; i < top_size_; ++i) {
      std::swap(moved, top_[i]);
      if (moved == page) return i;
    }
    return TouchDeep(page, moved);
  }

  // Puts `page`, one of the two on top, on top.
  void RaiseNext(uint64_t page) {
    if (top_[0] != page) std::swap(top_[0], top_[1]);
  }

  size_t pages() const { return top_size_ + place_.size(); }

 private:
  // Pages near the top stand in an array, in their order; the others in a tree over the times of
  // their last use, which counts those of a range.
  static constexpr size_t kTop = 32;

  uint64_t TouchDeep(uint64_t page, uint64_t last);
  void PushDown(uint64_t page);
  void Add(size_t time, uint32_t by);
  uint64_t CountUntil(size_t time) const;
  void Renumber();

  std::array<uint64_t, kTop> top_{};
  size_t top_size_ = 0;
  absl::flat_hash_map<uint64_t, size_t> place_;  // time of the page in the tree, from 1
  std::vector<uint32_t> tree_;                   // Fenwick: [i] counts a range that ends at i
  std::vector<uint64_t> page_at_;                // by time
  size_t now_ = 0;                               // the last time given out
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_LRU_STACK_H_
