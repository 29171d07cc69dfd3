// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests hold stack distances, page counts and miss curves against the plainest way to count
// them.

#include "tdp/tools/replay/page_profile.h"

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <random>
#include <vector>

#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "tdp/tools/replay/lru_stack.h"
#include "tdp/tools/replay/observations.h"
#include "tdp/tools/replay/page_counts.h"

namespace tdp::tools {
namespace {

// Lists pages, the most recently used first.
class PlainStack {
 public:
  uint64_t Touch(uint64_t page) {
    uint64_t distance = 0;
    for (auto place = pages_.begin(); place != pages_.end(); ++place, ++distance) {
      if (*place != page) continue;
      pages_.splice(pages_.begin(), pages_, place);
      return distance;
    }
    pages_.push_front(page);
    return LruStack::kNew;
  }

 private:
  std::list<uint64_t> pages_;
};

// Returns a number that is small more often than not, so that every depth of a stack is met.
uint64_t SkewedPage(std::mt19937_64& random, uint64_t pages) {
  return random() % (1 + random() % (1 + random() % pages));
}

TEST(LruStack, CountsThePagesSinceTheLastUse) {
  for (uint64_t pages : {1, 2, 15, 16, 17, 18, 100, 3000}) {
    LruStack stack;
    PlainStack plain;
    std::map<uint64_t, uint32_t> numbers;
    std::mt19937_64 random(pages);
    for (int i = 0; i < 20000; ++i) {
      const uint64_t page = SkewedPage(random, pages);
      const auto next = static_cast<uint32_t>(numbers.size());
      const uint32_t number = numbers.try_emplace(page, next).first->second;
      ASSERT_EQ(stack.Touch(number), plain.Touch(page)) << pages << " pages, touch " << i;
    }
    EXPECT_EQ(stack.pages(), numbers.size());
  }
}

struct PlainProfile {
  std::array<PlainStack, 3> stacks;
  std::array<std::map<uint64_t, uint64_t>, 3> distances;
  std::map<uint64_t, uint64_t> accesses;

  void Add(uint64_t page) {
    ++accesses[page];
    for (int size = 0; size < 3; ++size) ++distances[size][stacks[size].Touch(page >> 9 * size)];
  }
};

TEST(PageProfile, IsExactForProgramsOfEveryKind) {
  for (const uint64_t kind : {0, 1, 2, 3}) {
    std::mt19937_64 random(kind);
    std::vector<TraceRecord> records;
    uint64_t code = 0x400;
    for (int i = 0; i < 30000; ++i) {
      uint64_t page = 0;
      if (kind == 0) page = i % 2 == 0 ? 0x400 : 0x7ffff;                 // two pages for ever
      if (kind == 1) page = SkewedPage(random, 300000);                   // anywhere
      if (kind == 2) page = i % 3 != 0 ? code : SkewedPage(random, 600);  // code and data
      if (kind == 3) page = random() % 3 + (random() % 4 << 18);          // few, far apart
      if (random() % 50 == 0) code += 1 + random() % 3;
      records.push_back(TraceRecord::Make(Gva(page << 12 | 8), AccessKind::kLoad, 3));
    }
    PageProfile profile;
    PageCounts counts;
    PlainProfile plain;
    for (size_t first = 0; first < records.size(); first += 777) {
      profile.Add(absl::MakeConstSpan(records).subspan(first, 777));
      counts.Add(absl::MakeConstSpan(records).subspan(first, 777));
    }
    profile.Settle();
    for (const TraceRecord record : records) plain.Add(record.gva().raw() >> 12);
    const auto counted = counts.accesses();
    const std::map<uint64_t, uint64_t> accesses(counted.begin(), counted.end());
    EXPECT_EQ(accesses, plain.accesses) << kind;
    for (size_t size = 0; size < 3; ++size) {
      std::map<uint64_t, uint64_t> distances;
      const DistanceCounts own = profile.counts(size);
      const std::vector<uint64_t>& histogram = own.uses;
      for (size_t i = 0; i < histogram.size(); ++i) {
        if (histogram[i] != 0) distances[i] = histogram[i];
      }
      distances[LruStack::kNew] = own.cold;
      EXPECT_EQ(distances, plain.distances[size]) << kind << ", size " << size;
      EXPECT_EQ(own.pages, own.cold);
    }
  }
}

TEST(PageProfile, AWarmUpLeavesTheOrderAndNoCounts) {
  std::vector<TraceRecord> records;
  for (uint64_t i = 0; i < 100; ++i) {
    records.push_back(TraceRecord::Make(Gva((i % 5) << 12), AccessKind::kLoad, 0));
  }
  PageProfile profile;
  profile.Add(absl::MakeConstSpan(records).first(50));
  profile.ClearCounts();
  profile.Add(absl::MakeConstSpan(records).subspan(50));
  profile.Settle();
  EXPECT_EQ(profile.counts(0).cold, 0u);
  EXPECT_EQ(profile.counts(0).uses[4], 50u);
  EXPECT_EQ(profile.counts(0).pages, 5u);
}

TEST(MissCurve, CountsTheUsesThatDoNotFit) {
  // There are 10 first uses, then 100 at distance 0, 20 at 1, 5 at 3.
  const MissCurve curve = MakeMissCurve(4096, {{100, 20, 0, 5}, 10, 4});
  EXPECT_EQ(curve.entries, (std::vector<uint64_t>{1, 2, 3, 4}));
  EXPECT_EQ(curve.misses, (std::vector<uint64_t>{35, 15, 15, 10}));
  const MissCurve long_curve = MakeMissCurve(4096, {std::vector<uint64_t>(100, 1), 0, 100});
  EXPECT_EQ(long_curve.entries,
            (std::vector<uint64_t>{1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128}));
  EXPECT_EQ(long_curve.misses.back(), 0u);
  EXPECT_EQ(long_curve.misses[12], 4u);
}

TEST(TopPages, NamesTheMostUsedFirst) {
  absl::flat_hash_map<uint64_t, uint64_t> accesses = {{1, 5}, {2, 9}, {3, 5}, {4, 1}};
  absl::flat_hash_map<uint64_t, uint64_t> walks = {{3, 2}};
  const std::vector<PageUse> top = TopPages(accesses, walks, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[0].gva, 0x2000u);
  EXPECT_EQ(top[1].gva, 0x1000u);
  EXPECT_EQ(top[2].gva, 0x3000u);
  EXPECT_EQ(top[2].walks, 2u);
}

}  // namespace
}  // namespace tdp::tools
