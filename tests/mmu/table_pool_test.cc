// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/table_pool.h"
#include "tests/world/test_host.h"

#include <atomic>
#include <set>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace tdp {
namespace {

constexpr size_t kPlenty = 1 << 20;

TEST(TablePool, TablesAreDistinctEmptyAndKnowTheirRecord) {
  MinimalBackend backend;
  TablePool pool(backend, kPlenty, EptEntry::Empty(true));
  TableList list;
  ASSERT_TRUE(pool.Take(200, list).ok());
  std::set<uint64_t*> seen;
  for (TablePage* page = list.head(); page != nullptr; page = page->next) {
    EXPECT_TRUE(seen.insert(page->entries()).second);
    EXPECT_EQ(TablePage::Of(page->entries()), page);
    EXPECT_EQ(pool.EntriesOf(pool.HpaOf(page->entries())), page->entries());
    EXPECT_EQ(page->entry(511).Load(), EptEntry::Empty(true));
  }
  EXPECT_EQ(seen.size(), 200u);
  pool.ReturnUnused(std::move(list));
}

TEST(TablePool, ReturnedTablesAreEmptyAgain) {
  MinimalBackend backend;
  TablePool pool(backend, kPlenty, EptEntry::Empty());
  TableList list;
  ASSERT_TRUE(pool.Take(1, list).ok());
  list.head()->entries()[17] = 0x1234;
  pool.Return(std::move(list));
  TableList again;
  ASSERT_TRUE(pool.Take(static_cast<size_t>(kTablesPerBlock), again).ok());
  EXPECT_EQ(pool.reserved_bytes(), kTableBlockBytes) << "the same block";
  for (TablePage* page = again.head(); page != nullptr; page = page->next) {
    for (int i = 0; i < Level::kEntries; ++i) ASSERT_TRUE(page->entry(i).Load().is_hole());
  }
  pool.ReturnUnused(std::move(again));
}

TEST(TablePool, AReserveIsTakenWithoutTheBackend) {
  TestHost backend;
  TablePool pool(backend, kPlenty, EptEntry::Empty());
  backend.blocks = 2;
  ASSERT_TRUE(pool.Reserve(kTablesPerBlock + 1).ok());
  EXPECT_EQ(backend.blocks, 0);
  ASSERT_TRUE(pool.Reserve(1).ok()) << "it is there already";
  TableList list;
  ASSERT_TRUE(pool.Take(kTablesPerBlock + 1, list).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Reserve(kTablesPerBlock)))
      << "what is left does not reach, and the backend has none";
  EXPECT_TRUE(pool.Reserve(kTablesPerBlock - 1).ok());
  pool.ReturnUnused(std::move(list));
}

TEST(TablePool, AReserveBeyondTheQuotaIsRefusedByItsNumbers) {
  MinimalBackend backend;
  TablePool pool(backend, 10, EptEntry::Empty());
  TableList list;
  ASSERT_TRUE(pool.Take(4, list).ok());
  EXPECT_TRUE(pool.Reserve(6).ok());
  EXPECT_EQ(pool.Reserve(7).message(), "table quota 10 reached: 4 in use, 7 more asked for");
  pool.ReturnUnused(std::move(list));
}

TEST(TablePool, AReserveThatOnlyTheSpareMakesTooLargeToCountIsNotThere) {
  TestHost backend;
  TablePool pool(backend, ~size_t{0}, EptEntry::Empty());
  backend.blocks = 2;
  TableList list;
  ASSERT_TRUE(pool.Take(1, list).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Reserve(~size_t{0} - 1, 4)));
  pool.ReturnUnused(std::move(list));
}

TEST(TablePool, BlocksWithoutATableInUseGoBackToTheBackend) {
  TestHost backend;
  backend.blocks = 3;
  TablePool pool(backend, kPlenty, EptEntry::Empty());
  TableList all;
  ASSERT_TRUE(pool.Take(3 * static_cast<size_t>(kTablesPerBlock), all).ok());
  EXPECT_EQ(pool.ReleaseBlocks(), 0u) << "all are in use";
  TableList rest;
  TablePage* last = all.Pop();
  pool.ReturnUnused(std::move(all));
  EXPECT_EQ(pool.ReleaseBlocks(), 2 * kTableBlockBytes) << "one block has a table in use";
  EXPECT_EQ(pool.reserved_bytes(), kTableBlockBytes);
  EXPECT_EQ(pool.ReleaseBlocks(), 0u);
  ASSERT_TRUE(pool.Take(static_cast<size_t>(kTablesPerBlock) - 1, rest).ok())
      << "the free tables of the block that stays are still there";
  for (TablePage* page = rest.head(); page != nullptr; page = page->next) {
    EXPECT_EQ(page->block(), last->block());
  }
  rest.Push(last);
  pool.ReturnUnused(std::move(rest));
  EXPECT_EQ(pool.ReleaseBlocks(), kTableBlockBytes);
  EXPECT_EQ(pool.reserved_bytes(), 0u);
  backend.blocks = 1;
  TableList again;
  EXPECT_TRUE(pool.Take(1, again).ok()) << "and they come again";
  pool.ReturnUnused(std::move(again));
}

