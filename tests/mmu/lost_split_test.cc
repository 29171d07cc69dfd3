// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A split comes too late here for the leaf that it saw.

#include <utility>

#include "gtest/gtest.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {
namespace {

// The CPU sets D of the leaf between its load and the split.
TEST(LostSplit, LeavesTheLeafAsItIsAndNothingInItsTable) {
  MinimalBackend host;
  MmuLock lock;
  const MmuWriteSection section(lock);  // nobody else is there
  TablePool pool(host, 1000, EptEntry::Empty());
  TableCache cache(pool);
  TableList tables;
  ASSERT_TRUE(pool.Take(1, tables).ok());
  DirectMmu mmu({}, pool, tables.Pop());
  ASSERT_TRUE(cache.Refill().ok());
  const EptEntry leaf =
      EptEntry::Leaf(Hfn(512), kLevel4K, Access::All(), MemoryType::kWriteBack).WithAccessed();
  LeafMemo memo;
  ASSERT_TRUE(mmu.Map({Gfn(0), kLevel2M, Access::Read(), leaf}, memo, cache).is_mapped());
  const auto [at, seen] = mmu.Descend(mmu.Root(), Gfn(0), kLevel4K);
  ASSERT_EQ(at.level, kLevel2M);
  at.entry(Gfn(0)).Exchange(seen.WithDirty());
  const int tables_before = cache.size();
  EXPECT_FALSE(mmu.Split(at, Gfn(0), seen, cache));
  EXPECT_EQ(at.entry(Gfn(0)).Load(), seen.WithDirty());
  ASSERT_EQ(cache.size(), tables_before);
  TablePage* const table = cache.Pop();
  for (int i = 0; i < Level::kEntries; ++i) {
    ASSERT_TRUE(table->entry(i).Load().is_hole()) << "entry " << i;
  }
  cache.PushUnused(table);
  mmu.ForEach([&](TablePage*, int, EptEntry entry, Level level) {
    if (entry.kind(level) == EntryKind::kTable) tables.Push(TablePage::Of(mmu.TableAt(entry)));
  });
  tables.Push(mmu.TakeRoot());
  pool.Return(std::move(tables));
}

}  // namespace
}  // namespace tdp
