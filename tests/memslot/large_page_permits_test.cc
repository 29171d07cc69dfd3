// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/large_page_permits.h"

#include <cstdint>
#include <map>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"

namespace tdp {
namespace {

constexpr Hva kHva{0x7f0000000000};

LargePagePermits PermitsOf(uint64_t base_gfn, uint64_t pages, Hva hva) {
  return LargePagePermits(Gfn(base_gfn), PageCount(pages), hva);
}

TEST(LargePagePermits, AnAlignedGibibyteMayBeOneLeaf) {
  const auto permits = PermitsOf(1 << 18, 1 << 18, kHva);
  EXPECT_EQ(permits.MaxLevel(Gfn(1 << 18)), kLevel1G);
  EXPECT_EQ(permits.MaxLevel(Gfn((1 << 19) - 1)), kLevel1G);
}

TEST(LargePagePermits, TheFirstAndLastFrameOfAnUnalignedSlotAreAgainst) {
  const auto permits = PermitsOf(0x201, 0x1000, kHva + KiB(4));
  EXPECT_EQ(permits.MaxLevel(Gfn(0x201)), kLevel4K);
  EXPECT_EQ(permits.MaxLevel(Gfn(0x3ff)), kLevel4K);
  EXPECT_EQ(permits.MaxLevel(Gfn(0x400)), kLevel2M);
  EXPECT_EQ(permits.MaxLevel(Gfn(0x11ff)), kLevel2M);
  EXPECT_EQ(permits.MaxLevel(Gfn(0x1200)), kLevel4K);
  // Both ends are reasons and, at 1 GiB, incongruence is one.
  EXPECT_EQ(permits.ReasonsAgainst(Gfn(0x201), kLevel1G), 3u);
}

TEST(LargePagePermits, IncongruentSlotsHaveOneReasonEverywhere) {
  const auto permits = PermitsOf(0, 1 << 18, kHva + KiB(4));
  EXPECT_EQ(permits.ReasonsAgainst(Gfn(0x400), kLevel2M), 1u);
  EXPECT_EQ(permits.ReasonsAgainst(Gfn(0x400), kLevel1G), 1u);
  const auto by_2m = PermitsOf(0, 1 << 18, kHva + MiB(2));
  EXPECT_EQ(by_2m.MaxLevel(Gfn(0x400)), kLevel2M);
}

TEST(LargePagePermits, AFrameOfWhichOnePageLiesOutsideIsAgainst) {
  const auto late_end = PermitsOf(0x200, 0x1ff, kHva);
  EXPECT_EQ(late_end.ReasonsAgainst(Gfn(0x200), kLevel2M), 1u);
  const auto late_begin = PermitsOf(0x201, 0x1ff, kHva + KiB(4));
  EXPECT_EQ(late_begin.ReasonsAgainst(Gfn(0x201), kLevel2M), 1u);
}

TEST(LargePagePermits, EveryBitInWhichTheOffsetsDifferCounts) {
  for (int bit = 0; bit < 18; ++bit) {
    const auto permits = PermitsOf(0, 1 << 18, kHva + (uint64_t{1} << (kPageShift + bit)));
    EXPECT_EQ(permits.MaxLevel(Gfn(0)), bit < 9 ? kLevel4K : kLevel2M) << bit;
  }
}

TEST(LargePagePermits, WriteTrackingCounts) {
  auto permits = PermitsOf(0, 1 << 19, kHva);
  ASSERT_TRUE(permits.AddWriteTracking(Gfn(5)).ok());
  ASSERT_TRUE(permits.AddWriteTracking(Gfn(5)).ok());
  ASSERT_TRUE(permits.AddWriteTracking(Gfn(511)).ok());
  EXPECT_EQ(permits.ReasonsAgainst(Gfn(0), kLevel2M), 3u);
  EXPECT_EQ(permits.MaxLevel(Gfn(512)), kLevel2M);
  EXPECT_EQ(permits.MaxLevel(Gfn(1 << 18)), kLevel1G);
  permits.RemoveWriteTracking(Gfn(5));
  EXPECT_TRUE(permits.IsWriteTracked(Gfn(5)));
  permits.RemoveWriteTracking(Gfn(5));
  EXPECT_FALSE(permits.IsWriteTracked(Gfn(5)));
  permits.RemoveWriteTracking(Gfn(511));
  EXPECT_EQ(permits.MaxLevel(Gfn(0)), kLevel1G);
}

// A host page may begin below the slot, and recovery of huge pages then asks at frames of the host
// page. The frame around the slot's first one is asked about by any gfn in it; the answer reads
// nothing that belongs to a frame outside.
TEST(LargePagePermits, AHostPageThatBeginsBelowTheSlotReadsNothingOutside) {
  auto permits = PermitsOf(0x3ff00, 0x1100, kHva + 0x3ff00 * kPageSize);
  EXPECT_EQ(permits.bytes(), sizeof(permits));
  ASSERT_TRUE(permits.AddWriteTracking(Gfn(0x40000)).ok());
  EXPECT_EQ(permits.MaxLevel(Gfn(0x3ff00)), kLevel4K);
  EXPECT_EQ(permits.ReasonsAgainst(Gfn(0x3ff00), kLevel1G), 1u);
  EXPECT_EQ(permits.ReasonsAgainst(Gfn(0x40000), kLevel1G), 2u);
  EXPECT_EQ(permits.MaxLevel(Gfn(0x40200)), kLevel2M);
}

TEST(LargePagePermits, AnEightTebibyteSlotStoresNothingUntilTracked) {
  auto permits = PermitsOf(0, (uint64_t{1} << 31) - 1, kHva);
  EXPECT_EQ(permits.bytes(), sizeof(permits));
  ASSERT_TRUE(permits.AddWriteTracking(Gfn(uint64_t{1} << 30)).ok());
  EXPECT_LT(permits.bytes(), KiB(80));
}

// Keeps KVM's arrays, built the way kvm_alloc_memslot_metadata builds them.
class DisallowModel {
 public:
  DisallowModel(uint64_t base, uint64_t pages, uint64_t hva_page, int shift)
      : first_(base >> shift), shift_(shift) {
    const uint64_t in_frame = (uint64_t{1} << shift) - 1;
    counts_.resize(((base + pages - 1) >> shift) - first_ + 1);
    if ((base & in_frame) != 0) ++counts_.front();
    if (((base + pages) & in_frame) != 0) ++counts_.back();
    if (((base ^ hva_page) & in_frame) != 0) {
      for (uint64_t& count : counts_) ++count;
    }
  }
  uint64_t& At(uint64_t gfn) { return counts_[(gfn >> shift_) - first_]; }

