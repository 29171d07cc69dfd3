// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A persistent B+ tree of intervals: an edit copies the nodes from the root to one leaf and leaves
// the old tree as it was, so that readers of the old root see the old intervals.
//
// Nodes are wide (up to 20 children or 15 cells in eight cache lines): 32764 slots are four levels
// deep, and the search of a node is a run of independent compares without a branch. Inner nodes
// know the greatest end below them, which makes the tree an interval tree (Cormen et al., 14.3):
// intervals may overlap, and those that meet a range are found in O(log n) each.
//
// A node that an edit replaced may be filled again while a reader still looks at it. So a reader
// brings `unchanged`, a predicate that says whether its tree is still the published one, and
// everything that is read is asked for again before it is used. The writer needs none.

#ifndef TDP_MEMSLOT_INTERVAL_TREE_H_
#define TDP_MEMSLOT_INTERVAL_TREE_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/interval_node.h"

namespace tdp::internal {

// One interval with what the user stores beside it. Keys are unique and order the cells. The low 32
// bits of `words[0]` are the interval's length. `key >> shift` of the tree is where it begins, but
// for the `fine` low bits of that, which are the top bits of `words[1]`: so keys may be short of
// bits and stay in order, up to those that are missing.
struct IntervalCell {
  uint64_t key = 0;
  uint64_t words[3] = {};

  uint64_t length() const { return words[0] & 0xffffffff; }
};

// The root of a tree in one word: the address of the node and, in the bits that its alignment
// leaves free, the number of inner levels. Zero is the empty tree.
class IntervalRoot {
 public:
  static constexpr int kMaxInnerLevels = alignof(IntervalNode) - 1;

  constexpr IntervalRoot() = default;
  constexpr explicit IntervalRoot(uint64_t raw) : raw_(raw) {}
  IntervalRoot(IntervalNode* node, int inner_levels)
      : raw_(reinterpret_cast<uintptr_t>(node) | static_cast<unsigned>(inner_levels)) {}

  constexpr uint64_t raw() const { return raw_; }
  constexpr bool is_empty() const { return raw_ == 0; }
  IntervalNode* node() const { return reinterpret_cast<IntervalNode*>(raw_ & ~kLevelMask); }
  constexpr int inner_levels() const { return static_cast<int>(raw_ & kLevelMask); }

  friend constexpr bool operator==(IntervalRoot, IntervalRoot) = default;

 private:
  static constexpr uint64_t kLevelMask = alignof(IntervalNode) - 1;

  uint64_t raw_ = 0;
};

// Tells where a node keeps what. Unused keys hold `kNoKey`, which is greater than every key.
struct IntervalLayout {
  static constexpr size_t kLeafCapacity = 15;
  static constexpr size_t kInnerCapacity = 20;
  static constexpr size_t kCount = 0;  // word 0: number of cells or children
  static constexpr size_t kKeys = 1;
  static constexpr size_t kGroup = 4;                          // keys are searched four at a time
  static constexpr size_t kCells = kKeys + kLeafCapacity + 1;  // leaf: three words each
  static constexpr size_t kEnds = kKeys + kInnerCapacity;   // inner: greatest end below each child
  static constexpr size_t kNodes = kEnds + kInnerCapacity;  // inner: the children
  static constexpr uint64_t kNoKey = ~uint64_t{0};

  // Word `n` of cell `i`: the first words of all cells, then the second, then the third.
  static constexpr size_t CellWord(size_t i, size_t n) { return kCells + n * kLeafCapacity + i; }

  // A leaf has one key more than cells, which stays `kNoKey`, to make whole groups.
  static_assert((kLeafCapacity + 1) % kGroup == 0 && kInnerCapacity % kGroup == 0);
  static_assert(kCells + 3 * kLeafCapacity <= IntervalNode::kWords);
  static_assert(kNodes + kInnerCapacity <= IntervalNode::kWords);
};

enum class IntervalSearch { kFound, kAbsent, kChanged };

// Nodes that a sequence of edits made, and those of older trees that it made superfluous. A node
// that one edit made and a later one replaced stands in both.
struct IntervalEdits {
  std::vector<IntervalNode*> made;
  std::vector<IntervalNode*> replaced;
};

class IntervalTree {
 public:
  using Cell = IntervalCell;
  using Layout = IntervalLayout;

  // `pool` outlives the tree. `key_shift`: how far the begin of an interval stands above bit 0 of
  // keys; `fine_bits`, below 64: how many of its low bits are not in the key.
  IntervalTree(IntervalNodePool* pool, int key_shift, int fine_bits = 0)
      : pool_(pool), key_shift_(key_shift), fine_bits_(fine_bits) {}

  // Returns how many nodes to reserve in the pool for one edit of the tree of `root`.
  static int NodesForEdit(IntervalRoot root) { return 2 * (root.inner_levels() + 1) + 1; }

  // Each returns the root of a new tree and adds to `edits`; the caller has reserved the nodes. The
  // key must be absent for `Insert` and present for the others.
  IntervalRoot Insert(IntervalRoot root, const Cell& cell, IntervalEdits* edits) const;
  IntervalRoot Replace(IntervalRoot root, const Cell& cell, IntervalEdits* edits) const;
  IntervalRoot Remove(IntervalRoot root, uint64_t key, IntervalEdits* edits) const;

