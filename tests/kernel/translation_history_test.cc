// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/translation_history.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp::kernel {
namespace {

using testing::ElementsAre;

using testing::UnorderedElementsAre;

constexpr uint64_t kRoot = 0x1000;
constexpr uint64_t kTableA = 0x2000;
constexpr uint64_t kTableB = 0x3000;
constexpr uint64_t kGva = 0x400000;        // by the second entry of the root, the first of a table
constexpr uint64_t kNeighbour = 0x401000;  // by the same table
constexpr uint64_t kFar = 0xc00000;        // by another
constexpr uint64_t kTableBits = kPresent | kWritable | kUser;

// This CPU has 32-bit paging (or another mode of two levels): small enough to see every case.
class History : public testing::Test {
 protected:
  explicit History(sim::PagingMode mode = sim::PagingMode::k32Bit)
      : shape_(PagingShape::Of(mode)), memory_(shape_.entry_bytes), history_(shape_, memory_) {
    for (const uint64_t table : {kRoot, kTableA, kTableB}) memory_.SetTable(table, true);
    Store(Entry(kRoot, kGva, 2), kTableA | kTableBits);
    history_.LoadRoot(++now_, 0, kRoot, {});
    history_.KillAll(++now_);
  }

  uint64_t Entry(uint64_t table, uint64_t gva, int level) const {
    return shape_.EntryAt(table, gva, level);
  }
  void Store(uint64_t at, uint64_t value) { memory_.Store(++now_, at, shape_.entry_bytes, value); }
  void Map(uint64_t table, uint64_t gva, uint64_t frame, uint64_t bits = kPresent) {
    Store(Entry(table, gva, 1), frame | bits);
  }

  // Returns the frames that `gva` may lead to, in order; 0 stands for a page that is not present.
  std::vector<uint64_t> Frames(uint64_t gva, bool globals = false) {
    std::vector<uint64_t> frames;
    for (const LegalWalk& walk : history_.Walks(++now_, gva, globals)) {
      frames.push_back(walk.end == LegalWalk::End::kLeaf ? walk.leaf & kFrame : 0);
    }
    std::sort(frames.begin(), frames.end());
    frames.erase(std::unique(frames.begin(), frames.end()), frames.end());
    return frames;
  }

  PagingShape shape_;
  FlatMemory memory_;
  TranslationHistory history_;
  Time now_ = 0;
};

TEST_F(History, ALeafThatChangedMayBeUsedUntilItsPageIsInvalidated) {
  Map(kTableA, kGva, 0x10000);
  Map(kTableA, kGva, 0x20000);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000, 0x20000));
  history_.KillPage(++now_, kNeighbour);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000, 0x20000)) << "another page's invalidation";
  history_.KillPage(++now_, kGva);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x20000));
}

TEST_F(History, WhatWasNotPresentIsNeverKept) {
  Map(kTableA, kGva, 0x10000);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000));
}

TEST_F(History, APageThatWasTakenAwayIsThereOrNotUntilItIsInvalidated) {
  Map(kTableA, kGva, 0x10000);
  Store(Entry(kTableA, kGva, 1), 0);
  EXPECT_THAT(Frames(kGva), ElementsAre(0, 0x10000));
  history_.KillPcid(++now_, 0);
  EXPECT_THAT(Frames(kGva), ElementsAre(0));
}

TEST_F(History, AnUpperEntryIsKeptApartFromTheLeaves) {
  Map(kTableA, kGva, 0x10000);
  Map(kTableB, kGva, 0x20000);
  Store(Entry(kRoot, kGva, 2), kTableB | kTableBits);
  Map(kTableA, kGva, 0x30000);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000, 0x20000, 0x30000))
      << "0x30000 came into the old table after that was replaced";
  history_.KillPage(++now_, kFar);
  Map(kTableA, kGva, 0x40000);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000, 0x20000, 0x30000))
      << "INVLPG of any page drops all upper entries, but only its own leaf";
}

TEST_F(History, InvpcidOfOneAddressLeavesUpperEntriesElsewhere) {
  Map(kTableB, kGva, 0x20000);
  Store(Entry(kRoot, kGva, 2), kTableB | kTableBits);
  history_.KillAddress(++now_, 0, kFar);
  Map(kTableA, kGva, 0x30000);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x20000, 0x30000));
  history_.KillAddress(++now_, 0, kNeighbour);
  Map(kTableA, kGva, 0x40000);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x20000, 0x30000)) << "the same upper entry";
}

TEST_F(History, APageFaultDropsWhatLedToIt) {
  Map(kTableA, kGva, 0x10000);
  Map(kTableA, kGva, 0x20000);
  history_.KillFaulting(++now_, kNeighbour);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000, 0x20000));
  history_.KillFaulting(++now_, kGva);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x20000));
}

TEST_F(History, AGlobalPageOutlivesTheLoadOfCr3) {
  Map(kTableA, kGva, 0x10000, kPresent | kGlobal);
  Map(kTableA, kGva, 0x20000);
  history_.KillPcid(++now_, 0);
  history_.LoadRoot(++now_, 0, kRoot, {});
  EXPECT_THAT(Frames(kGva, true), ElementsAre(0x10000, 0x20000));
  EXPECT_THAT(Frames(kGva, false), ElementsAre(0x20000)) << "with CR4.PGE off none is global";
  history_.KillPage(++now_, kGva);
  EXPECT_THAT(Frames(kGva, true), ElementsAre(0x20000));
}