 private:
  uint64_t first_;
  int shift_;
  std::vector<uint64_t> counts_;
};

TEST(LargePagePermits, AgreeWithStoredCountsOnRandomSlots) {
  std::mt19937_64 random(5);
  for (int slot = 0; slot < 300; ++slot) {
    const uint64_t base = random() % (1 << 19);
    const uint64_t pages = 1 + random() % (1 << (random() % 20));
    const uint64_t hva_page = (kHva.raw() >> 12) + base + (random() % 3 << (random() % 2 * 9));
    LargePagePermits permits(Gfn(base), PageCount(pages), Hva(hva_page << 12));
    DisallowModel by_2m(base, pages, hva_page, 9);
    DisallowModel by_1g(base, pages, hva_page, 18);
    std::map<uint64_t, int> tracked;
    for (int i = 0; i < 50; ++i) {
      const uint64_t gfn = base + random() % pages;
      if (random() % 2 == 0) {
        ASSERT_TRUE(permits.AddWriteTracking(Gfn(gfn)).ok());
        ++tracked[gfn], ++by_2m.At(gfn), ++by_1g.At(gfn);
      } else if (tracked[gfn] != 0) {
        permits.RemoveWriteTracking(Gfn(gfn));
        --tracked[gfn], --by_2m.At(gfn), --by_1g.At(gfn);
      }
      const uint64_t look = base + random() % pages;
      ASSERT_EQ(permits.ReasonsAgainst(Gfn(look), kLevel2M), by_2m.At(look)) << look;
      ASSERT_EQ(permits.ReasonsAgainst(Gfn(look), kLevel1G), by_1g.At(look)) << look;
      ASSERT_EQ(permits.IsWriteTracked(Gfn(gfn)), tracked[gfn] != 0);
      // The frames that may be large, tracked pages aside, and what is asked for at most.
      const auto large = permits.Large2MFrames();
      const bool may_be_large =
          permits.ReasonsAgainst(Gfn(look), kLevel2M) == permits.TrackedPages(Gfn(look), kLevel2M);
      ASSERT_EQ(Gfn(look) - large.first < large.pages, may_be_large) << look;
      ASSERT_LE(permits.MaxLevel(Gfn(look), kLevel2M), kLevel2M);
      ASSERT_EQ(permits.MaxLevel(Gfn(look), kLevel2M),
                std::min(permits.MaxLevel(Gfn(look)), kLevel2M));
    }
  }
}

TEST(LargePagePermits, CountsOfManyThreadsAddUp) {
  auto permits = PermitsOf(0, 1 << 20, kHva);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 2; ++thread) {
    threads.emplace_back([&, thread] {
      for (uint64_t i = 0; i < 20000; ++i) {
        const Gfn gfn((i * 977 + static_cast<uint64_t>(thread)) % (1 << 20));
        ASSERT_TRUE(permits.AddWriteTracking(gfn).ok());
        ASSERT_NE(permits.MaxLevel(gfn), kLevel1G);
        permits.RemoveWriteTracking(gfn);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t gfn = 0; gfn < 1 << 20; gfn += 512) {
    ASSERT_EQ(permits.MaxLevel(Gfn(gfn)), kLevel1G);
  }
}

}  // namespace
}  // namespace tdp