TEST(TablePool, ABlockStaysAsLongAsSomebodyMayReadATableOfIt) {
  MinimalBackend backend;
  TablePool pool(backend, kPlenty, EptEntry::Empty());
  TableList all;
  ASSERT_TRUE(pool.Take(2 * static_cast<size_t>(kTablesPerBlock), all).ok());
  const uint64_t* const read = all.head()->entries();
  pool.ReturnUnused(std::move(all));
  ASSERT_EQ(pool.ReleaseBlocks([&](TablePool::Keep keep) { keep(read); }), kTableBlockBytes);
  EXPECT_EQ(EptEntry(*read), EptEntry::Empty());
  EXPECT_EQ(pool.ReleaseBlocks(), kTableBlockBytes);
}

TEST(TablePool, TakesAllOrNothingFromAPoorBackend) {
  TestHost backend;
  TablePool pool(backend, kPlenty, EptEntry::Empty());
  backend.blocks = 1;
  TableList list;
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Take(kTablesPerBlock + 1, list)));
  EXPECT_TRUE(list.empty());
  EXPECT_EQ(pool.taken(), 0u);
  ASSERT_TRUE(pool.Take(kTablesPerBlock, list).ok()) << "what was there can still be had";
  backend.blocks = 1;
  ASSERT_TRUE(pool.Take(1, list).ok()) << "and more once there is memory";
  pool.ReturnUnused(std::move(list));
}

TEST(TablePool, KeepsToItsQuota) {
  MinimalBackend backend;
  TablePool pool(backend, 10, EptEntry::Empty());
  TableList list;
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Take(11, list)));
  ASSERT_TRUE(pool.Take(10, list).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(pool.Take(1, list)));
  pool.set_quota(11);
  EXPECT_TRUE(pool.Take(1, list).ok());
  pool.ReturnUnused(std::move(list));
}

TEST(TablePool, AThreadThatAsksForTooMuchKeepsNothingFromAnother) {
  MinimalBackend backend;
  TablePool pool(backend, 10, EptEntry::Empty());
  std::atomic<int> asked = 0;
  std::atomic<bool> done = false;
  std::thread greedy([&] {
    TableList list;
    while (!done) {
      EXPECT_FALSE(pool.Take(11, list).ok());
      ++asked;
    }
  });
  int refused = 0;
  while (asked < 200000) {
    TableList list;
    refused += pool.Take(5, list).ok() ? 0 : 1;
    pool.ReturnUnused(std::move(list));
  }
  done = true;
  greedy.join();
  EXPECT_EQ(refused, 0);
}

TEST(TableCache, RefillsToWhatAFaultCanNeedEvenNearTheQuota) {
  MinimalBackend backend;
  TablePool pool(backend, TableCache::kFaultMaximum, EptEntry::Empty());
  TableCache cache(pool);
  ASSERT_TRUE(cache.Refill().ok());
  EXPECT_EQ(cache.size(), TableCache::kFaultMaximum);
  TableList one;
  one.Push(cache.Pop());
  EXPECT_TRUE(absl::IsResourceExhausted(cache.Refill()));
  EXPECT_EQ(cache.size(), TableCache::kFaultMaximum - 1) << "what was there stays";
  pool.ReturnUnused(std::move(one));
  EXPECT_TRUE(cache.Refill().ok());
}

TEST(TableList, SpliceKeepsEveryTable) {
  TablePage pages[4];
  TableList a;
  TableList b;
  a.Push(&pages[0]);
  a.Push(&pages[1]);
  b.Push(&pages[2]);
  b.Push(&pages[3]);
  a.Splice(std::move(b));
  a.Splice(TableList());
  std::set<TablePage*> seen;
  while (TablePage* page = a.Pop()) seen.insert(page);
  EXPECT_EQ(seen.size(), 4u);
}

}  // namespace
}  // namespace tdp