TEST_F(History, AGlobalPageIsSharedByAllPcids) {
  Map(kTableA, kGva, 0x10000, kPresent | kGlobal);
  Map(kTableA, kNeighbour, 0x20000);
  history_.LoadRoot(++now_, 7, kTableB, {});
  EXPECT_THAT(Frames(kGva, true), ElementsAre(0, 0x10000));
  EXPECT_THAT(Frames(kNeighbour, true), ElementsAre(0));
}

TEST_F(History, APcidLearnsNothingWhileItIsNotInUse) {
  Map(kTableA, kGva, 0x10000);
  history_.LoadRoot(++now_, 7, kTableB, {});
  Map(kTableA, kGva, 0x20000);
  Map(kTableA, kGva, 0x30000);
  history_.LoadRoot(++now_, 0, kRoot, {});
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000, 0x30000)) << "0x20000 was never to be seen";
  history_.KillPcid(++now_, 7);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000, 0x30000));
  history_.KillNotGlobal(++now_);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x30000));
}

TEST_F(History, InvlpgAnywhereInALargePageDropsAllOfIt) {
  Store(Entry(kRoot, kGva, 2), 0x800000 | kPresent | kLarge);
  Store(Entry(kRoot, kGva, 2), 0xc00000 | kPresent | kLarge);
  history_.KillFaulting(++now_, kNeighbour);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x800000, 0xc00000)) << "a fault drops one piece";
  history_.KillPage(++now_, kNeighbour);
  EXPECT_THAT(Frames(kGva), ElementsAre(0xc00000));
}

TEST_F(History, RightsAreThoseOfTheWalkThatWasMade) {
  Map(kTableA, kGva, 0x10000, kPresent | kWritable);
  Map(kTableA, kGva, 0x10000, kPresent);
  std::vector<bool> writable;
  for (const LegalWalk& walk : history_.Walks(++now_, kGva, false)) {
    writable.push_back(walk.rights.writable);
  }
  EXPECT_THAT(writable, UnorderedElementsAre(true, false));
}

class PaeHistory : public History {
 protected:
  PaeHistory() : History(sim::PagingMode::kPae) {}
};

TEST_F(PaeHistory, PdptesAreWhatWasLoadedUntilTheyAreLoadedAgain) {
  std::array<uint64_t, 4> pdptes = {kRoot | kPresent, 0, 0, 0};
  Map(kTableA, kGva, 0x10000);
  history_.LoadRoot(++now_, 0, 0x9000, pdptes);
  history_.KillAll(++now_);
  EXPECT_THAT(Frames(kGva), ElementsAre(0x10000));
  EXPECT_THAT(Frames(kGva + 0x40000000), ElementsAre(0));
  pdptes[0] = 0;
  history_.LoadRoot(++now_, 0, 0x9000, pdptes);
  EXPECT_THAT(Frames(kGva), ElementsAre(0, 0x10000)) << "the leaf may be kept";
  history_.KillPcid(++now_, 0);
  EXPECT_THAT(Frames(kGva), ElementsAre(0));
}

TEST(FlatMemory, TheCpuMaySetAccessedInPresentEntriesAndDirtyOnlyAfterAWrite) {
  FlatMemory memory(8);
  memory.SetTable(0x1000, true);
  memory.Store(1, 0x1000, 8, 0x5000 | kPresent);
  memory.Store(2, 0x1008, 8, 0x6000);
  EXPECT_TRUE(memory.Matches(0x1000, 8, 0x5000 | kPresent | kAccessed));
  EXPECT_FALSE(memory.Matches(0x1000, 8, 0x5000 | kPresent | kAccessed | kDirty));
  EXPECT_FALSE(memory.Matches(0x1008, 8, 0x6000 | kAccessed));
  memory.NoteWriteThrough(0x1000);
  EXPECT_TRUE(memory.Matches(0x1000, 8, 0x5000 | kPresent | kAccessed | kDirty));
  memory.Adopt(0x1000, 8, 0x5000 | kPresent | kAccessed);
  EXPECT_FALSE(memory.Matches(0x1000, 8, 0x5000 | kPresent)) << "nobody clears it but the guest";
}

TEST(FlatMemory, AnEntryStoredByHalvesHasEachStateThatWasThere) {
  FlatMemory memory(8);
  memory.SetTable(0x1000, true);
  memory.Store(1, 0x1004, 4, 0x80000000);
  memory.Store(2, 0x1000, 4, 0x5000 | kPresent);
  std::vector<uint64_t> values;
  for (const EntryVersion& version : memory.Versions(0x1000)) values.push_back(version.value);
  EXPECT_THAT(values, ElementsAre(0, uint64_t{1} << 63, 0x8000000000005001));
  memory.Forget(2);
  EXPECT_EQ(memory.Versions(0x1000).size(), 1u);
}

}  // namespace
}  // namespace tdp::kernel
