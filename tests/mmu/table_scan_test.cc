// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/table_scan.h"

#include <array>
#include <cstdint>
#include <random>

#include "gtest/gtest.h"

namespace tdp {
namespace {

struct alignas(4096) Table {
  std::array<uint64_t, Level::kEntries> entries{};
};

TEST(TableScan, FindsExactlyTheEntriesWithAnyOfTheBitsInsideTheBounds) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 2000; ++round) {
    Table table;
    const int density = 1 << random() % 10;
    for (uint64_t& entry : table.entries) {
      entry = random() & (random() % static_cast<uint64_t>(density) == 0 ? ~uint64_t{0} : 0xff);
    }
    const uint64_t bits = uint64_t{1} << (8 + random() % 56) | uint64_t{1} << (8 + random() % 56);
    int first = static_cast<int>(random() % 512);
    int last = static_cast<int>(random() % 512);
    if (first > last) std::swap(first, last);
    const TableMask found = FindEntriesWith(table.entries.data(), EntryBits{bits}, first, last);
    for (int i = 0; i < Level::kEntries; ++i) {
      const bool want =
          i >= first && i <= last && (table.entries[static_cast<size_t>(i)] & bits) != 0;
      EXPECT_EQ((found.word(i / 64) >> (i % 64) & 1) != 0, want) << i;
    }
  }
}

TEST(TableScan, LooksAtTheLinesAloneThatItIsGiven) {
  std::mt19937_64 random(9);
  Table table;
  for (uint64_t& entry : table.entries) entry = random() % 2 << 9;
  for (int round = 0; round < 200; ++round) {
    const uint64_t lines = random() & random() & (round % 2 == 0 ? random() : ~uint64_t{0});
    const TableMask found = FindEntriesWith(table.entries.data(), EntryBits{uint64_t{1} << 9}, 0,
                                            Level::kEntries - 1, lines);
    for (int i = 0; i < Level::kEntries; ++i) {
      // More than it is given may be looked at, and is where that is faster.
      if ((lines >> (i / 8) & 1) == 0) continue;
      const bool want = table.entries[static_cast<size_t>(i)] != 0;
      EXPECT_EQ((found.word(i / 64) >> (i % 64) & 1) != 0, want) << i;
    }
  }
}

TEST(TableScan, ALineIsInUseIfOneOfItsEntriesIsNoHole) {
  for (int i = 0; i < Level::kEntries; ++i) {
    Table table;
    table.entries[static_cast<size_t>(i)] = 1;
    EXPECT_EQ(FindLinesInUse(table.entries.data()), uint64_t{1} << (i / 8));
    table.entries[static_cast<size_t>(i)] = ept::kSuppressVe;
    EXPECT_EQ(FindLinesInUse(table.entries.data()), 0u);
  }
}

TEST(TableMask, VisitsItsBitsInOrder) {
  TableMask mask;
  for (const int i : {0, 63, 64, 300, 511}) mask.Set(i);
  mask.Set(100);
  mask.Clear(100);
  int before = -1;
  int count = 0;
  mask.ForEach([&](int i) {
    EXPECT_GT(i, before);
    before = i;
    ++count;
  });
  EXPECT_EQ(count, 5);
  EXPECT_EQ(mask.count(), 5);
  EXPECT_TRUE(mask.any());
  EXPECT_FALSE(TableMask().any());
}

}  // namespace
}  // namespace tdp
