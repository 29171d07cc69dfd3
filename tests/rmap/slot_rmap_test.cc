// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/rmap/slot_rmap.h"

#include <atomic>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr Gfn kBase{0x3ff};  // in the middle of a 2 MiB frame
constexpr PageCount kPages{0x50000};

class SlotRmapTest : public testing::Test {
 protected:
  // Maps `gfn` at `level`.
  void Set(Gfn gfn, Level level = kLevel4K) {
    ASSERT_TRUE(rmap_->Prepare(gfn).ok());
    RmapHead* head = rmap_->Find(gfn, level);
    ASSERT_NE(head, nullptr);
    *head = RmapHead::Single(&entry_);
  }
  std::vector<Gfn> Mapped(Level level, Gfn first, Gfn end) const {
    std::vector<Gfn> found;
    rmap_->ForEach(level, first, end, [&](Gfn gfn, RmapHead&) { found.push_back(gfn); });
    return found;
  }
  void TearDown() override {
    for (int level = 1; level <= SlotRmap::kLevels; ++level) {
      rmap_->ForEach(Level(level), rmap_->base(), rmap_->end(),
                     [](Gfn, RmapHead& head) { head = RmapHead(); });
    }
  }

  uint64_t entry_ = 0;
  std::unique_ptr<SlotRmap> rmap_ = *SlotRmap::Create(kBase, kPages);
};

TEST_F(SlotRmapTest, HeadsAreThereOncePrepared) {
  EXPECT_EQ(rmap_->Find(Gfn(0x1234), kLevel4K), nullptr);
  ASSERT_TRUE(rmap_->Prepare(Gfn(0x1234)).ok());
  for (int level = 1; level <= 3; ++level) {
    EXPECT_NE(rmap_->Find(Gfn(0x1234), Level(level)), nullptr) << level;
  }
  EXPECT_EQ(rmap_->Find(Gfn(0x1400), kLevel4K), nullptr) << "the next 2 MiB";
}

TEST_F(SlotRmapTest, FramesShareAHeadExactlyWhereALeafWouldMapBoth) {
  ASSERT_TRUE(rmap_->Prepare(Gfn(0x400)).ok());
  ASSERT_TRUE(rmap_->Prepare(Gfn(0x601)).ok());
  EXPECT_EQ(rmap_->Find(Gfn(0x400), kLevel2M), rmap_->Find(Gfn(0x5ff), kLevel2M));
  EXPECT_NE(rmap_->Find(Gfn(0x400), kLevel2M), rmap_->Find(Gfn(0x600), kLevel2M));
  EXPECT_NE(rmap_->Find(Gfn(0x400), kLevel4K), rmap_->Find(Gfn(0x401), kLevel4K));
  EXPECT_EQ(rmap_->Find(Gfn(0x400), kLevel1G), rmap_->Find(Gfn(0x601), kLevel1G));
}

TEST_F(SlotRmapTest, ForEachShowsTheRangeAndNothingElse) {
  for (const uint64_t gfn : {0x3ff, 0x400, 0x5ff, 0x600, 0x20000, 0x503fe}) Set(Gfn(gfn));
  EXPECT_THAT(
      Mapped(kLevel4K, kBase, rmap_->end()),
      ElementsAre(Gfn(0x3ff), Gfn(0x400), Gfn(0x5ff), Gfn(0x600), Gfn(0x20000), Gfn(0x503fe)));
  EXPECT_THAT(Mapped(kLevel4K, Gfn(0x400), Gfn(0x600)), ElementsAre(Gfn(0x400), Gfn(0x5ff)));
  EXPECT_THAT(Mapped(kLevel4K, Gfn(0x601), Gfn(0x20000)), IsEmpty());
}

TEST_F(SlotRmapTest, ALargeLeafIsShownForEachRangeThatItTouches) {
  Set(Gfn(0x800), kLevel2M);
  EXPECT_THAT(Mapped(kLevel2M, Gfn(0x801), Gfn(0x802)), ElementsAre(Gfn(0x800)));
  EXPECT_THAT(Mapped(kLevel2M, Gfn(0x600), Gfn(0x800)), IsEmpty());
}

TEST_F(SlotRmapTest, APageThatIsMappedOnceCostsEightBytes) {
  for (Gfn gfn = kBase; gfn < rmap_->end(); gfn += PageCount(1)) {
    ASSERT_TRUE(rmap_->Prepare(gfn).ok());
  }
  EXPECT_LE(static_cast<double>(rmap_->bytes()) / static_cast<double>(kPages.raw()), 8.1);
}

