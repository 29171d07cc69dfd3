// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/table_reach.h"

#include <gtest/gtest.h>

#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGpa = GiB(5) + MiB(6) + 0x3000;

class TableReachTest : public testing::Test {
 protected:
  TableReachTest() : reach_(world_.physical(), false) {
    world_.MapEpt(kGpa, MiB(512));
    reach_.SetRoot(world_.eptp().root(), 4);
  }
  Hpa TableAt(int level) {
    return Hpa(world_.Load(world_.EptEntryAt(kGpa, level + 1)) & ept::kAddressMask);
  }

  World world_;
  TableReach reach_;
};

TEST_F(TableReachTest, FindsEveryLinkedTableWithItsLevelAndAddress) {
  EXPECT_EQ(reach_.LinkedFrames().size(), 4u);
  EXPECT_EQ(reach_.LinkedFrames()[0], world_.eptp().root());
  const TableReach::Place* place = reach_.Find(TableAt(1));
  ASSERT_NE(place, nullptr);
  EXPECT_EQ(place->level, 1);
  EXPECT_EQ(place->address, kGpa & ~(MiB(2) - 1));
  EXPECT_EQ(reach_.UseOf(Hpa(MiB(512))), FrameUse::kNone) << "a page is no table";
}

TEST_F(TableReachTest, AnUnlinkedSubtreeMayBeCachedUntilTheFlush) {
  const Hpa upper = TableAt(2);
  const Hpa lower = TableAt(1);
  world_.Store(world_.EptEntryAt(kGpa, 3), 0);
  EXPECT_EQ(reach_.UseOf(lower), FrameUse::kLinked) << "nobody has looked";
  reach_.Rescan();
  EXPECT_EQ(reach_.UseOf(upper), FrameUse::kMayBeCached);
  EXPECT_EQ(reach_.UseOf(lower), FrameUse::kMayBeCached);
  EXPECT_EQ(reach_.Find(lower), nullptr);
  reach_.OnFlush();
  EXPECT_EQ(reach_.UseOf(upper), FrameUse::kNone);
  EXPECT_EQ(reach_.UseOf(lower), FrameUse::kNone);
  EXPECT_EQ(reach_.UseOf(world_.eptp().root()), FrameUse::kLinked);
}

TEST_F(TableReachTest, ATableThatIsLinkedAgainIsLinked) {
  const Hpa lower = TableAt(1);
  const uint64_t place = world_.EptEntryAt(kGpa, 2);
  const uint64_t entry = world_.Load(place);
  world_.Store(place, 0);
  reach_.Rescan();
  world_.Store(place, entry);
  reach_.Rescan();
  reach_.OnFlush();
  EXPECT_EQ(reach_.UseOf(lower), FrameUse::kLinked);
}

TEST_F(TableReachTest, WhatAnotherRootLeadsToMayBeCachedUntilItsFlush) {
  const Hpa old_root = world_.eptp().root();
  const Hpa upper = TableAt(3);
  const Hpa lower = TableAt(1);
  reach_.SetRoot(upper, 3);  // the tables below it are the new root's as well
  EXPECT_EQ(reach_.UseOf(old_root), FrameUse::kMayBeCached);
  EXPECT_EQ(reach_.UseOf(lower), FrameUse::kLinked);
  reach_.OnFlush(upper);
  EXPECT_EQ(reach_.UseOf(old_root), FrameUse::kMayBeCached) << "another root was flushed";
  reach_.OnFlush(old_root);
  EXPECT_EQ(reach_.UseOf(old_root), FrameUse::kNone);
  EXPECT_EQ(reach_.UseOf(lower), FrameUse::kLinked);
  reach_.Reset();
  EXPECT_EQ(reach_.UseOf(lower), FrameUse::kNone);
}

TEST_F(TableReachTest, ALargeLeafIsNoTable) {
  const Hpa lower = TableAt(1);
  world_.Store(world_.EptEntryAt(kGpa, 2), lower.raw() | kRwx | ept::kLargePage);
  reach_.Rescan();
  EXPECT_EQ(reach_.UseOf(lower), FrameUse::kMayBeCached);
}

TEST_F(TableReachTest, TablesThatLeadIntoEachOtherEndTheWalk) {
  world_.Store(world_.EptEntryAt(kGpa, 2), world_.eptp().root().raw() | kRwx);
  reach_.Rescan();
  EXPECT_EQ(reach_.LinkedFrames().size(), 3u);
}

}  // namespace
}  // namespace tdp::sim
