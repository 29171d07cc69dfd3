// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/interval_tree.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "tdp/base/check.h"
#include "tdp/memslot/interval_node.h"

namespace tdp::internal {
namespace {

using Layout = IntervalLayout;

// A child as its parent knows it.
struct Child {
  uint64_t key = 0;  // the smallest key below
  uint64_t end = 0;  // the greatest end below
  IntervalNode* node = nullptr;
};

// A node unpacked, with room for one entry too many.
template <typename Entry, int kCapacity>
struct Unpacked {
  static constexpr int kMax = kCapacity;
  static constexpr int kKeys = (kCapacity + Layout::kGroup - 1) / Layout::kGroup * Layout::kGroup;

  // The entry with the greatest key not above `key`, or -1.
  int Find(uint64_t key) const {
    int i = count;
    while (i > 0 && entries[i - 1].key > key) --i;
    return i - 1;
  }
  void InsertAt(int at, const Entry& entry) {
    std::copy_backward(entries + at, entries + count, entries + count + 1);
    entries[at] = entry;
    ++count;
  }
  void RemoveAt(int at) {
    std::copy(entries + at + 1, entries + count, entries + at);
    --count;
  }

  int count = 0;
  Entry entries[kCapacity + 1];
};

using Leaf = Unpacked<IntervalCell, Layout::kLeafCapacity>;
using Inner = Unpacked<Child, Layout::kInnerCapacity>;

void Unpack(const IntervalNode& node, Leaf* leaf) {
  leaf->count = static_cast<int>(node.Load(Layout::kCount));
  for (int i = 0; i < leaf->count; ++i) {
    leaf->entries[i] = {node.Load(Layout::kKeys + i),
                        {node.Load(Layout::CellWord(i, 0)), node.Load(Layout::CellWord(i, 1)),
                         node.Load(Layout::CellWord(i, 2))}};
  }
}

void Unpack(const IntervalNode& node, Inner* inner) {
  inner->count = static_cast<int>(node.Load(Layout::kCount));
  for (int i = 0; i < inner->count; ++i) {
    inner->entries[i] = {node.Load(Layout::kKeys + i), node.Load(Layout::kEnds + i),
                         reinterpret_cast<IntervalNode*>(node.Load(Layout::kNodes + i))};
  }
}

void StoreEntry(const IntervalCell& cell, size_t i, IntervalNode* node) {
  node->Store(Layout::kKeys + i, cell.key);
  for (size_t word = 0; word < 3; ++word) node->Store(Layout::CellWord(i, word), cell.words[word]);
}

void StoreEntry(const Child& child, size_t i, IntervalNode* node) {
  node->Store(Layout::kKeys + i, child.key);
  node->Store(Layout::kEnds + i, child.end);
  node->Store(Layout::kNodes + i, reinterpret_cast<uintptr_t>(child.node));
}

// One edit: path copying from the leaf up.
class Editor {
 public:
  Editor(IntervalNodePool* pool, const IntervalTree& tree, IntervalEdits* edits)
      : pool_(pool), tree_(tree), edits_(edits) {}

  // The nodes that take the place of an edited one: none if it is empty now, two if it was split.
  struct Result {
    int count = 0;
    Child children[2];
  };

  // `edit_leaf(Leaf*)` edits the leaf that holds `key` or would hold it.
  Result Edit(IntervalNode* node, int inner_levels, uint64_t key,
              absl::FunctionRef<void(Leaf*)> edit_leaf) {
    edits_->replaced.push_back(node);
    if (inner_levels == 0) {
      Leaf leaf;
      Unpack(*node, &leaf);
      edit_leaf(&leaf);
      return Pack(leaf, key);
    }
    const size_t at = ChildFor(*node, key);
    const Result below = Edit(ChildAt(*node, at), inner_levels - 1, key, edit_leaf);
    if (below.count == 1 && !IsSmall(below.children[0], inner_levels - 1)) {
      return {1, {CopyWithChild(*node, at, below.children[0])}};
    }
    Inner inner;
    Unpack(*node, &inner);
    ReplaceChild(static_cast<int>(at), below, &inner);
    if (below.count == 1) MergeSmall(static_cast<int>(at), inner_levels - 1, &inner);
    return Pack(inner, key);
  }

