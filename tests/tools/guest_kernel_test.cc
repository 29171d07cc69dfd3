// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/guest/guest_kernel.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/tools/guest/memory_map.h"

namespace tdp::tools {
namespace {

// Has guest memory that exists where it is touched, and a walker that knows only the SDM's bits.
class TestGuest {
 public:
  explicit TestGuest(const GuestKernel::Options& options, ByteCount ram = GiB(4))
      : map_(MemoryMap::ForPc(ram).value()),
        kernel_(GuestKernel::Create(
                    map_, [this](Gfn gfn) { return PageAt(gfn); }, options)
                    .value()) {}

  GuestKernel& kernel() { return *kernel_; }
  const MemoryMap& map() const { return map_; }

  // Walks to `gva`, whose leaf must have `rights` of present, writable and the user's.
  std::optional<Gpa> Walk(Gva gva, size_t space = 0, uint64_t rights = 7) {
    uint64_t table = kernel_->root(space).raw();
    for (int level = kernel_->levels();; --level) {
      const int shift = 12 + 9 * (level - 1);
      const auto page = pages_.find(table >> 12);
      if (page == pages_.end()) return std::nullopt;  // never touched, so all zero
      const uint64_t entry = (*page->second)[gva.raw() >> shift & 511];
      if ((entry & 1) == 0) return std::nullopt;
      EXPECT_EQ(entry & 3, 3u) << "present and writable at every level";
      const uint64_t address = entry & 0x000ffffffffff000;
      if (level == 1 || (entry & 0x80) != 0) {
        EXPECT_EQ(entry & 7, rights);
        EXPECT_EQ(address & ((uint64_t{1} << shift) - 1), 0u) << "a misaligned leaf";
        return Gpa(address + (gva.raw() & ((uint64_t{1} << shift) - 1)));
      }
      table = address;
    }
  }

 private:
  absl::StatusOr<std::byte*> PageAt(Gfn gfn) {
    const MapRegion* region = map_.Find(gfn.address());
    if (region == nullptr || region->kind != RegionKind::kRam) {
      return absl::InternalError("the kernel uses what is no RAM");
    }
    auto& page = pages_[gfn.raw()];
    if (page == nullptr) page = std::make_unique<std::array<uint64_t, 512>>();
    return reinterpret_cast<std::byte*>(page->data());
  }

