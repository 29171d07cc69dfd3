// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/flat_map.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <optional>

#include "tdp/judge/random.h"

namespace tdp::judge {
namespace {

constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kPages = 64;

// Is one page of the model that the map is compared with.
struct PlainPage {
  uint64_t hpa;
  unsigned rights;
};

TEST(FlatMap, DoesWhatAListOfPagesDoes) {
  FlatMap map;
  std::array<std::optional<PlainPage>, kPages> pages;
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    const uint64_t first = random.Below(kPages);
    const uint64_t last = first + 1 + random.Below(kPages - first);
    const uint64_t begin = first * kPageBytes;
    const uint64_t end = last * kPageBytes;
    const uint64_t hpa = random.Below(1000) * kPageBytes;
    const auto rights = static_cast<unsigned>(1 + random.Below(7));
    const uint64_t what = random.Below(4);
    if (what < 2) map.Map({begin, end, hpa, rights, 6, begin, end}, what == 1);
    if (what == 2) map.Unmap(begin, end);
    if (what == 3) map.Protect(begin, end, rights);
    bool all = true;
    bool some = false;
    for (uint64_t page = first; page < last; ++page) {
      const PlainPage made = {hpa + (page - first) * kPageBytes, rights};
      if (what == 0 || (what == 1 && !pages[page].has_value())) pages[page] = made;
      if (what == 2) pages[page].reset();
      if (what == 3 && pages[page].has_value()) pages[page]->rights = rights;
      all &= pages[page].has_value();
      some |= pages[page].has_value();
    }
    EXPECT_EQ(map.CoversAll(begin, end), all);
    EXPECT_EQ(map.CoversSome(begin, end), some);
    for (uint64_t page = 0; page < kPages; ++page) {
      const Extent* extent = map.Find(page * kPageBytes);
      ASSERT_EQ(extent != nullptr, pages[page].has_value()) << "step " << i << " page " << page;
      if (extent == nullptr) continue;
      ASSERT_EQ(extent->HpaOf(page * kPageBytes), pages[page]->hpa);
      ASSERT_EQ(extent->rights, pages[page]->rights);
    }
  }
}

TEST(FlatMap, KnowsWhatCutsAMapping) {
  FlatMap map;
  map.Map({0x4000, 0x8000, 0, 7, 6, 0x4000, 0x8000}, false);
  EXPECT_FALSE(map.CutsMapping(0x4000, 0x8000));
  EXPECT_FALSE(map.CutsMapping(0, 0x4000));
  EXPECT_TRUE(map.CutsMapping(0x4000, 0x7000));
  map.Map({0x8000, 0xa000, 0, 7, 6, 0x8000, 0xa000}, false);
  EXPECT_FALSE(map.CutsMapping(0x4000, 0xa000));
  EXPECT_TRUE(map.CutsMapping(0x4000, 0x9000)) << "the second of two";
  map.Unmap(0x4000, 0x5000);
  EXPECT_TRUE(map.CutsMapping(0x5000, 0x8000)) << "it is what is left of a mapping";
}

TEST(RangeSet, AddsAndRemovesParts) {
  RangeSet set;
  set.Add(0x1000, 0x9000);
  set.Remove(0x3000, 0x4000);
  EXPECT_TRUE(set.Contains(0x2fff));
  EXPECT_FALSE(set.Contains(0x3000));
  EXPECT_TRUE(set.Contains(0x4000));
  EXPECT_TRUE(set.Overlaps(0x3000, 0x4001));
  EXPECT_FALSE(set.Overlaps(0x3000, 0x4000));
  set.Remove(0, 0x10000);
  EXPECT_TRUE(set.ranges().empty());
}

}  // namespace
}  // namespace tdp::judge
