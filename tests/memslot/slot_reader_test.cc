// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/slot_reader.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/base/host_range.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {
namespace {

constexpr uint64_t kHva = 0x100000000000;

void Apply(SlotSet& set, const MemoryRegion& region) {
  absl::StatusOr<SlotUpdate> update = set.Prepare(region);
  ASSERT_TRUE(update.ok()) << update.status();
  if (update->takes_away()) set.PublishInvalid(*update);
  set.Publish(*std::move(update));
}

MemoryRegion Region(uint32_t slot, uint64_t gfn, uint64_t pages, uint64_t hva_page) {
  return {.slot = slot,
          .gpa = Gfn(gfn).address(),
          .size = PageCount(pages).bytes(),
          .hva = Hva(kHva + hva_page * kPageSize)};
}

TEST(SlotReader, FindsSlotsAndHoles) {
  SlotSet set(SlotLimits{});
  SlotReader reader(set);
  EXPECT_EQ(reader.Find(0, Gfn(0)), nullptr);
  Apply(set, Region(4, 0x10, 0x10, 0));
  EXPECT_EQ(reader.Find(0, Gfn(0xf)), nullptr);
  ASSERT_NE(reader.Find(0, Gfn(0x10)), nullptr);
  EXPECT_EQ(reader.Find(0, Gfn(0x1f))->id, 4u);
  EXPECT_EQ(reader.Find(0, Gfn(0x1f))->HvaOf(Gfn(0x1f)), Hva(kHva + 0xf000));
  EXPECT_EQ(reader.Find(0, Gfn(0x20)), nullptr);
  EXPECT_EQ(reader.Find(0, Gfn(~uint64_t{0})), nullptr);
}

TEST(SlotReader, SeesAChangeInItsNextLookup) {
  SlotSet set(SlotLimits{});
  SlotReader reader(set);
  Apply(set, Region(4, 0x10, 0x10, 0));
  EXPECT_EQ(reader.Find(0, Gfn(0x10))->base, Gfn(0x10));
  Apply(set, Region(4, 0x18, 0x10, 0));
  EXPECT_EQ(reader.Find(0, Gfn(0x10)), nullptr);
  EXPECT_EQ(reader.Find(0, Gfn(0x18))->base, Gfn(0x18));
  Apply(set, Region(4, 0, 0, 0));
  EXPECT_EQ(reader.Find(0, Gfn(0x18)), nullptr);
}

TEST(SlotReader, SeesASlotThatIsGoingAwayAsInvalid) {
  SlotSet set(SlotLimits{});
  SlotReader reader(set);
  Apply(set, Region(4, 0x10, 0x10, 0));
  ASSERT_FALSE(reader.Find(0, Gfn(0x10))->invalid);
  absl::StatusOr<SlotUpdate> update = set.Prepare(Region(4, 0, 0, 0));
  ASSERT_TRUE(update.ok());
  set.PublishInvalid(*update);
  EXPECT_TRUE(reader.Find(0, Gfn(0x10))->invalid);
  EXPECT_NE(reader.generation() & kSlotUpdateInProgress, 0u);
  update->Abandon();
  EXPECT_FALSE(reader.Find(0, Gfn(0x10))->invalid);
  EXPECT_EQ(reader.generation() & kSlotUpdateInProgress, 0u);
}

TEST(SlotReader, TheGenerationOfAHoleMovesWithTheSlots) {
  SlotSet set(SlotLimits{});
  SlotReader reader(set);
  EXPECT_EQ(reader.Find(0, Gfn(7)), nullptr);
  const uint64_t hole = reader.generation();
  EXPECT_EQ(hole, set.generation(0));
  Apply(set, Region(0, 100, 1, 0));
  EXPECT_NE(set.generation(0), hole);
}

TEST(SlotReader, KeepsAddressSpacesApart) {
  SlotSet set(SlotLimits{.address_spaces = 2});
  SlotReader reader(set);
  MemoryRegion smm = Region(0, 0xa0, 0x20, 0x500);
  smm.address_space = 1;
  Apply(set, smm);
  Apply(set, Region(0, 0, 0x90, 0));
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(reader.Find(0, Gfn(0xa0)), nullptr);
    ASSERT_NE(reader.Find(1, Gfn(0xa0)), nullptr);
    EXPECT_EQ(reader.Find(1, Gfn(0xa0))->address_space, 1);
    EXPECT_EQ(reader.Find(0, Gfn(0x10))->address_space, 0);
    EXPECT_EQ(reader.Find(1, Gfn(0x10)), nullptr);
    ASSERT_NE(reader.Find(1, Gfn(0xa1)), nullptr);
    EXPECT_NE(reader.LastHit(1, Gfn(0xa0)), nullptr);
    EXPECT_EQ(reader.LastHit(0, Gfn(0xa0)), nullptr);
  }
}