  // Stores the first word of the cell at `key`, which is there, in place: readers of this tree see
  // it at once. The length in it stays.
  static void StoreFirstWord(IntervalRoot root, uint64_t key, uint64_t value);

  // Finds the cell with the greatest key that is not above `key`.
  template <typename Unchanged>
  static IntervalSearch FindAtOrBelow(IntervalRoot root, uint64_t key, Cell* cell,
                                      const Unchanged& unchanged);

  // Finds the cell with the smallest key, at least `min_key`, whose interval meets [begin, end).
  template <typename Unchanged>
  IntervalSearch FindOverlap(IntervalRoot root, uint64_t begin, uint64_t end, uint64_t min_key,
                             Cell* cell, const Unchanged& unchanged) const {
    if (root.is_empty()) return IntervalSearch::kAbsent;
    return FindOverlapBelow(root.node(), root.inner_levels(), Range{begin, end, min_key}, cell,
                            unchanged);
  }

  // Calls `visit(cell)` for every cell whose interval meets [begin, end), by ascending key. For the
  // writer.
  template <typename Visit>
  void ForEachOverlap(IntervalRoot root, uint64_t begin, uint64_t end, const Visit& visit) const;

  // --- Inside of a node ---

  // Returns the place of the last of `kKeyCount` ascending keys that is at most `key`, or of the
  // first if none is: looks for the group first, then in the group. No branch depends on the keys.
  template <size_t kKeyCount>
  static size_t Locate(const IntervalNode& node, uint64_t key) {
    return static_cast<size_t>(LocateKey<kKeyCount>(node, key) - &node.words[Layout::kKeys]);
  }

  static Cell LoadCell(const IntervalNode& node, size_t i) {
    return {node.Load(Layout::kKeys + i),
            {node.Load(Layout::CellWord(i, 0)), node.Load(Layout::CellWord(i, 1)),
             node.Load(Layout::CellWord(i, 2))}};
  }

  uint64_t BeginOf(const Cell& cell) const {
    return LeastBegin(cell.key) | cell.words[1] >> 1 >> (63 - fine_bits_);
  }
  uint64_t EndOf(const Cell& cell) const { return BeginOf(cell) + cell.length(); }

 private:
  struct Range {
    uint64_t begin;
    uint64_t end;
    uint64_t min_key;
  };

  using Word = Atomic<uint64_t>;

  // Returns the word of the key that `Locate` is about. The other words of a cell or child are as
  // far from it as those of the first are from the first key, so a search needs no index.
  template <size_t kKeyCount>
  ABSL_ATTRIBUTE_ALWAYS_INLINE static const Word* LocateKey(const IntervalNode& node,
                                                            uint64_t key) {
    constexpr size_t kGroup = Layout::kGroup;
    const Word* const group =
        &node.words[Layout::kKeys] +
        kGroup * CountAtOrBelow<kGroup>(&node.words[Layout::kKeys + kGroup], key,
                                        std::make_index_sequence<kKeyCount / kGroup - 1>());
    return group + CountAtOrBelow<1>(group + 1, key, std::make_index_sequence<kGroup - 1>());
  }

  // Returns how many of the keys at `from`, `from + kStep`, ... are at most `key`. Written out,
  // since compilers keep small loops over atomics.
  template <size_t kStep, size_t... kIndex>
  ABSL_ATTRIBUTE_ALWAYS_INLINE static size_t CountAtOrBelow(const Word* from, uint64_t key,
                                                            std::index_sequence<kIndex...>) {
    size_t count = 0;
    ((count += static_cast<size_t>(from[kStep * kIndex].load(std::memory_order_acquire) <= key)),
     ...);
    return count;
  }

  static Cell LoadCellAt(const Word* key) {
    const auto word = [key](size_t n) {
      return key[Layout::CellWord(0, n) - Layout::kKeys].load(std::memory_order_acquire);
    };
    return {key->load(std::memory_order_acquire), {word(0), word(1), word(2)}};
  }
  static const IntervalNode* LoadChildAt(const Word* key) {
    return reinterpret_cast<const IntervalNode*>(
        key[Layout::kNodes - Layout::kKeys].load(std::memory_order_acquire));
  }
  static const IntervalNode* LoadChild(const IntervalNode& node, size_t i) {
    return reinterpret_cast<const IntervalNode*>(node.Load(Layout::kNodes + i));
  }

  template <typename Unchanged>
  IntervalSearch FindOverlapBelow(const IntervalNode* node, int inner_levels, const Range& range,
                                  Cell* cell, const Unchanged& unchanged) const;
  template <typename Visit>
  void ForEachOverlapBelow(const IntervalNode& node, int inner_levels, uint64_t begin, uint64_t end,
                           const Visit& visit) const;
  template <typename Unchanged>
  IntervalSearch FindOverlapInLeaf(const IntervalNode& node, const Range& range, Cell* cell,
                                   const Unchanged& unchanged) const;

  // Returns where an interval with this key, or a greater one, may begin at the earliest.
  uint64_t LeastBegin(uint64_t key) const { return key >> key_shift_ << fine_bits_; }

  IntervalNodePool* pool_;
  int key_shift_;
  int fine_bits_;
};

}  // namespace tdp::internal

#endif  // TDP_MEMSLOT_INTERVAL_TREE_H_