  // The root of a tree of one cell.
  IntervalRoot MakeLeafRoot(const IntervalCell& cell) {
    Leaf leaf;
    leaf.InsertAt(0, cell);
    return IntervalRoot(PackRange(leaf, 0, 1).node, 0);
  }

  // A root above `top`, which the edit of the old root returned.
  IntervalRoot MakeRoot(const Result& top, int inner_levels) {
    if (top.count == 0) return IntervalRoot();
    if (top.count == 1) return Shorten(top.children[0].node, inner_levels);
    Inner inner;
    inner.InsertAt(0, top.children[0]);
    inner.InsertAt(1, top.children[1]);
    return IntervalRoot(PackRange(inner, 0, 2).node, inner_levels + 1);
  }

 private:
  // Two neighbours are merged if one is no more than a quarter full and both fit into three
  // quarters of a node: an edit right after does not split what was just merged.
  static bool IsSmall(const Child& child, int inner_levels) {
    const size_t capacity = inner_levels == 0 ? Layout::kLeafCapacity : Layout::kInnerCapacity;
    return child.node->Load(Layout::kCount) <= capacity / 4;
  }
  template <typename Node>
  static bool FitTogether(const Node& left, const Node& right) {
    return left.count + right.count <= Node::kMax * 3 / 4;
  }

  static size_t ChildFor(const IntervalNode& node, uint64_t key) {
    const size_t count = node.Load(Layout::kCount);
    size_t at = 0;
    while (at + 1 < count && node.Load(Layout::kKeys + at + 1) <= key) ++at;
    return at;
  }
  static IntervalNode* ChildAt(const IntervalNode& node, size_t at) {
    return reinterpret_cast<IntervalNode*>(node.Load(Layout::kNodes + at));
  }

  // The common case of an edit, without unpacking: one child is another one now.
  Child CopyWithChild(const IntervalNode& from, size_t at, const Child& child) {
    IntervalNode* const node = TakeNode();
    const size_t count = from.Load(Layout::kCount);
    node->Store(Layout::kCount, count);
    for (size_t i = 0; i < Layout::kInnerCapacity; ++i) {
      node->Store(Layout::kKeys + i, from.Load(Layout::kKeys + i));
    }
    Child copy{0, child.end, node};
    for (size_t i = 0; i < count; ++i) {
      const uint64_t end = from.Load(Layout::kEnds + i);
      if (i != at) copy.end = std::max(copy.end, end);
      node->Store(Layout::kEnds + i, end);
      node->Store(Layout::kNodes + i, from.Load(Layout::kNodes + i));
    }
    StoreEntry(child, at, node);
    copy.key = node->Load(Layout::kKeys);
    return copy;
  }

  IntervalNode* TakeNode() {
    IntervalNode* const node = pool_->Take();
    edits_->made.push_back(node);
    return node;
  }

  void ReplaceChild(int at, const Result& with, Inner* inner) {
    if (with.count == 0) {
      inner->RemoveAt(at);
      return;
    }
    inner->entries[at] = with.children[0];
    if (with.count == 2) inner->InsertAt(at + 1, with.children[1]);
  }

  void MergeSmall(int at, int inner_levels, Inner* inner) {
    inner_levels == 0 ? MergeSmallOf<Leaf>(at, inner) : MergeSmallOf<Inner>(at, inner);
  }