// A fault goes by the slot that it found, without another look, while the caller's number stands.
TEST(SlotReader, APlainSlotHasNoFlagsAndIsThatOfItsSequence) {
  SlotSet set(SlotLimits{.private_memory = true});
  SlotReader reader(set);
  Apply(set, Region(1, 0x1f8, 0x400, 0x100001f8));
  EXPECT_FALSE(reader.IsInPlain(Gfn(0x200), 7));
  ASSERT_TRUE(reader.FindPlain(0, Gfn(0x200), 7));
  EXPECT_TRUE(reader.IsInPlain(Gfn(0x5f7), 7));
  EXPECT_FALSE(reader.IsInPlain(Gfn(0x5f8), 7)) << "behind its end";
  EXPECT_FALSE(reader.IsInPlain(Gfn(0x1f7), 7)) << "before its begin";
  EXPECT_FALSE(reader.IsInPlain(Gfn(0x200), 8)) << "the slots may have changed";
  EXPECT_EQ(reader.HvaOfPlain(Gfn(0x201)), Hva(kHva + 0x10000201 * kPageSize));
  EXPECT_TRUE(reader.IsLargeInPlain(Gfn(0x200)));
  EXPECT_FALSE(reader.IsLargeInPlain(Gfn(0x1ff))) << "the 2 MiB begin before the slot";
  EXPECT_FALSE(reader.IsLargeInPlain(Gfn(0x400))) << "they end behind it";
  ASSERT_TRUE(set.FindById(0, 1)->state->permits().AddWriteTracking(Gfn(0x201)).ok());
  EXPECT_FALSE(reader.IsLargeInPlain(Gfn(0x200))) << "a page of the slot is tracked";
  reader.ForgetPlain();
  EXPECT_FALSE(reader.IsInPlain(Gfn(0x200), 7));

  MemoryRegion special = Region(2, 0x1000, 0x10, 0);
  for (const uint32_t flags : {kSlotLogDirtyPages, kSlotReadOnly, kSlotPrivateMemory}) {
    special.flags = flags;
    Apply(set, special);
    EXPECT_FALSE(reader.FindPlain(0, Gfn(0x1000), 7)) << flags;
    Apply(set, Region(2, 0, 0, 0));
  }
  absl::StatusOr<SlotUpdate> going = set.Prepare(Region(1, 0, 0, 0));
  ASSERT_TRUE(going.ok());
  set.PublishInvalid(*going);
  EXPECT_FALSE(reader.FindPlain(0, Gfn(0x200), 9));
}

// A reader that is asked often enough keeps a copy of few slots, 32 at most.
TEST(SlotReader, AnswersTheSameHoweverOftenAndHoweverManySlotsThereAre) {
  std::mt19937_64 random(31);
  SlotSet set(SlotLimits{.address_spaces = 2});
  SlotReader reader(set);
  std::map<uint64_t, uint32_t> slots[2];  // the id of the slot in each 16 frames
  for (int change = 0; change < 600; ++change) {
    const auto space = static_cast<AddressSpaceId>(random() % 2);
    const uint64_t place = random() % 40;
    const auto id = static_cast<uint32_t>(place);
    MemoryRegion region = Region(id, place * 16, 8, place * 100);
    region.address_space = space;
    if (slots[space].erase(place) != 0) {
      region.size = 0;
    } else {
      slots[space][place] = id;
    }
    Apply(set, region);
    const auto lookups = static_cast<int>(random() % 120);
    for (int i = 0; i < lookups; ++i) {
      const auto asked = static_cast<AddressSpaceId>(random() % 8 == 0 ? 1 - space : space);
      const uint64_t gfn = random() % (41 * 16);
      const MemorySlot* const slot = reader.Find(asked, Gfn(gfn));
      const auto there = slots[asked].find(gfn / 16);
      ASSERT_EQ(slot != nullptr, there != slots[asked].end() && gfn % 16 < 8) << gfn;
      ASSERT_EQ(reader.generation(), set.generation(asked));
      if (slot == nullptr) continue;
      ASSERT_EQ(slot->id, there->second);
      ASSERT_EQ(slot->address_space, asked);
      ASSERT_EQ(slot->base, Gfn(gfn / 16 * 16));
      ASSERT_EQ(slot->hva, Hva(kHva + gfn / 16 * 100 * kPageSize));
    }
  }
}

