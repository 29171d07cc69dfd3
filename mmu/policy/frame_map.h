// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A value for each guest frame, kept as runs of frames that have the same.
//
// A persistent B+ tree: a change copies the nodes on the way to the ends of its range and shares
// all others with the map that it was made from, so that readers of the old map go on with the old
// values while the new one is built, and a change costs no more than the depth of the tree.

#ifndef TDP_MMU_POLICY_FRAME_MAP_H_
#define TDP_MMU_POLICY_FRAME_MAP_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/frame_range.h"

namespace tdp {

// Marks no value.
struct MarkNothing {
  template <typename T>
  constexpr bool operator()(const T&) const {
    return false;
  }
};

// The values of a map never change; a change makes another map. A lookup takes O(log n) of the
// number of runs n, and a change O(k + log n) where k runs lie in its range. `Mark` says of which
// values a map knows whether it has any.
//
// Lookups are for any number of threads. Maps that were made from one another share nodes, whose
// counts of owners are not atomic: one thread at a time copies, changes and destroys them.
template <typename T, typename Mark = MarkNothing>
class FrameMap {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(void*));

 public:
  // Makes a map that has `value` everywhere.
  explicit FrameMap(T value) : root_(NewLeaf({{Gfn(0), value}}, 0, 1)) {}
  FrameMap(const FrameMap& other) : root_(Share(other.root_)) {}
  FrameMap(FrameMap&& other) noexcept : root_(std::exchange(other.root_, nullptr)) {}
  FrameMap& operator=(FrameMap other) {
    std::swap(root_, other.root_);
    return *this;
  }
  ~FrameMap() {
    if (root_ != nullptr) Release(root_);
  }

  T At(Gfn gfn) const { return Find(gfn).value; }
  // Returns the first frame after `gfn` that has another value; the end of all frames if none has.
  Gfn EndOfRun(Gfn gfn) const { return Find(gfn).end; }
  // Returns whether all the frames of the leaf of `level` around `gfn` have one value.
  bool IsUniform(Gfn gfn, Level level) const {
    const Gfn first = gfn.AlignDown(level.pages());
    return EndOfRun(first) >= first + level.pages();
  }
  // Returns whether every frame has `value`.
  bool IsAll(const T& value) const { return runs() == 1 && root_->slots[0].value == value; }
  size_t runs() const { return root_->runs; }
  // Returns whether some frame has a value that `Mark` is true of; O(1).
  bool has_marked() const { return root_->marked; }

  // Returns this map with `change(value)` in place of each value in `range`, which is not empty.
  template <typename Change>
  FrameMap With(FrameRange range, Change change) const {
    // The runs before and behind the range are looked at too: they may become one with what is in
    // it.
    const Path left = PathTo(range.first == Gfn(0) ? Gfn(0) : range.first - PageCount(1));
    const Path right = PathTo(std::min(range.end, kEnd - PageCount(1)));
    Seam<Run> runs = RunsAround(left, right, range, change);
    runs.Fill(left, right, 0);
    std::vector<Link> links = Pack(runs.items, NewLeaf);
    for (int height = 1; height <= root_->height; ++height) {
      Seam<Link> seam = LinksAround(left, right, height, std::move(links), runs.keep);
      seam.Fill(left, right, height);
      runs.keep = seam.keep;
      links = Pack(seam.items, NewInner);
    }
    while (links.size() > 1) links = Pack(links, NewInner);
    return FrameMap(Shorten(links.front().node));
  }

 private:
  static constexpr Gfn kEnd{~uint64_t{0} >> kPageShift};
  static constexpr Gfn kUnused{~uint64_t{0}};  // greater than every frame
  static constexpr size_t kMost = 31;     // runs or children of a node, which is 512 bytes then
  static constexpr size_t kLeast = 8;     // fewer are put together with a neighbour's
  static constexpr int kMostLevels = 24;  // more than memory has room for

