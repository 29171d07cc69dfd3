// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/table_scan.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <random>

#include "gtest/gtest.h"
#include "tdp/base/level.h"
#include "tdp/mmu/dirty/written_frames.h"

namespace tdp {
namespace {

struct alignas(4096) Table {
  std::array<uint64_t, Level::kEntries> entries{};
};

TEST(TableScan, FindsExactlyTheEntriesWithAnyOfTheBits) {
  std::mt19937_64 random(3);
  for (int round = 0; round < 2000; ++round) {
    Table table;
    const int density = 1 << random() % 10;
    for (uint64_t& entry : table.entries) {
      entry = random() & (random() % static_cast<uint64_t>(density) == 0 ? ~uint64_t{0} : 0xff);
    }
    const uint64_t bits = uint64_t{1} << (8 + random() % 56) | uint64_t{1} << (8 + random() % 56);
    for (size_t first = 0; first < Level::kEntries; first += 64) {
      uint64_t want = 0;
      for (size_t i = 0; i < 64; ++i) {
        want |= uint64_t{(table.entries[first + i] & bits) != 0} << i;
      }
      EXPECT_EQ(FindIn64EntriesWith(table.entries.data() + first, EntryBits{bits}), want) << first;
    }
  }
}

TEST(TableScan, LooksAtTheLinesAloneThatItIsGiven) {
  std::mt19937_64 random(9);
  Table table;
  for (uint64_t& entry : table.entries) entry = random() % 2 << 9;
  for (int round = 0; round < 2000; ++round) {
    const size_t first = random() % 8 * 64;
    const uint64_t lines = random() & random() & (round % 2 == 0 ? random() : 0xff);
    const uint64_t found =
        FindIn64EntriesWith(table.entries.data() + first, EntryBits{uint64_t{1} << 9}, lines);
    for (size_t i = 0; i < 64; ++i) {
      // The scan may look at more lines than it was given, and does where that is faster.
      if ((lines >> (i / 8) & 1) == 0) continue;
      EXPECT_EQ((found >> i & 1) != 0, table.entries[first + i] != 0) << first + i;
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

TEST(WrittenFrames, InsideAreThoseOfTheRange) {
  const WrittenFrames frames{Gfn(64), ~uint64_t{0}};
  for (uint64_t first = 0; first < 200; ++first) {
    for (uint64_t end = first; end < 200; ++end) {
      uint64_t want = 0;
      for (uint64_t i = 0; i < 64; ++i) want |= uint64_t{64 + i >= first && 64 + i < end} << i;
      ASSERT_EQ(frames.Inside({Gfn(first), Gfn(end)}), want) << first << " " << end;
    }
  }
  EXPECT_EQ((WrittenFrames{Gfn(64), 0b1011}.Inside({Gfn(65), Gfn(67)})), 0b0010u);
}

}  // namespace
}  // namespace tdp