using HostPart = std::tuple<uint32_t, uint64_t, uint64_t>;  // slot, first gfn, pages

std::multiset<HostPart> PartsIn(const SlotReader& reader, uint64_t first_page, uint64_t pages) {
  std::multiset<HostPart> parts;
  reader.ForEachInHostRange(HostRange(Hva(kHva + first_page * kPageSize), pages * kPageSize),
                            [&](const MemorySlot& slot, Gfn first, PageCount count) {
                              parts.emplace(slot.id, first.raw(), count.raw());
                            });
  return parts;
}

TEST(SlotReader, FindsEverySlotOverAHostRange) {
  SlotSet set(SlotLimits{});
  SlotReader reader(set);
  EXPECT_TRUE(PartsIn(reader, 0, 1000).empty());
  Apply(set, Region(1, 0x100, 0x20, 0x40));
  Apply(set, Region(2, 0x200, 0x20, 0x40));  // the same memory once more
  Apply(set, Region(3, 0x300, 0x100, 0));    // and around it
  Apply(set, Region(4, 0x500, 0x10, 0x60));
  EXPECT_EQ(PartsIn(reader, 0x48, 2),
            (std::multiset<HostPart>{{1, 0x108, 2}, {2, 0x208, 2}, {3, 0x348, 2}}));
  EXPECT_EQ(PartsIn(reader, 0x5f, 2),
            (std::multiset<HostPart>{{1, 0x11f, 1}, {2, 0x21f, 1}, {3, 0x35f, 2}, {4, 0x500, 1}}));
  EXPECT_TRUE(PartsIn(reader, 0x100, 10).empty());
  Apply(set, Region(3, 0x1300, 0x100, 0));
  Apply(set, Region(1, 0, 0, 0));
  EXPECT_EQ(PartsIn(reader, 0x40, 1), (std::multiset<HostPart>{{2, 0x200, 1}, {3, 0x1340, 1}}));
}

