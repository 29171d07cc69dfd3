// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/table_cursor.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {
namespace {

using ::testing::ElementsAre;

constexpr uint64_t kTable = Level::kEntries;  // frames of a table of leaves

class TableCursorTest : public testing::Test {
 protected:
  TableCursorTest()
      : pool_(host_, 1000, EptEntry::Empty()), cache_(pool_), mmu_({}, pool_, Root()) {}
  ~TableCursorTest() override {
    TableList all;
    TableList links;
    mmu_.ForEach([&](TablePage*, int, EptEntry entry, Level level) {
      if (entry.kind(level) == EntryKind::kTable) links.Push(TablePage::Of(mmu_.TableAt(entry)));
    });
    all.Splice(std::move(links));
    all.Push(mmu_.TakeRoot());
    pool_.Return(std::move(all));
  }
  TablePage* Root() {
    TableList one;
    EXPECT_TRUE(pool_.Take(1, one).ok());
    return one.Pop();
  }
  void Map(uint64_t gfn) {
    ASSERT_TRUE(cache_.Refill().ok());
    const EptEntry leaf =
        EptEntry::Leaf(Hfn(gfn + 1), kLevel4K, Access::ReadWrite(), MemoryType::kWriteBack);
    LeafMemo memo;
    ASSERT_TRUE(mmu_.Map({Gfn(gfn), kLevel4K, Access::Read(), leaf}, memo, cache_).is_mapped());
  }
  // Returns the frames of the leaves that a cursor over the range comes to, if it goes into every
  // table.
  std::vector<uint64_t> LeavesIn(uint64_t first, uint64_t end) {
    std::vector<uint64_t> found;
    for (TableCursor at(mmu_, {Gfn(first), Gfn(end)}); !at.at_end();) {
      const EptEntry entry = at.entry().Load();
      if (!at.is_leaving() && entry.kind(at.level()) == EntryKind::kTable) {
        at.Enter(entry);
        continue;
      }
      if (entry.kind(at.level()) == EntryKind::kLeaf) found.push_back(at.first().raw());
      at.Next();
    }
    return found;
  }

  MmuLock lock_;
  const MmuWriteSection section_{lock_};  // nobody else is there
  MinimalBackend host_;
  TablePool pool_;
  TableCache cache_;
  DirectMmu mmu_;
};

TEST_F(TableCursorTest, AnEmptyRangeHasNoEntry) {
  EXPECT_TRUE(TableCursor(mmu_, {Gfn(5), Gfn(5)}).at_end());
}

TEST_F(TableCursorTest, LeavesComeByFrameAndOnce) {
  for (const uint64_t gfn : {kTable * 700 + 3, uint64_t{0}, kTable - 1, kTable}) Map(gfn);
  EXPECT_THAT(LeavesIn(0, mmu_.end().raw()), ElementsAre(0, kTable - 1, kTable, kTable * 700 + 3));
}

TEST_F(TableCursorTest, TheRangeEndsBetweenTwoEntriesAndTwoTables) {
  for (const uint64_t gfn : {kTable - 2, kTable - 1, kTable, kTable + 1}) Map(gfn);
  EXPECT_THAT(LeavesIn(kTable - 1, kTable), ElementsAre(kTable - 1));
  EXPECT_THAT(LeavesIn(kTable - 1, kTable + 1), ElementsAre(kTable - 1, kTable));
  EXPECT_THAT(LeavesIn(kTable, kTable + 1), ElementsAre(kTable));
}

TEST_F(TableCursorTest, TheFirstAndTheLastFrameThatTablesCanNameAreReached) {
  const uint64_t last = mmu_.end().raw() - 1;
  Map(0);
  Map(last);
  EXPECT_THAT(LeavesIn(0, 1), ElementsAre(0));
  EXPECT_THAT(LeavesIn(last, last + 1), ElementsAre(last));
}

TEST_F(TableCursorTest, ALinkIsSeenAgainAfterItsTable) {
  Map(0);
  TableCursor at(mmu_, {Gfn(0), Gfn(kTable)});
  while (at.level() > kLevel4K) at.Enter(at.entry().Load());
  EXPECT_EQ(at.tables_entered(), 3);
  EXPECT_EQ(at.last_index(), Level::kEntries - 1);
  at.Leave();
  for (int level = 2; level <= 4; ++level) {
    EXPECT_TRUE(at.is_leaving());
    EXPECT_EQ(at.level().raw(), level);
    EXPECT_EQ(at.first(), Gfn(0));
    at.Next();
  }
  EXPECT_TRUE(at.at_end());
}

TEST_F(TableCursorTest, WhatIsBelowAnEntryCanBeSkipped) {
  Map(0);
  Map(kTable);
  TableCursor at(mmu_, {Gfn(0), Gfn(2 * kTable)});
  while (at.level() > kLevel2M) at.Enter(at.entry().Load());
  EXPECT_EQ(at.first(), Gfn(0));
  EXPECT_TRUE(at.is_inside());
  at.Next();
  EXPECT_EQ(at.first(), Gfn(kTable));
  EXPECT_FALSE(at.is_leaving());
}

TEST_F(TableCursorTest, RightsAboveAreThoseOfEveryLinkOnTheWay) {
  Map(0);
  Map(kTable);
  EXPECT_TRUE(mmu_.WriteProtect(Gfn(0), Gfn(kTable)));
  TableCursor at(mmu_, {Gfn(0), Gfn(2 * kTable)});
  while (at.level() > kLevel4K) at.Enter(at.entry().Load());
  EXPECT_FALSE(at.above().can_write());
  at.Leave();
  at.Next();
  at.Enter(at.entry().Load());
  EXPECT_TRUE(at.above().can_write());
}

}  // namespace
}  // namespace tdp
