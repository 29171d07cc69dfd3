// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/interval_tree_search.h"

#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/memslot/interval_node.h"

namespace tdp::internal {
namespace {

constexpr auto kUnchanged = [] { return true; };

IntervalCell CellOf(uint64_t key, uint64_t length, uint64_t tag) {
  return {key, {length, tag, key ^ tag}};
}

bool SameCell(const IntervalCell& a, const IntervalCell& b) {
  return a.key == b.key && a.words[0] == b.words[0] && a.words[1] == b.words[1] &&
         a.words[2] == b.words[2];
}

// Holds the tree beside a sorted map of the same cells.
class TreeAndModel {
 public:
  using Model = std::map<uint64_t, IntervalCell>;

  explicit TreeAndModel(int key_shift) : shift_(key_shift), tree_(&pool_, key_shift) {}

  const Model& model() const { return model_; }
  IntervalRoot root() const { return root_; }
  const IntervalTree& tree() const { return tree_; }
  const IntervalNodePool& pool() const { return pool_; }

  void Insert(const IntervalCell& cell) {
    Reserve();
    root_ = tree_.Insert(root_, cell, &edits_);
    model_[cell.key] = cell;
    Retire();
  }
  void Replace(const IntervalCell& cell) {
    Reserve();
    root_ = tree_.Replace(root_, cell, &edits_);
    model_[cell.key] = cell;
    Retire();
  }
  void Remove(uint64_t key) {
    Reserve();
    root_ = tree_.Remove(root_, key, &edits_);
    model_.erase(key);
    Retire();
  }

  // Builds a new tree, looks at it beside the old one, and drops it.
  void TryRemove(uint64_t key) {
    Reserve();
    const IntervalRoot without = tree_.Remove(root_, key, &edits_);
    IntervalCell cell;
    EXPECT_EQ(tree_.FindAtOrBelow(root_, key, &cell, kUnchanged), IntervalSearch::kFound);
    EXPECT_EQ(cell.key, key);
    if (tree_.FindAtOrBelow(without, key, &cell, kUnchanged) == IntervalSearch::kFound) {
      EXPECT_LT(cell.key, key);
    }
    for (IntervalNode* node : edits_.made) pool_.Give(node);
    edits_ = {};
  }

  // Stores a mark beside the length of a cell, after another cell of its leaf was removed in a tree
  // that shares the rest.
  void TryMark(uint64_t key) {
    Reserve();
    const IntervalRoot without = tree_.Remove(root_, key + 1, &edits_);
    const uint64_t marked = model_.at(key).words[0] | uint64_t{1} << 63;
    IntervalTree::StoreFirstWord(root_, key, marked);
    IntervalCell cell;
    EXPECT_EQ(tree_.FindAtOrBelow(root_, key, &cell, kUnchanged), IntervalSearch::kFound);
    EXPECT_EQ(cell.words[0], marked);
    EXPECT_EQ(tree_.FindAtOrBelow(without, key, &cell, kUnchanged), IntervalSearch::kFound);
    EXPECT_TRUE(SameCell(cell, model_.at(key)));
    for (IntervalNode* node : edits_.made) pool_.Give(node);
    edits_ = {};
  }

  void CheckAtOrBelow(uint64_t key) const {
    IntervalCell cell;
    const IntervalSearch found = tree_.FindAtOrBelow(root_, key, &cell, kUnchanged);
    auto it = model_.upper_bound(key);
    if (it == model_.begin()) {
      EXPECT_EQ(found, IntervalSearch::kAbsent);
      return;
    }
    ASSERT_EQ(found, IntervalSearch::kFound);
    EXPECT_TRUE(SameCell(cell, std::prev(it)->second)) << key;
  }

  void CheckOverlaps(uint64_t begin, uint64_t end) const {
    std::vector<uint64_t> want;
    for (const auto& [key, cell] : model_) {
      if (key >> shift_ < end && (key >> shift_) + cell.length() > begin) want.push_back(key);
    }
    std::vector<uint64_t> got;
    tree_.ForEachOverlap(root_, begin, end,
                         [&](const IntervalCell& cell) { got.push_back(cell.key); });
    EXPECT_EQ(got, want) << begin << " to " << end;
  }

  // Every node of the pool is in the tree or free, none is both.
  void CheckNoLeak() const {
    std::set<IntervalNode*> in_tree;
    if (!root_.is_empty()) Collect(root_.node(), root_.inner_levels(), &in_tree);
    EXPECT_EQ(in_tree.size() + pool_.free_nodes(), pool_.nodes());
  }

 private:
  void Reserve() { ASSERT_TRUE(pool_.Reserve(tree_.NodesForEdit(root_) + 2)); }
  void Retire() {
    for (IntervalNode* node : edits_.replaced) pool_.Give(node);
    edits_ = {};
  }
  static void Collect(IntervalNode* node, int inner_levels, std::set<IntervalNode*>* nodes) {
    nodes->insert(node);
    if (inner_levels == 0) return;
    for (uint64_t i = 0; i < node->Load(IntervalLayout::kCount); ++i) {
      Collect(
          reinterpret_cast<IntervalNode*>(node->Load(IntervalLayout::kNodes + static_cast<int>(i))),
          inner_levels - 1, nodes);
    }
  }