  struct Node;
  struct Run {
    Gfn first;
    T value;
  };
  struct Link {
    Gfn first;
    Node* node;
  };
  union Slot {
    Slot() : child(nullptr) {}

    Node* child;  // of an inner node
    T value;      // of a leaf
  };
  struct Node {
    uint64_t runs = 0;    // below, or here
    uint32_t owners = 1;  // parents and maps
    uint16_t count = 0;
    uint8_t height = 0;             // 0: a leaf
    bool marked = false;            // some value here or below is
    std::array<Gfn, kMost> firsts;  // ascending; `kUnused` behind them
    std::array<Slot, kMost> slots;

    // Returns the place of the last one that begins at or below `gfn`. It is written without a
    // branch.
    size_t IndexOf(Gfn gfn) const {
      size_t index = 0;
      for (size_t i = 1; i < kMost; ++i) index += size_t{firsts[i] <= gfn};
      return index;
    }
    Run RunAt(size_t i) const { return {firsts[i], slots[i].value}; }
    Link LinkAt(size_t i) const { return {firsts[i], slots[i].child}; }
  };
  struct Found {
    T value;
    Gfn end;
  };
  // Holds the nodes from the root to a leaf, by height.
  struct Path {
    std::array<const Node*, kMostLevels> nodes;
    std::array<size_t, kMostLevels> indexes;
  };
  // Tells which children of the two paths' nodes, one level up, stay: those below `left`, and those
  // from `right` on.
  struct Kept {
    size_t left = 0;
    size_t right = 0;
  };

  // Returns what takes the place of all that the two paths and what is between them had at one
  // height.
  template <typename Item>
  struct Seam {
    std::vector<Item> items;
    Kept keep;

    // Where there are too few, takes those of a neighbour in as well.
    void Fill(const Path& left, const Path& right, int height) {
      const auto above = static_cast<size_t>(height) + 1;
      const Node* left_parent = left.nodes[above];
      const Node* right_parent = right.nodes[above];
      keep = {left.indexes[above], right.indexes[above] + 1};
      if (items.size() >= kLeast || left_parent == nullptr) return;
      if (keep.left > 0) {
        const Node* taken = left_parent->slots[--keep.left].child;
        std::vector<Item> more;
        more.reserve(taken->count + items.size());
        for (size_t i = 0; i < taken->count; ++i) more.push_back(Take<Item>(*taken, i));
        more.insert(more.end(), items.begin(), items.end());
        items = std::move(more);
      } else if (keep.right < right_parent->count) {
        const Node* taken = right_parent->slots[keep.right++].child;
        for (size_t i = 0; i < taken->count; ++i) items.push_back(Take<Item>(*taken, i));
      }
    }
  };

  explicit FrameMap(Node* root) : root_(root) {}

  // --- Owners

  static Node* Share(Node* node) {
    ++node->owners;
    return node;
  }
  static void Release(Node* node) {
    if (--node->owners != 0) return;
    for (size_t i = 0; node->height > 0 && i < node->count; ++i) Release(node->slots[i].child);
    delete node;
  }

  // --- Looking

  Found Find(Gfn gfn) const {
    const Node* node = root_;
    Gfn end = kEnd;
    for (;;) {
      const size_t i = node->IndexOf(gfn);
      if (i + 1 < node->count) end = node->firsts[i + 1];
      if (node->height == 0) return {node->slots[i].value, end};
      node = node->slots[i].child;
    }
  }
  Path PathTo(Gfn gfn) const {
    Path path{};
    const Node* node = root_;
    for (;;) {
      const size_t i = node->IndexOf(gfn);
      path.nodes[node->height] = node;
      path.indexes[node->height] = i;
      if (node->height == 0) return path;
      node = node->slots[i].child;
    }
  }

  // --- Building

  template <typename Item>
  static Item Take(const Node& node, size_t i) {
    if constexpr (std::is_same_v<Item, Run>) {
      return node.RunAt(i);
    } else {
      Share(node.slots[i].child);
      return node.LinkAt(i);
    }
  }