// The host addresses are of any kind: a user's, a kernel's, those of no canonical form, and up to
// the last byte.
TEST(SlotReader, HostRangesAreFoundInEveryPartOfTheAddressSpace) {
  constexpr uint64_t kPages = 512;
  constexpr uint64_t kEnd = uint64_t{1} << 52;  // in pages
  for (const uint64_t base :
       {uint64_t{0}, uint64_t{0x7fffffe00}, uint64_t{0x123456789abc}, kEnd / 2 - 256,
        uint64_t{0xffff888000000}, uint64_t{0xffffffff80000}, kEnd - kPages}) {
    std::mt19937_64 random(base);
    SlotSet set(SlotLimits{.address_spaces = 2});
    SlotReader reader(set);
    std::vector<MemoryRegion> regions;
    for (uint32_t id = 0; id < 300; ++id) {
      const uint64_t pages = 1 + random() % 24;
      regions.push_back({.slot = id,
                         .address_space = static_cast<AddressSpaceId>(id % 2),
                         .gpa = Gfn(uint64_t{id} * 64).address(),
                         .size = PageCount(pages).bytes(),
                         .hva = Hva((base + random() % (kPages - pages + 1)) << kPageShift)});
      Apply(set, regions.back());
    }
    ASSERT_TRUE(set.CheckInvariants().ok()) << set.CheckInvariants();
    for (int i = 0; i < 1000; ++i) {
      const uint64_t first = base + random() % kPages;
      const uint64_t end = std::min(first + 1 + random() % 40, base + kPages);
      std::multiset<HostPart> want;
      for (const MemoryRegion& region : regions) {
        const uint64_t from = region.hva.raw() >> kPageShift;
        const uint64_t low = std::max(first, from);
        const uint64_t high = std::min(end, from + region.size / kPageSize);
        if (low >= high) continue;
        want.emplace(region.slot, region.gpa.raw() / kPageSize + low - from, high - low);
      }
      std::multiset<HostPart> got;
      reader.ForEachInHostRange(HostRange::OfPages(first, end),
                                [&](const MemorySlot& slot, Gfn gfn, PageCount count) {
                                  EXPECT_EQ(slot.hva, regions[slot.id].hva);
                                  got.emplace(slot.id, gfn.raw(), count.raw());
                                });
      ASSERT_EQ(got, want) << std::hex << base;
    }
    // They are deleted by the same keys.
    for (const MemoryRegion& region : regions) {
      MemoryRegion gone = region;
      gone.size = 0;
      Apply(set, gone);
    }
    ASSERT_TRUE(set.CheckInvariants().ok()) << set.CheckInvariants();
    EXPECT_EQ(set.size(), 0u);
  }
}

TEST(SlotReader, AllSlotsThereMayBeOverOnePageOfTheHost) {
  SlotSet set(SlotLimits{});
  SlotReader reader(set);
  constexpr uint64_t kLastPage = (uint64_t{1} << 52) - 1;
  for (uint32_t id = 0; id < set.limits().slots; ++id) {
    Apply(set, {.slot = id,
                .gpa = Gfn(id).address(),
                .size = kPageSize,
                .hva = Hva(kLastPage << kPageShift)});
  }
  std::set<uint32_t> found;
  reader.ForEachInHostRange(HostRange::OfPages(kLastPage, kLastPage + 1),
                            [&](const MemorySlot& slot, Gfn first, PageCount pages) {
                              EXPECT_EQ(first, slot.base);
                              EXPECT_EQ(pages, PageCount(1));
                              found.insert(slot.id);
                            });
  EXPECT_EQ(found.size(), set.limits().slots);
  reader.ForEachInHostRange(HostRange::OfPages(kLastPage - 1, kLastPage),
                            [](const MemorySlot&, Gfn, PageCount) { FAIL() << "the page below"; });
}

// The set remembers the slot that it found last, if no other has some of its memory.
TEST(SlotSet, HostRangesStayRightAsSlotsComeAndGo) {
  std::mt19937_64 random(23);
  SlotSet set(SlotLimits{});
  std::map<uint32_t, MemoryRegion> regions;
  uint64_t near = 0;
  for (int i = 0; i < 20000; ++i) {
    if (i % 16 == 0) {
      const uint32_t id = random() % 24;
      const auto [found, is_new] =
          regions.try_emplace(id, Region(id, id * 64, 1 + random() % 64, random() % 1000));
      MemoryRegion change = found->second;
      if (!is_new) {
        regions.erase(found);
        change.size = 0;
      }
      Apply(set, change);
    }
    if (i % 4 == 0) near = random() % 1064;
    const uint64_t first = near + random() % 8;
    const uint64_t pages = 1 + random() % 4;
    std::multiset<HostPart> want;
    for (const auto& [id, region] : regions) {
      const uint64_t from = (region.hva.raw() - kHva) / kPageSize;
      const uint64_t low = std::max(first, from);
      const uint64_t high = std::min(first + pages, from + region.size / kPageSize);
      if (low < high) want.emplace(id, region.gpa.raw() / kPageSize + low - from, high - low);
    }
    std::multiset<HostPart> parts;
    set.ForEachInHostRange(HostRange(Hva(kHva + first * kPageSize), pages * kPageSize),
                           [&](const MemorySlot& slot, Gfn gfn, PageCount count) {
                             parts.emplace(slot.id, gfn.raw(), count.raw());
                           });
    ASSERT_EQ(parts, want) << i;
  }
}