  int shift_;
  IntervalNodePool pool_;
  IntervalTree tree_;
  IntervalRoot root_;
  IntervalEdits edits_;
  Model model_;
};

uint64_t RandomPresentKey(const TreeAndModel& both, std::mt19937_64& random) {
  auto it = both.model().lower_bound(random() % 40000);
  return it == both.model().end() ? both.model().begin()->first : it->first;
}

// Makes random operations, of which `grow_percent` insert.
void RandomOperations(TreeAndModel& both, std::mt19937_64& random, int count, int grow_percent) {
  for (int i = 0; i < count; ++i) {
    const uint64_t key = random() % 40000;
    const IntervalCell cell = CellOf(key, 1 + random() % 50, random());
    if (static_cast<int>(random() % 100) < grow_percent) {
      both.model().contains(key) ? both.Replace(cell) : both.Insert(cell);
    } else if (!both.model().empty()) {
      const uint64_t present = RandomPresentKey(both, random);
      if (random() % 8 == 0) both.TryRemove(present);
      both.Remove(present);
    }
    both.CheckAtOrBelow(random() % 40100);
    if (i % 64 == 0) {
      const uint64_t begin = random() % 40000;
      both.CheckOverlaps(begin, begin + random() % 400);
    }
  }
}

TEST(IntervalTree, AgreesWithASortedMapWhileItGrowsAndShrinks) {
  for (int shift : {0, 3}) {
    std::mt19937_64 random(7 + shift);
    TreeAndModel both(shift);
    RandomOperations(both, random, 6000, 80);
    EXPECT_GE(both.root().inner_levels(), 2);
    both.CheckNoLeak();
    RandomOperations(both, random, 12000, 20);
    both.CheckNoLeak();
    both.CheckOverlaps(0, 100000);
  }
}

TEST(IntervalTree, IsEmptyAgainAfterItsLastCellIsRemoved) {
  TreeAndModel both(0);
  for (uint64_t key = 0; key < 1000; ++key) both.Insert(CellOf(key * 4, 4, key));
  for (uint64_t key = 0; key < 1000; ++key) both.Remove((key * 389 % 1000) * 4);
  EXPECT_TRUE(both.root().is_empty());
  both.CheckAtOrBelow(17);
  both.CheckNoLeak();
}

TEST(IntervalTree, OneCellThatIsLeftIsAllOfALeaf) {
  TreeAndModel both(0);
  for (uint64_t key = 0; key < 1000; ++key) both.Insert(CellOf(key * 4, 4, key));
  for (uint64_t key = 1; key < 1000; ++key) both.Remove((key * 389 % 1000) * 4);
  EXPECT_EQ(both.root().inner_levels(), 0);
  both.CheckAtOrBelow(17);
  both.CheckNoLeak();
}

TEST(IntervalTree, FillsItsNodesWhenKeysAscend) {
  TreeAndModel both(0);
  constexpr uint64_t kCells = 32764;
  for (uint64_t key = 0; key < kCells; ++key) both.Insert(CellOf(key, 1, key));
  EXPECT_EQ(both.root().inner_levels(), 3);
  EXPECT_LT(both.pool().nodes(), kCells / 15 * 12 / 10);
}

TEST(IntervalTree, FindsLongIntervalsThatBeginFarBelow) {
  TreeAndModel both(0);
  both.Insert(CellOf(0, 1000000, 1));
  for (uint64_t key = 1; key < 3000; ++key) both.Insert(CellOf(key * 10, 5, key));
  both.CheckOverlaps(29997, 29998);
  both.CheckOverlaps(500000, 500001);
  both.CheckOverlaps(1000000, 1000001);
}

TEST(IntervalTree, AStoredFirstWordIsSeenInItsTreeAndNotInOneMadeBefore) {
  TreeAndModel both(0);
  for (uint64_t key = 0; key < 100; ++key) both.Insert(CellOf(key, 1, key));
  both.TryMark(50);
}

TEST(IntervalTree, AReaderWhoseTreeChangedIsToldSo) {
  TreeAndModel both(0);
  for (uint64_t key = 0; key < 100; ++key) both.Insert(CellOf(key, 1, key));
  constexpr auto kChanged = [] { return false; };
  IntervalCell cell;
  EXPECT_EQ(both.tree().FindAtOrBelow(both.root(), 5, &cell, kChanged), IntervalSearch::kChanged);
  EXPECT_EQ(both.tree().FindOverlap(both.root(), 5, 6, 0, &cell, kChanged),
            IntervalSearch::kChanged);
}

TEST(IntervalTree, NoKeyAtAllIsBelowTheFirst) {
  TreeAndModel both(0);
  both.CheckAtOrBelow(~uint64_t{0});
  for (uint64_t key = 10; key < 30; ++key) both.Insert(CellOf(key, 1, key));
  both.CheckAtOrBelow(9);
  both.CheckAtOrBelow(0);
  both.CheckAtOrBelow(~uint64_t{0});
}

}  // namespace
}  // namespace tdp::internal