  static Node* NewLeaf(const std::vector<Run>& runs, size_t first, size_t last) {
    static_assert(sizeof(Node) == 512);
    auto* node = new Node();
    for (size_t i = first; i < last; ++i) {
      node->firsts[node->count] = runs[i].first;
      node->slots[node->count++].value = runs[i].value;
      node->marked |= Mark()(runs[i].value);
    }
    node->runs = node->count;
    std::fill(node->firsts.begin() + node->count, node->firsts.end(), kUnused);
    return node;
  }
  static Node* NewInner(const std::vector<Link>& links, size_t first, size_t last) {
    auto* node = new Node();
    node->height = static_cast<uint8_t>(links[first].node->height + 1);
    for (size_t i = first; i < last; ++i) {
      const Node& child = *links[i].node;
      node->firsts[node->count] = links[i].first;
      node->slots[node->count++].child = links[i].node;
      node->marked |= child.marked;
      node->runs += child.runs;
    }
    std::fill(node->firsts.begin() + node->count, node->firsts.end(), kUnused);
    return node;
  }
  // Makes nodes of about equal size with `items`, as few as can be.
  template <typename Item, typename NewNode>
  static std::vector<Link> Pack(const std::vector<Item>& items, NewNode new_node) {
    const size_t nodes = (items.size() + kMost - 1) / kMost;
    std::vector<Link> links;
    links.reserve(nodes);
    for (size_t i = 0; i < nodes; ++i) {
      const size_t first = items.size() * i / nodes;
      links.push_back({items[first].first, new_node(items, first, items.size() * (i + 1) / nodes)});
    }
    return links;
  }
  // Takes roots with one child away: the child is the root then.
  static Node* Shorten(Node* root) {
    while (root->height > 0 && root->count == 1) {
      Node* child = Share(root->slots[0].child);
      Release(root);
      root = child;
    }
    return root;
  }

  // Returns the runs of the leaves at the ends of `range`, and what is between, after the change.
  template <typename Change>
  Seam<Run> RunsAround(const Path& left, const Path& right, FrameRange range,
                       Change& change) const {
    Seam<Run> seam;
    seam.items.reserve(2 * kMost + 2);
    const auto add = [&seam](Gfn first, const T& value) {
      if (seam.items.empty() || !(seam.items.back().value == value)) {
        seam.items.push_back({first, value});
      }
    };
    const Node& before = *left.nodes[0];
    for (size_t i = 0; i <= left.indexes[0] && before.firsts[i] < range.first; ++i) {
      add(before.firsts[i], before.slots[i].value);
    }
    for (Gfn at = range.first; at < std::min(range.end, kEnd);) {
      const Found found = Find(at);
      add(at, change(found.value));
      at = found.end;
    }
    if (range.end >= kEnd) return seam;
    const Node& behind = *right.nodes[0];
    size_t i = right.indexes[0];
    add(range.end, behind.slots[i].value);
    while (++i < behind.count) add(behind.firsts[i], behind.slots[i].value);
    return seam;
  }
  // Returns the children at `height` that stay, with `links` between them.
  Seam<Link> LinksAround(const Path& left, const Path& right, int height, std::vector<Link> links,
                         Kept keep) const {
    const Node& before = *left.nodes[static_cast<size_t>(height)];
    const Node& behind = *right.nodes[static_cast<size_t>(height)];
    Seam<Link> seam;
    seam.items.reserve(keep.left + links.size() + behind.count);
    for (size_t i = 0; i < keep.left; ++i) seam.items.push_back(Take<Link>(before, i));
    seam.items.insert(seam.items.end(), links.begin(), links.end());
    for (size_t i = keep.right; i < behind.count; ++i) {
      seam.items.push_back(Take<Link>(behind, i));
    }
    return seam;
  }

  Node* root_;
};

}  // namespace tdp

#endif  // TDP_MMU_POLICY_FRAME_MAP_H_