TEST(SlotReader, HostRangesAgreeWithAListOfSlots) {
  std::mt19937_64 random(17);
  SlotSet set(SlotLimits{});
  SlotReader reader(set);
  std::vector<MemoryRegion> regions;
  for (uint32_t id = 0; id < 400; ++id) {
    regions.push_back(Region(id, id * 64, 1 + random() % 64, random() % 3000));
    Apply(set, regions.back());
  }
  for (int i = 0; i < 2000; ++i) {
    const uint64_t first = random() % 3100;
    const uint64_t pages = 1 + random() % 40;
    std::multiset<HostPart> want;
    for (const MemoryRegion& region : regions) {
      const uint64_t from = (region.hva.raw() - kHva) / kPageSize;
      const uint64_t low = std::max(first, from);
      const uint64_t high = std::min(first + pages, from + region.size / kPageSize);
      if (low >= high) continue;
      want.emplace(region.slot, region.gpa.raw() / kPageSize + low - from, high - low);
    }
    ASSERT_EQ(PartsIn(reader, first, pages), want);
  }
}

// Slot i stands at frame 16 * i and moves to 16 * i + 8 and back; slots of odd id come and go. A
// reader may find a slot at either place or not at all, but never a mixture, and never a wrong one.
// Few slots: the reader copies them all between two changes, if it gets there.
class SlotReaderBesideAWriter : public testing::TestWithParam<uint32_t> {};

TEST_P(SlotReaderBesideAWriter, NeverReturnsAMixture) {
  const uint32_t slots = GetParam();
  constexpr uint64_t kPages = 4;
  SlotSet set(SlotLimits{});
  for (uint32_t id = 0; id < slots; ++id) Apply(set, Region(id, id * 16, kPages, id * 100));
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> lookups{0};
  std::thread thread([&] {
    SlotReader reader(set);
    std::mt19937_64 random(23);
    while (!stop) {
      const uint64_t gfn = random() % (slots * 16);
      const MemorySlot* const slot = reader.Find(0, Gfn(gfn));
      ++lookups;
      const bool stands_still = gfn / 16 % 4 == 2 && gfn % 16 < kPages;
      ASSERT_FALSE(stands_still && slot == nullptr);
      if (slot == nullptr) continue;
      ASSERT_TRUE(slot->Contains(Gfn(gfn)));
      ASSERT_EQ(slot->id, gfn / 16);
      ASSERT_EQ(slot->pages, PageCount(kPages));
      ASSERT_TRUE(slot->base == Gfn(slot->id * 16) || slot->base == Gfn(slot->id * 16 + 8));
      ASSERT_EQ(slot->hva, Hva(kHva + slot->id * 100 * kPageSize));
      if (gfn % 8 == 0) {
        const std::multiset<HostPart> parts = PartsIn(reader, slot->id * 100, 2);
        for (const auto& [id, first, pages] : parts) {
          ASSERT_EQ(id, slot->id);
          ASSERT_EQ(pages, 2u);
        }
        ASSERT_LE(parts.size(), 1u + slot->id % 2);
      }
    }
  });
  std::mt19937_64 random(29);
  for (int i = 0; i < 30000 || lookups < 30000; ++i) {
    // Now and then the reader has the time for a copy.
    if (i % 512 == 0) {
      const uint64_t before = lookups;
      while (lookups < before + 100) std::this_thread::yield();
    }
    const uint32_t id = static_cast<uint32_t>(random() % slots);
    if (id % 2 == 1) {
      Apply(set, set.FindById(0, id).has_value() ? Region(id, 0, 0, 0)
                                                 : Region(id, id * 16, kPages, id * 100));
    } else if (id % 4 == 0) {
      Apply(set, Region(id, id * 16 + random() % 2 * 8, kPages, id * 100));
    }
  }
  stop = true;
  thread.join();
  EXPECT_TRUE(set.CheckInvariants().ok()) << set.CheckInvariants();
}

INSTANTIATE_TEST_SUITE_P(Slots, SlotReaderBesideAWriter, testing::Values(24, 600),
                         [](const auto& test) { return std::to_string(test.param); });

}  // namespace
}  // namespace tdp
