// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/paging_entry.h"

#include "gtest/gtest.h"

namespace tdp {
namespace {

constexpr GuestRights kAll{GuestRights::kAll};
constexpr GuestRights kRead{0};

TEST(PagingEntry, ALeafSaysWhatItWasMadeOf) {
  for (unsigned rights = 0; rights <= GuestRights::kAll; ++rights) {
    for (const Level level : {kLevel4K, kLevel2M, kLevel1G}) {
      const Hfn frame(level.pages().raw() * 3);
      const PagingEntry leaf = PagingEntry::Leaf(frame, level, GuestRights(rights));
      EXPECT_EQ(leaf.kind(level), EntryKind::kLeaf);
      EXPECT_EQ(leaf.frame(), frame);
      EXPECT_EQ(leaf.rights(), GuestRights(rights));
    }
  }
}

TEST(PagingEntry, WalksHaveNothingToWrite) {
  EXPECT_TRUE(PagingEntry::Table(Hpa(0x1000)).accessed());
  const uint64_t writable = PagingEntry::Leaf(Hfn(1), kLevel4K, kAll).raw();
  EXPECT_EQ(writable & (guest::kAccessed | guest::kDirty), guest::kAccessed | guest::kDirty);
  const uint64_t read_only = PagingEntry::Leaf(Hfn(1), kLevel4K, kRead).raw();
  EXPECT_EQ(read_only & (guest::kAccessed | guest::kDirty), guest::kAccessed);
}

TEST(PagingEntry, ATableAllowsEverything) {
  const PagingEntry table = PagingEntry::Table(Hpa(0x5000));
  EXPECT_EQ(table.kind(kLevel2M), EntryKind::kTable);
  EXPECT_EQ(table.address(), Hpa(0x5000));
  EXPECT_EQ(table.rights(), kAll);
}

TEST(PagingEntry, WhatTheEngineRemembersIsIgnoredByPaePaging) {
  const PagingEntry plain = PagingEntry::Leaf(Hfn(1), kLevel4K, kAll);
  constexpr uint64_t kIgnored = guest::Bits(11, 9);
  EXPECT_EQ((plain.WithHostWritable().raw() ^ plain.raw()) & ~kIgnored, 0u);
}

TEST(PagingEntry, NarrowingNeverWidens) {
  for (unsigned before = 0; before <= GuestRights::kAll; ++before) {
    for (unsigned to = 0; to <= GuestRights::kAll; ++to) {
      const PagingEntry leaf = PagingEntry::Leaf(Hfn(1), kLevel4K, GuestRights(before));
      EXPECT_EQ(leaf.NarrowedTo(GuestRights(to)).rights(), GuestRights(before & to));
    }
  }
}

TEST(PagingEntry, AFlushIsOwedForWhatACpuMustForget) {
  const PagingEntry all = PagingEntry::Leaf(Hfn(1), kLevel4K, kAll);
  const PagingEntry none = PagingEntry::Leaf(Hfn(1), kLevel4K, GuestRights(GuestRights::kUser));
  EXPECT_TRUE(all.OwesFlushFor(all.WithoutWrite()));
  EXPECT_FALSE(all.WithoutWrite().OwesFlushFor(all));
  EXPECT_TRUE(all.OwesFlushFor(none));
  EXPECT_FALSE(none.OwesFlushFor(all));
  const PagingEntry supervisor =
      all.NarrowedTo(GuestRights(GuestRights::kAll & ~GuestRights::kUser));
  EXPECT_TRUE(all.OwesFlushFor(supervisor)) << "SMEP and SMAP see another page";
  EXPECT_TRUE(supervisor.OwesFlushFor(all));
  EXPECT_TRUE(all.MapsAs(supervisor));
  EXPECT_FALSE(all.MapsAs(PagingEntry::Leaf(Hfn(2), kLevel4K, kAll)));
}

}  // namespace
}  // namespace tdp