  // Merges child `at` with its neighbour if both fit.
  template <typename Node>
  void MergeSmallOf(int at, Inner* inner) {
    if (inner->count < 2) return;
    const int left = at == 0 ? 0 : at - 1;
    Node merged;
    Node right;
    Unpack(*inner->entries[left].node, &merged);
    Unpack(*inner->entries[left + 1].node, &right);
    if (!FitTogether(merged, right)) return;
    for (int i = 0; i < right.count; ++i) merged.InsertAt(merged.count, right.entries[i]);
    edits_->replaced.push_back(inner->entries[left].node);
    edits_->replaced.push_back(inner->entries[left + 1].node);
    inner->RemoveAt(left + 1);
    inner->entries[left] = PackRange(merged, 0, merged.count);
  }

  IntervalRoot Shorten(IntervalNode* node, int inner_levels) {
    while (inner_levels > 0 && node->Load(Layout::kCount) == 1) {
      edits_->replaced.push_back(node);
      node = reinterpret_cast<IntervalNode*>(node->Load(Layout::kNodes));
      --inner_levels;
    }
    return IntervalRoot(node, inner_levels);
  }

  // `key` is that of the edit: a node that overflows at its end is left full, so that slots made in
  // ascending order fill their nodes.
  template <typename Node>
  Result Pack(const Node& node, uint64_t key) {
    if (node.count == 0) return {};
    if (node.count <= Node::kMax) return {1, {PackRange(node, 0, node.count)}};
    const bool appended = node.entries[node.count - 1].key == key;
    const int split = appended ? Node::kMax : node.count / 2;
    return {2, {PackRange(node, 0, split), PackRange(node, split, node.count)}};
  }

  template <typename Node>
  Child PackRange(const Node& from, int first, int last) {
    IntervalNode* const node = TakeNode();
    Child child{from.entries[first].key, 0, node};
    node->Store(Layout::kCount, static_cast<uint64_t>(last - first));
    for (int i = first; i < last; ++i) {
      StoreEntry(from.entries[i], i - first, node);
      child.end = std::max(child.end, EndOf(from.entries[i]));
    }
    for (int i = last - first; i < Node::kKeys; ++i) node->Store(Layout::kKeys + i, Layout::kNoKey);
    return child;
  }

  uint64_t EndOf(const IntervalCell& cell) const { return tree_.EndOf(cell); }
  static uint64_t EndOf(const Child& child) { return child.end; }

  IntervalNodePool* const pool_;
  const IntervalTree& tree_;
  IntervalEdits* const edits_;
};

IntervalRoot EditTree(Editor editor, IntervalRoot root, uint64_t key,
                      absl::FunctionRef<void(Leaf*)> edit_leaf) {
  const Editor::Result top = editor.Edit(root.node(), root.inner_levels(), key, edit_leaf);
  return editor.MakeRoot(top, root.inner_levels());
}

}  // namespace

IntervalRoot IntervalTree::Insert(IntervalRoot root, const Cell& cell, IntervalEdits* edits) const {
  Editor editor(pool_, *this, edits);
  if (root.is_empty()) return editor.MakeLeafRoot(cell);
  return EditTree(editor, root, cell.key, [&](Leaf* leaf) {
    const int at = leaf->Find(cell.key);
    TDP_CHECK(at < 0 || leaf->entries[at].key != cell.key);
    leaf->InsertAt(at + 1, cell);
  });
}

IntervalRoot IntervalTree::Replace(IntervalRoot root, const Cell& cell,
                                   IntervalEdits* edits) const {
  return EditTree(Editor(pool_, *this, edits), root, cell.key, [&](Leaf* leaf) {
    const int at = leaf->Find(cell.key);
    TDP_CHECK(at >= 0 && leaf->entries[at].key == cell.key);
    leaf->entries[at] = cell;
  });
}

IntervalRoot IntervalTree::Remove(IntervalRoot root, uint64_t key, IntervalEdits* edits) const {
  return EditTree(Editor(pool_, *this, edits), root, key, [&](Leaf* leaf) {
    const int at = leaf->Find(key);
    TDP_CHECK(at >= 0 && leaf->entries[at].key == key);
    leaf->RemoveAt(at);
  });
}

}  // namespace tdp::internal
