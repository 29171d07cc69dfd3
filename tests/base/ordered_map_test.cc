// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This map stands for std::map in the freestanding core; here it stands beside std::map.

#include "tdp/base/ordered_map.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <iterator>
#include <map>

namespace tdp {
namespace {

TEST(SortedMap, DoesWhatAMapDoesOverRandomOperations) {
  SortedMap<uint64_t, int> map;
  std::map<uint64_t, int> model;
  uint64_t random = 7;
  for (int i = 0; i < 20000; ++i) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const uint64_t key = random >> 55;
    switch (random >> 20 & 3) {
      case 0:
        EXPECT_EQ(map.erase(key), model.erase(key));
        break;
      case 1:
        EXPECT_EQ(map.emplace(key, i).second, model.emplace(key, i).second);
        break;
      case 2:
        map[key] = model[key] = i;
        break;
      default: {
        const auto at = map.upper_bound(key);
        const auto expected = model.upper_bound(key);
        ASSERT_EQ(at == map.end(), expected == model.end());
        if (at == map.end()) break;
        EXPECT_EQ(at->first, expected->first);
        const auto next = map.erase(at);
        const auto expected_next = model.erase(expected);
        EXPECT_EQ(next - map.begin(), std::distance(model.begin(), expected_next));
      }
    }
    ASSERT_EQ(map.size(), model.size());
  }
  auto at = map.begin();
  for (const auto& [key, value] : model) {
    EXPECT_EQ(at->first, key);
    EXPECT_EQ((at++)->second, value);
  }
  EXPECT_EQ(map.find(1000), map.end());
}

TEST(SortedMultimap, KeepsEqualKeysInTheOrderOfTheirInsertion) {
  SortedMultimap<int, char> map;
  for (const char c : {'a', 'b', 'c'}) map.emplace(1, c);
  map.emplace(0, 'x');
  const auto [first, last] = map.equal_range(1);
  ASSERT_EQ(last - first, 3);
  EXPECT_EQ(first->second, 'a');
  map.erase(first);
  EXPECT_EQ(map.equal_range(1).first->second, 'b');
  EXPECT_EQ(map.size(), 3u);
}

}  // namespace
}  // namespace tdp