  MemoryMap map_;
  std::map<uint64_t, std::unique_ptr<std::array<uint64_t, 512>>> pages_;
  std::unique_ptr<GuestKernel> kernel_;
};

// Touches random addresses and compares every one with what the kernel says and the walk finds.
void TouchAndCompare(TestGuest& guest, int touches) {
  std::mt19937_64 random(11);
  for (int i = 0; i < touches; ++i) {
    // The addresses have near and far neighbours: they lie in a few regions, far apart.
    const Gva gva(((random() % 5) << 40) + random() % MiB(8));
    const bool was_mapped = guest.Walk(gva).has_value();
    const size_t before = guest.kernel().mappings().size();
    ASSERT_TRUE(guest.kernel().HandlePageFault(gva).ok());
    EXPECT_EQ(guest.kernel().mappings().size(), before + (was_mapped ? 0 : 1));
    ASSERT_TRUE(guest.Walk(gva).has_value());
  }
  std::set<uint64_t> frames;
  for (const GuestMapping& mapping : guest.kernel().mappings()) {
    for (uint64_t offset = 0; offset < mapping.level.bytes(); offset += kPageSize) {
      ASSERT_EQ(guest.Walk(mapping.gva + offset), mapping.gpa + offset);
      const MapRegion* region = guest.map().Find(mapping.gpa + offset);
      ASSERT_TRUE(region != nullptr && region->kind == RegionKind::kRam);
      EXPECT_TRUE(frames.insert((mapping.gpa + offset).raw()).second) << "a frame given twice";
    }
  }
}

TEST(GuestKernel, GivesEachPageAFrameOfItsOwnAtTheFirstTouch) {
  TestGuest guest({});
  TouchAndCompare(guest, 3000);
}

TEST(GuestKernel, EachSpaceHasPagesOfItsOwnAndTheSameKernel) {
  for (const int levels : {4, 5}) {
    TestGuest guest({.levels = levels, .shared_kernel = true});
    ASSERT_EQ(guest.kernel().AddSpace().value(), 1u);
    ASSERT_EQ(guest.kernel().AddSpace().value(), 2u);
    ASSERT_EQ(guest.kernel().spaces(), 3u);
    std::set<uint64_t> frames;
    for (size_t space = 0; space < 3; ++space) {
      for (uint64_t page = 0; page < 20; ++page) {
        ASSERT_TRUE(guest.kernel().HandlePageFault(Gva(page << 12), nullptr, space).ok());
      }
      ASSERT_EQ(guest.kernel().mappings(space).size(), 20u);
      for (const GuestMapping& mapping : guest.kernel().mappings(space)) {
        EXPECT_EQ(guest.Walk(mapping.gva, space), mapping.gpa);
        EXPECT_TRUE(frames.insert(mapping.gpa.raw()).second);
      }
      for (const uint64_t shared :
           {GuestKernel::kKernelMemory, GuestKernel::kKernelMemory + GuestKernel::kKernelBytes - 8,
            GuestKernel::StackOf(0), GuestKernel::StackOf(2) + GuestKernel::kStackBytes - 8}) {
        ASSERT_TRUE(guest.Walk(Gva(shared), space, 3).has_value()) << space;
        EXPECT_EQ(guest.Walk(Gva(shared), space, 3), guest.Walk(Gva(shared), 0, 3));
      }
      EXPECT_EQ(guest.Walk(Gva(GuestKernel::StackOf(3)), space, 3), std::nullopt);
    }
  }
}

TEST(GuestKernel, ShuffledFramesAreAsGood) {
  TestGuest guest({.frames = {.shuffled = true, .seed = 5}});
  TouchAndCompare(guest, 3000);
}

TEST(GuestKernel, LargePagesAreAsGood) {
  TestGuest guest({.page = kLevel2M});
  TouchAndCompare(guest, 300);
  for (const GuestMapping& mapping : guest.kernel().mappings()) {
    EXPECT_EQ(mapping.level, kLevel2M);
  }
}

TEST(GuestKernel, PagesOfOneGibibyteRunOutBeforeSmallerOnes) {
  // Two of the 6 GiB lie whole below the hole and three above it; one of these is not a whole GiB
  // for the kernel's own 2 MiB.
  TestGuest guest({.page = kLevel1G, .frames = {.gigabytes = true}}, GiB(6));
  std::map<int, int> pages;
  std::set<uint64_t> starts;
  for (uint64_t i = 0; i < 8; ++i) {
    const Gva gva((i << 40) + 12345);
    ASSERT_TRUE(guest.kernel().HandlePageFault(gva).ok());
    ASSERT_TRUE(guest.Walk(gva).has_value());
  }
  for (const GuestMapping& mapping : guest.kernel().mappings()) {
    ++pages[mapping.level.raw()];
    EXPECT_EQ(mapping.gpa.raw() % mapping.level.bytes(), 0u);
    EXPECT_TRUE(starts.insert(mapping.gpa.raw()).second);
    for (const ByteCount at : {ByteCount{0}, mapping.level.bytes() - 1}) {
      const MapRegion* region = guest.map().Find(mapping.gpa + at);
      EXPECT_TRUE(region != nullptr && region->kind == RegionKind::kRam);
    }
  }
  EXPECT_EQ(pages, (std::map<int, int>{{2, 3}, {3, 5}}));
}

TEST(GuestKernel, WithPagesOfOneGibibyteSmallOnesAreAsGood) {
  TestGuest guest({.page = kLevel2M, .frames = {.gigabytes = true, .shuffled = true}});
  TouchAndCompare(guest, 300);
}

TEST(GuestKernel, FragmentedMemoryGivesSmallPagesWhereNoLargeOneIsFree) {
  // The guest has seven blocks of 2 MiB, all of them broken.
  TestGuest guest({.page = kLevel2M, .frames = {.fragmentation = 1}}, MiB(16));
  TouchAndCompare(guest, 500);
  for (const GuestMapping& mapping : guest.kernel().mappings()) {
    EXPECT_EQ(mapping.level, kLevel4K);
  }
}

TEST(GuestKernel, LargePagesRunOutBeforeSmallOnes) {
  TestGuest guest({.page = kLevel2M}, MiB(16));
  std::set<int> levels;
  absl::Status status;
  for (uint64_t i = 0; status.ok(); ++i) {
    status = guest.kernel().HandlePageFault(Gva(i * MiB(2)));
    if (status.ok()) levels.insert(guest.kernel().mappings().back().level.raw());
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(levels, (std::set<int>{1, 2}));
}

TEST(GuestKernel, FiveLevelsWalkToo) {
  TestGuest guest({.levels = 5});
  TouchAndCompare(guest, 1000);
}

TEST(GuestKernel, CountsItsTables) {
  TestGuest guest({});
  EXPECT_EQ(guest.kernel().table_pages(), PageCount(1));
  ASSERT_TRUE(guest.kernel().HandlePageFault(Gva(0x1000)).ok());
  EXPECT_EQ(guest.kernel().table_pages(), PageCount(4));
  ASSERT_TRUE(guest.kernel().HandlePageFault(Gva(0x2000)).ok());
  EXPECT_EQ(guest.kernel().table_pages(), PageCount(4));
  ASSERT_TRUE(guest.kernel().HandlePageFault(Gva(MiB(2))).ok());
  EXPECT_EQ(guest.kernel().table_pages(), PageCount(5));
}

TEST(GuestKernel, APageThatWasTakenAwayComesBackAsItWas) {
  TestGuest guest({});
  std::vector<Gpa> written;
  ASSERT_TRUE(guest.kernel().HandlePageFault(Gva(0x5000), &written).ok());
  EXPECT_EQ(written.size(), 4u) << "an entry of each level";
  Gpa entry;
  const GuestMapping taken = *guest.kernel().TakeAway(7, entry);
  EXPECT_EQ(taken.gva, Gva(0x5000));
  EXPECT_EQ(entry, written.back());
  ASSERT_TRUE(guest.kernel().HandlePageFault(Gva(0x5123), &written).ok());
  ASSERT_EQ(written.size(), 5u);
  EXPECT_EQ(written.back(), entry);
  EXPECT_EQ(guest.kernel().mappings().size(), 1u);
}

TEST(GuestKernel, TheSameSeedGivesTheSameFrames) {
  const GuestKernel::Options options = {.frames = {.shuffled = true, .seed = 42}};
  TestGuest a(options), b(options);
  for (uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(a.kernel().HandlePageFault(Gva(i * 12345)).ok());
    ASSERT_TRUE(b.kernel().HandlePageFault(Gva(i * 12345)).ok());
  }
  const auto left = a.kernel().mappings(), right = b.kernel().mappings();
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) EXPECT_EQ(left[i].gpa, right[i].gpa);
}

TEST(MemoryMap, CoversTheFirstFourGigabytesWithoutGapOrOverlap) {
  for (ByteCount ram : {MiB(8), MiB(512), GiB(3), GiB(4), GiB(64)}) {
    const MemoryMap map = MemoryMap::ForPc(ram).value();
    Gpa next(0);
    for (const MapRegion& region : map.regions()) {
      EXPECT_EQ(region.base, next) << region.name;
      EXPECT_GT(region.size, 0u);
      next = region.end();
    }
    EXPECT_EQ(next, Gpa(GiB(4) + map.ram_above_hole()));
    EXPECT_EQ(map.ram_below_hole() + map.ram_above_hole(), ram);
  }
}

TEST(MemoryMap, KnowsWhatStandsWhere) {
  const MemoryMap map = MemoryMap::ForPc(GiB(4)).value();
  const auto kind = [&map](uint64_t gpa) { return map.Find(Gpa(gpa))->kind; };
  EXPECT_EQ(kind(0x9ffff), RegionKind::kRam);
  EXPECT_EQ(kind(0xa0000), RegionKind::kMmio);
  EXPECT_EQ(kind(0xc0000), RegionKind::kRom);
  EXPECT_EQ(kind(0x100000), RegionKind::kRam);
  EXPECT_EQ(kind(0xbfffffff), RegionKind::kRam);
  EXPECT_EQ(kind(0xc0000000), RegionKind::kMmio);
  EXPECT_EQ(kind(0xfffffff0), RegionKind::kRom);  // where a PC begins after reset
  EXPECT_EQ(kind(0x100000000), RegionKind::kRam);
  EXPECT_EQ(map.Find(Gpa(GiB(5))), nullptr);
}

TEST(MemoryMap, RefusesAnOddAmountOfRam) {
  for (ByteCount ram : {ByteCount{0}, MiB(6), MiB(9), MiB(16) + 4096, TiB(1) + MiB(2)}) {
    EXPECT_EQ(MemoryMap::ForPc(ram).status().code(), absl::StatusCode::kInvalidArgument) << ram;
  }
}

}  // namespace
}  // namespace tdp::tools
