// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/interval_tree.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "tdp/base/check.h"
#include "tdp/base/index.h"
#include "tdp/memslot/interval_node.h"

namespace tdp::internal {
namespace {

using Layout = IntervalLayout;

IntervalNode* ChildAt(const IntervalNode& node, size_t at) {
  return reinterpret_cast<IntervalNode*>(node.Load(Layout::kNodes + at));
}

// A child node and what its parent knows of it.
struct Child {
  uint64_t key = 0;  // the smallest key below
  uint64_t end = 0;  // the greatest end below
  IntervalNode* node = nullptr;
};

// A node unpacked, with room for one entry too many.
template <typename Entry, int kCapacity>
struct Unpacked {
  static constexpr int kMax = kCapacity;
  static constexpr size_t kKeys =
      (kCapacity + Layout::kGroup - 1) / Layout::kGroup * Layout::kGroup;

  // Returns the index of the entry with the greatest key not above `key`, or -1.
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
  Entry entries[AsIndex(kCapacity + 1)];
};

using Leaf = Unpacked<IntervalCell, Layout::kLeafCapacity>;
using Inner = Unpacked<Child, Layout::kInnerCapacity>;

void Unpack(const IntervalNode& node, Leaf* leaf) {
  leaf->count = static_cast<int>(node.Load(Layout::kCount));
  for (int i = 0; i < leaf->count; ++i) {
    leaf->entries[i] = IntervalTree::LoadCell(node, AsIndex(i));
  }
}

void Unpack(const IntervalNode& node, Inner* inner) {
  inner->count = static_cast<int>(node.Load(Layout::kCount));
  for (int i = 0; i < inner->count; ++i) {
    const size_t at = AsIndex(i);
    inner->entries[i] = {node.Load(Layout::kKeys + at), node.Load(Layout::kEnds + at),
                         ChildAt(node, at)};
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

// Says what an edit does to the leaf that holds `cell.key`, or would hold it.
enum class LeafEdit { kInsert, kReplace, kRemove };

// Makes one edit by copying the path from the leaf up.
class Editor {
 public:
  Editor(IntervalNodePool* pool, const IntervalTree& tree, IntervalEdits* edits)
      : pool_(pool), tree_(tree), edits_(edits) {}

  // Holds the nodes that take the place of an edited one: none if it is empty now, two if it was
  // split.
  struct Result {
    int count = 0;
    Child children[2];
  };

  IntervalRoot Edit(IntervalRoot root, LeafEdit edit, const IntervalCell& cell) {
    const Path path = PathTo(root, cell.key);
    CheckKey(path, edit, cell.key);
    if (!KeepsItsNodes(path, edit)) {
      const Result top = EditBelow(root.node(), root.inner_levels(), edit, cell);
      return MakeRoot(top, root.inner_levels());
    }
    Child child = CopyLeaf(path, edit, cell);
    for (int i = path.inner_levels - 1; i >= 0; --i) {
      edits_->replaced.push_back(path.steps[i].node);
      child = CopyWithChild(*path.steps[i].node, path.steps[i].at, child);
    }
    return IntervalRoot(child.node, root.inner_levels());
  }

  // Makes the root of a tree of one cell.
  IntervalRoot MakeLeafRoot(const IntervalCell& cell) {
    Leaf leaf;
    leaf.InsertAt(0, cell);
    return IntervalRoot(PackRange(leaf, 0, 1).node, 0);
  }

  // The way from the root to a cell: each node, and which of its children or cells is next.
  struct Path {
    struct Step {
      IntervalNode* node;
      size_t at;
    };
    const Step& leaf() const { return steps[inner_levels]; }

    int inner_levels;
    Step steps[IntervalRoot::kMaxInnerLevels + 1];
  };

  // Returns the way to the cell with the greatest key not above `key`, or to the first one.
  static Path PathTo(IntervalRoot root, uint64_t key) {
    Path path;
    path.inner_levels = root.inner_levels();
    IntervalNode* node = root.node();
    for (int i = 0; i < path.inner_levels; ++i) {
      const size_t at = IntervalTree::Locate<Layout::kInnerCapacity>(*node, key);
      path.steps[i] = {node, at};
      node = ChildAt(*node, at);
    }
    path.steps[path.inner_levels] = {node,
                                     IntervalTree::Locate<Layout::kLeafCapacity + 1>(*node, key)};
    return path;
  }

 private:
  // The key is absent for an insertion and there for all else.
  static void CheckKey(const Path& path, LeafEdit edit, uint64_t key) {
    const bool present = path.leaf().node->Load(Layout::kKeys + path.leaf().at) == key;
    TDP_CHECK(present == (edit != LeafEdit::kInsert));
  }

  // Returns whether each node on the way is replaced by one: none overflows or wants to be merged.
  static bool KeepsItsNodes(const Path& path, LeafEdit edit) {
    const size_t count = path.leaf().node->Load(Layout::kCount);
    if (edit == LeafEdit::kInsert) return count < Layout::kLeafCapacity;
    if (path.inner_levels == 0) return edit == LeafEdit::kReplace || count > 1;
    if (IsSmall(count - (edit == LeafEdit::kRemove ? 1 : 0), 0)) return false;
    for (int i = 1; i < path.inner_levels; ++i) {
      if (IsSmall(path.steps[i].node->Load(Layout::kCount), 1)) return false;
    }
    return true;
  }

  // Returns a copy of the leaf at the end of `path`, edited.
  Child CopyLeaf(const Path& path, LeafEdit edit, const IntervalCell& cell) {
    const IntervalNode& from = *path.leaf().node;
    const size_t at = path.leaf().at;
    // The greatest end below the leaf, of which nobody asks where it is the root.
    uint64_t end = kUnasked;
    if (path.inner_levels > 0) {
      const Path::Step& above = path.steps[path.inner_levels - 1];
      end = above.node->Load(Layout::kEnds + above.at);
    }
    edits_->replaced.push_back(path.leaf().node);
    switch (edit) {
      case LeafEdit::kInsert:
        return CopyAndInsert(from, from.Load(Layout::kKeys + at) < cell.key ? at + 1 : 0, end,
                             cell);
      case LeafEdit::kReplace:
        return CopyAndReplace(from, at, end, cell);
      case LeafEdit::kRemove:
        break;
    }
    return CopyWithout(from, at, end);
  }

  Child CopyAndInsert(const IntervalNode& from, size_t at, uint64_t end, const IntervalCell& cell) {
    const size_t count = from.Load(Layout::kCount);
    IntervalNode* const node = TakeNode();
    CopyCells(from, 0, at, 0, node);
    StoreEntry(cell, at, node);
    CopyCells(from, at, count, at + 1, node);
    EndKeys<Layout::kLeafCapacity + 1>(count + 1, node);
    return {node->Load(Layout::kKeys), std::max(end, EndOf(cell)), node};
  }

  Child CopyAndReplace(const IntervalNode& from, size_t at, uint64_t end,
                       const IntervalCell& cell) {
    const size_t count = from.Load(Layout::kCount);
    IntervalNode* const node = TakeNode();
    CopyCells(from, 0, count, 0, node);
    StoreEntry(cell, at, node);
    EndKeys<Layout::kLeafCapacity + 1>(count, node);
    if (EndOf(IntervalTree::LoadCell(from, at)) != EndOf(cell)) end = EndOfLeaf(*node);
    return {node->Load(Layout::kKeys), end, node};
  }

  Child CopyWithout(const IntervalNode& from, size_t at, uint64_t end) {
    const size_t count = from.Load(Layout::kCount);
    IntervalNode* const node = TakeNode();
    CopyCells(from, 0, at, 0, node);
    CopyCells(from, at + 1, count, at, node);
    EndKeys<Layout::kLeafCapacity + 1>(count - 1, node);
    if (EndOf(IntervalTree::LoadCell(from, at)) == end) end = EndOfLeaf(*node);
    return {node->Load(Layout::kKeys), end, node};
  }

  // Makes an edit that splits, merges or drops nodes below `node`.
  Result EditBelow(IntervalNode* node, int inner_levels, LeafEdit edit, const IntervalCell& cell) {
    edits_->replaced.push_back(node);
    if (inner_levels == 0) return EditLeaf(*node, edit, cell);
    const size_t at = IntervalTree::Locate<Layout::kInnerCapacity>(*node, cell.key);
    const Result below = EditBelow(ChildAt(*node, at), inner_levels - 1, edit, cell);
    Inner inner;
    Unpack(*node, &inner);
    ReplaceChild(static_cast<int>(at), below, &inner);
    if (below.count == 1 && IsSmall(below.children[0].node->Load(Layout::kCount), inner_levels - 1))
      MergeSmall(static_cast<int>(at), inner_levels - 1, &inner);
    return Pack(inner, cell.key);
  }

  Result EditLeaf(const IntervalNode& node, LeafEdit edit, const IntervalCell& cell) {
    Leaf leaf;
    Unpack(node, &leaf);
    const int at = leaf.Find(cell.key);
    if (edit == LeafEdit::kInsert) leaf.InsertAt(at + 1, cell);
    if (edit == LeafEdit::kReplace) leaf.entries[at] = cell;
    if (edit == LeafEdit::kRemove) leaf.RemoveAt(at);
    return Pack(leaf, cell.key);
  }

  // Makes a root above `top`, which the edit of the old root returned.
  IntervalRoot MakeRoot(const Result& top, int inner_levels) {
    if (top.count == 0) return IntervalRoot();
    if (top.count == 1) return Shorten(top.children[0].node, inner_levels);
    Inner inner;
    inner.InsertAt(0, top.children[0]);
    inner.InsertAt(1, top.children[1]);
    return IntervalRoot(PackRange(inner, 0, 2).node, inner_levels + 1);
  }

  // Returns whether a node may be merged. Two neighbours are if one is no more than a quarter full
  // and both fit into three quarters of a node: an edit right after does not split what was just
  // merged.
  static bool IsSmall(size_t count, int inner_levels) {
    const size_t capacity = inner_levels == 0 ? Layout::kLeafCapacity : Layout::kInnerCapacity;
    return count <= capacity / 4;
  }
  template <typename Node>
  static bool FitTogether(const Node& left, const Node& right) {
    return left.count + right.count <= Node::kMax * 3 / 4;
  }

  // Copies cells `first` to `last` of `from`, to `to` and those that follow it.
  static void CopyCells(const IntervalNode& from, size_t first, size_t last, size_t to,
                        IntervalNode* node) {
    for (size_t i = first; i < last; ++i, ++to) {
      node->Store(Layout::kKeys + to, from.Load(Layout::kKeys + i));
      node->Store(Layout::CellWord(to, 0), from.Load(Layout::CellWord(i, 0)));
      node->Store(Layout::CellWord(to, 1), from.Load(Layout::CellWord(i, 1)));
      node->Store(Layout::CellWord(to, 2), from.Load(Layout::CellWord(i, 2)));
    }
  }

  // Ends the keys of a node that has `count` entries. A search looks at the first key of each
  // group, and in one group at the others; going through a node ends at the first key that is none.
  template <size_t kKeyCount>
  static void EndKeys(size_t count, IntervalNode* node) {
    node->Store(Layout::kCount, count);
    size_t i = count;
    for (; i % Layout::kGroup != 0; ++i) node->Store(Layout::kKeys + i, Layout::kNoKey);
    for (; i < kKeyCount; i += Layout::kGroup) node->Store(Layout::kKeys + i, Layout::kNoKey);
  }

  uint64_t EndOfLeaf(const IntervalNode& node) const {
    uint64_t end = 0;
    const size_t count = node.Load(Layout::kCount);
    for (size_t i = 0; i < count; ++i) {
      end = std::max(end, EndOf(IntervalTree::LoadCell(node, i)));
    }
    return end;
  }

  // Makes the common edit, without unpacking: one child is another one now.
  Child CopyWithChild(const IntervalNode& from, size_t at, const Child& child) {
    IntervalNode* const node = TakeNode();
    const size_t count = from.Load(Layout::kCount);
    Child copy{0, child.end, node};
    for (size_t i = 0; i < count; ++i) {
      const uint64_t end = from.Load(Layout::kEnds + i);
      if (i != at) copy.end = std::max(copy.end, end);
      node->Store(Layout::kKeys + i, from.Load(Layout::kKeys + i));
      node->Store(Layout::kEnds + i, end);
      node->Store(Layout::kNodes + i, from.Load(Layout::kNodes + i));
    }
    EndKeys<Layout::kInnerCapacity>(count, node);
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
    for (int i = first; i < last; ++i) {
      StoreEntry(from.entries[i], AsIndex(i - first), node);
      child.end = std::max(child.end, EndOf(from.entries[i]));
    }
    EndKeys<Node::kKeys>(AsIndex(last - first), node);
    return child;
  }

  uint64_t EndOf(const IntervalCell& cell) const { return tree_.EndOf(cell); }
  static uint64_t EndOf(const Child& child) { return child.end; }

  static constexpr uint64_t kUnasked = ~uint64_t{0};

  IntervalNodePool* const pool_;
  const IntervalTree& tree_;
  IntervalEdits* const edits_;
};

}  // namespace

IntervalRoot IntervalTree::Insert(IntervalRoot root, const Cell& cell, IntervalEdits* edits) const {
  Editor editor(pool_, *this, edits);
  if (root.is_empty()) return editor.MakeLeafRoot(cell);
  return editor.Edit(root, LeafEdit::kInsert, cell);
}

IntervalRoot IntervalTree::Replace(IntervalRoot root, const Cell& cell,
                                   IntervalEdits* edits) const {
  return Editor(pool_, *this, edits).Edit(root, LeafEdit::kReplace, cell);
}

IntervalRoot IntervalTree::Remove(IntervalRoot root, uint64_t key, IntervalEdits* edits) const {
  return Editor(pool_, *this, edits).Edit(root, LeafEdit::kRemove, Cell{.key = key});
}

void IntervalTree::StoreFirstWord(IntervalRoot root, uint64_t key, uint64_t value) {
  const Editor::Path path = Editor::PathTo(root, key);
  IntervalNode* const leaf = path.leaf().node;
  TDP_CHECK(leaf->Load(Layout::kKeys + path.leaf().at) == key);
  leaf->Store(Layout::CellWord(path.leaf().at, 0), value);
}

}  // namespace tdp::internal