TEST_F(SlotRmapTest, ThreadsThatPrepareTheSameFrameGetTheSameHead) {
  std::atomic<int> ready{0};
  RmapHead* heads[2][64];
  const auto work = [&](int me) {
    ready.fetch_add(1);
    while (ready.load() < 2) std::this_thread::yield();
    for (uint64_t i = 0; i < 64; ++i) {
      const Gfn gfn(0x400 + i * 512);
      ASSERT_TRUE(rmap_->Prepare(gfn).ok());
      heads[me][i] = rmap_->Find(gfn, kLevel4K);
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  for (int i = 0; i < 64; ++i) EXPECT_EQ(heads[0][i], heads[1][i]);
}

// Each thread puts its mark into a head while it holds it, and looks whether it still stands there.
TEST_F(SlotRmapTest, OneThreadAtATimeHoldsAHead) {
  const Gfn gfn(0x400);
  ASSERT_TRUE(rmap_->Prepare(gfn).ok());
  constexpr int kRounds = 20'000;
  uint64_t marks[2];
  int wrong[2] = {};
  const auto work = [&](size_t me) {
    for (int i = 0; i < kRounds; ++i) {
      // Any head of the table will do: they share one lock.
      const SlotRmap::Hold hold(*rmap_, gfn + PageCount(static_cast<uint64_t>(i) % 512), kLevel4K);
      RmapHead& head = *rmap_->Find(gfn, kLevel4K);
      head = RmapHead::Single(&marks[me]);
      if (head.single() != &marks[me]) ++wrong[me];
    }
  };
  std::thread other(work, 1);
  work(0);
  other.join();
  EXPECT_EQ(wrong[0] + wrong[1], 0);
}

TEST_F(SlotRmapTest, HeadsOfTwoTablesAndOfTwoLevelsAreHeldAtATime) {
  ASSERT_TRUE(rmap_->Prepare(Gfn(0x400)).ok());
  ASSERT_TRUE(rmap_->Prepare(Gfn(0x600)).ok());
  const SlotRmap::Hold small(*rmap_, Gfn(0x400), kLevel4K);
  const SlotRmap::Hold next(*rmap_, Gfn(0x600), kLevel4K);
  const SlotRmap::Hold large(*rmap_, Gfn(0x400), kLevel2M);
  EXPECT_EQ(&small.head(), rmap_->Find(Gfn(0x400), kLevel4K)) << "found while it is held";
  EXPECT_EQ(&next.head(), rmap_->Find(Gfn(0x600), kLevel4K));
  EXPECT_EQ(&large.head(), rmap_->Find(Gfn(0x400), kLevel2M));
}

TEST_F(SlotRmapTest, NothingIsHeldWhereNothingWasPrepared) {
  const SlotRmap::Hold hold(*rmap_, Gfn(0x1234), kLevel4K);
  EXPECT_FALSE(hold.is_there());
  EXPECT_TRUE(rmap_->Prepare(Gfn(0x1234)).ok());
  EXPECT_NE(rmap_->Find(Gfn(0x1234), kLevel4K), nullptr);
}

TEST(SlotRmap, ASlotOfOnePageHasAHeadAtEachLevel) {
  auto rmap = *SlotRmap::Create(Gfn(0xfffff), PageCount(1));
  ASSERT_TRUE(rmap->Prepare(Gfn(0xfffff)).ok());
  for (int level = 1; level <= 3; ++level) {
    EXPECT_NE(rmap->Find(Gfn(0xfffff), Level(level)), nullptr);
  }
}

// Heads are counted from a chunk's beginning, which is not frame 0 this high up.
TEST(SlotRmap, AHeadIsShownWithTheFirstFrameOfItsLeafHoweverHighTheSlot) {
  const Gfn base(uint64_t{5} << 27);  // 5 chunks of 1 GiB leaves
  const auto rmap = *SlotRmap::Create(base, kLevel1G.pages());
  const Gfn gfn = base + kLevel2M.pages() + PageCount(7);
  ASSERT_TRUE(rmap->Prepare(gfn).ok());
  uint64_t entry = 0;
  for (const Level level : {kLevel4K, kLevel2M, kLevel1G}) {
    *rmap->Find(gfn, level) = RmapHead::Single(&entry);
    std::vector<Gfn> found;
    rmap->ForEach(level, base, rmap->end(), [&](Gfn first, RmapHead& head) {
      found.push_back(first);
      head = RmapHead();
    });
    EXPECT_THAT(found, ElementsAre(gfn.AlignDown(level.pages()))) << level.raw();
  }
}

}  // namespace
}  // namespace tdp
