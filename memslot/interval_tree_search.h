// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The searches of an interval tree, for those who call them.

#ifndef TDP_MEMSLOT_INTERVAL_TREE_SEARCH_H_
#define TDP_MEMSLOT_INTERVAL_TREE_SEARCH_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/base/attributes.h"
#include "tdp/memslot/interval_tree.h"

namespace tdp::internal {

template <typename Unchanged>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline IntervalSearch IntervalTree::FindAtOrBelow(
    IntervalRoot root, uint64_t key, Cell* cell, const Unchanged& unchanged) {
  if (root.is_empty()) return IntervalSearch::kAbsent;
  key = std::min(key, Layout::kNoKey - 1);
  const IntervalNode* node = root.node();
  for (int level = root.inner_levels(); level > 0; --level) {
    const IntervalNode* child = LoadChildAt(LocateKey<Layout::kInnerCapacity>(*node, key));
    if (!unchanged()) return IntervalSearch::kChanged;
    node = child;
  }
  *cell = LoadCellAt(LocateKey<Layout::kLeafCapacity + 1>(*node, key));
  if (!unchanged()) return IntervalSearch::kChanged;
  return cell->key <= key ? IntervalSearch::kFound : IntervalSearch::kAbsent;
}

template <typename Unchanged>
IntervalSearch IntervalTree::FindOverlapBelow(const IntervalNode* node, int inner_levels,
                                              const Range& range, Cell* cell,
                                              const Unchanged& unchanged) const {
  if (inner_levels == 0) return FindOverlapInLeaf(*node, range, cell, unchanged);
  // The last child that begins at or below `min_key` may hold it; those before it cannot.
  const size_t first = Locate<Layout::kInnerCapacity>(*node, range.min_key);
  for (size_t i = first; i < Layout::kInnerCapacity; ++i) {
    const uint64_t key = node->Load(Layout::kKeys + i);
    const uint64_t last_end = node->Load(Layout::kEnds + i);
    const IntervalNode* child = LoadChild(*node, i);
    if (!unchanged()) return IntervalSearch::kChanged;
    if (key == Layout::kNoKey || LeastBegin(key) >= range.end) break;
    if (last_end <= range.begin) continue;
    const IntervalSearch found = FindOverlapBelow(child, inner_levels - 1, range, cell, unchanged);
    if (found != IntervalSearch::kAbsent) return found;
  }
  return IntervalSearch::kAbsent;
}

template <typename Unchanged>
IntervalSearch IntervalTree::FindOverlapInLeaf(const IntervalNode& node, const Range& range,
                                               Cell* cell, const Unchanged& unchanged) const {
  for (size_t i = 0; i < Layout::kLeafCapacity; ++i) {
    const Cell candidate = LoadCell(node, i);
    if (!unchanged()) return IntervalSearch::kChanged;
    if (candidate.key == Layout::kNoKey || LeastBegin(candidate.key) >= range.end) break;
    const uint64_t begin = BeginOf(candidate);
    if (candidate.key < range.min_key || begin >= range.end) continue;
    if (begin + candidate.length() <= range.begin) continue;
    *cell = candidate;
    return IntervalSearch::kFound;
  }
  return IntervalSearch::kAbsent;
}

template <typename Visit>
void IntervalTree::ForEachOverlap(IntervalRoot root, uint64_t begin, uint64_t end,
                                  const Visit& visit) const {
  if (root.is_empty()) return;
  ForEachOverlapBelow(*root.node(), root.inner_levels(), begin, end, visit);
}

template <typename Visit>
void IntervalTree::ForEachOverlapBelow(const IntervalNode& node, int inner_levels, uint64_t begin,
                                       uint64_t end, const Visit& visit) const {
  const size_t capacity = inner_levels == 0 ? Layout::kLeafCapacity : Layout::kInnerCapacity;
  for (size_t i = 0; i < capacity; ++i) {
    const uint64_t key = node.Load(Layout::kKeys + i);
    if (key == Layout::kNoKey || LeastBegin(key) >= end) break;
    if (inner_levels > 0) {
      if (node.Load(Layout::kEnds + i) <= begin) continue;
      ForEachOverlapBelow(*LoadChild(node, i), inner_levels - 1, begin, end, visit);
    } else if (const Cell cell = LoadCell(node, i); BeginOf(cell) < end && EndOf(cell) > begin) {
      visit(cell);
    }
  }
}

}  // namespace tdp::internal

#endif  // TDP_MEMSLOT_INTERVAL_TREE_SEARCH_H_
