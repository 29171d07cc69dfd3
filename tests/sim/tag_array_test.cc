// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests hold caches of every shape against lists that say the same in the plainest way.

#include "tdp/backends/sim/tag_array.h"

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/backends/sim/assoc_cache.h"

namespace tdp::sim {
namespace {

// Lists tags by set, the most recently used first.
class LruLists {
 public:
  LruLists(uint64_t sets, size_t ways) : sets_(sets), ways_(ways) {}

  bool Find(uint64_t tag) {
    std::list<uint64_t>& set = lists_[tag % sets_];
    const auto place = std::find(set.begin(), set.end(), tag);
    if (place == set.end()) return false;
    set.splice(set.begin(), set, place);
    return true;
  }
  void Insert(uint64_t tag) {
    if (Find(tag)) return;
    std::list<uint64_t>& set = lists_[tag % sets_];
    set.push_front(tag);
    if (set.size() > ways_) set.pop_back();
  }
  void Erase(uint64_t tag) { lists_[tag % sets_].remove(tag); }
  size_t size() const {
    size_t sum = 0;
    for (const auto& [set, list] : lists_) sum += list.size();
    return sum;
  }

 private:
  const uint64_t sets_;
  const size_t ways_;
  std::map<uint64_t, std::list<uint64_t>> lists_;
};

TEST(AssocCache, EveryShapeIsAnLruOfItsSize) {
  for (const CacheGeometry shape : {CacheGeometry{1, 1},
                                    {4, 4},
                                    {1, 16},
                                    {1, 17},
                                    {3, 5},
                                    {1, 64},
                                    {96, 16},
                                    {7, 1},
                                    {12, 20}}) {
    AssocCache<uint64_t, int> cache;
    cache.Configure(shape);
    LruLists lists(static_cast<uint64_t>(shape.sets), static_cast<size_t>(shape.ways));
    std::mt19937_64 random(shape.sets * 1000 + shape.ways);
    const uint64_t tags = 2 * static_cast<uint64_t>(shape.entries()) + 3;
    for (int step = 0; step < 20000; ++step) {
      const uint64_t tag = 1 + random() % tags;
      const uint64_t what = random() % 16;
      if (what == 0) {
        cache.Erase(tag);
        lists.Erase(tag);
      } else if (const uint64_t* found = cache.Find(tag); found != nullptr) {
        ASSERT_TRUE(lists.Find(tag)) << shape.sets << "x" << shape.ways;
        ASSERT_EQ(*found, 3 * tag);
      } else {
        ASSERT_FALSE(lists.Find(tag)) << shape.sets << "x" << shape.ways;
        *cache.Insert(tag, 0) = 3 * tag;
        lists.Insert(tag);
      }
    }
    EXPECT_EQ(static_cast<size_t>(cache.live()), lists.size());
    cache.Clear();
    EXPECT_EQ(cache.live(), 0);
    EXPECT_EQ(cache.Find(1), nullptr);
  }
}

// Textbooks draw the pseudo-LRU of four ways so: three bits, each pointing to the half that was not
// used last.
TEST(TagArray, ATreeOfFourWaysIsTheTextbooks) {
  TagArray array(1, 4, Replacement::kTreePlru);
  std::vector<uint64_t> ways(4, 0);
  bool top = false, left = false, right = false;  // true: the right one goes next
  std::mt19937_64 random(1);
  const auto touch = [&](size_t way) {
    top = way < 2;
    (way < 2 ? left : right) = way % 2 == 0;
  };
  for (int step = 0; step < 20000; ++step) {
    const uint64_t tag = 1 + random() % 7;
    auto way = static_cast<size_t>(std::find(ways.begin(), ways.end(), tag) - ways.begin());
    if (way == 4) {
      ASSERT_EQ(array.Find(0, tag), TagArray::kNone);
      way = static_cast<size_t>(std::find(ways.begin(), ways.end(), 0) - ways.begin());
      if (way == 4) way = top ? (right ? 3 : 2) : (left ? 1 : 0);
      ways[way] = tag;
      ASSERT_EQ(array.Insert(0, tag), way);
    } else {
      ASSERT_EQ(array.Find(0, tag), way);
    }
    touch(way);
  }
}

TEST(TagArray, ATagThatIsThereIsKeptOnceWhateverIsUnusedBeforeIt) {
  TagArray array(1, 3, Replacement::kLru);
  array.Insert(0, 1);
  const size_t place = array.Insert(0, 2);
  array.Erase(0, 1);
  EXPECT_EQ(array.Insert(0, 2), place);
  EXPECT_EQ(array.live(), 1u);
}

TEST(TagArray, ATreeOfAnyWidthNeverGivesUpWhatWasUsedLast) {
  for (size_t ways : {1u, 2u, 3u, 5u, 6u, 12u, 13u}) {
    TagArray array(2, ways, Replacement::kTreePlru);
    std::mt19937_64 random(ways);
    std::vector<bool> used(2 * ways, false);
    for (int step = 0; step < 5000; ++step) {
      const uint64_t tag = 1 + random() % (4 * ways);
      const size_t place = array.Insert(tag, tag);
      used[place] = true;
      ASSERT_EQ(place / ways, tag % 2);
      const size_t other = array.Insert(tag, tag + 8 * ways);
      ASSERT_TRUE(ways == 1 || other != place);
      used[other] = true;
    }
    EXPECT_EQ(std::count(used.begin(), used.end(), true), 2 * static_cast<int>(ways))
        << "each way is used";
  }
}

}  // namespace
}  // namespace tdp::sim
