// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/slot_set.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/host_range.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_batch.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/memslot/slot_update.h"

namespace tdp {
namespace {

constexpr uint64_t kHva = 0x100000000000;

MemoryRegion Region(uint32_t slot, uint64_t gpa, uint64_t size, uint64_t hva = kHva,
                    uint32_t flags = 0) {
  return {.slot = slot, .flags = flags, .gpa = Gpa(gpa), .size = size, .hva = Hva(hva)};
}

// Prepares and publishes, with the invalid step if the change takes anything away.
absl::StatusOr<SlotChange> Apply(SlotSet& set, const MemoryRegion& region) {
  absl::StatusOr<SlotUpdate> update = set.Prepare(region);
  if (!update.ok()) return update.status();
  const SlotChange kind = update->kind();
  if (update->takes_away()) set.PublishInvalid(*update);
  set.Publish(*std::move(update));
  return kind;
}

// Expects that `region` is refused with `code`, in `words`, and that nothing changes.
void ExpectRefused(SlotSet& set, const MemoryRegion& region, absl::StatusCode code,
                   const std::string& words) {
  const uint64_t generation = set.generation(0);
  const size_t size = set.size();
  const absl::StatusOr<SlotUpdate> update = set.Prepare(region);
  ASSERT_FALSE(update.ok());
  EXPECT_EQ(update.status().code(), code) << update.status();
  EXPECT_TRUE(absl::StrContains(update.status().message(), words)) << update.status();
  EXPECT_EQ(set.generation(0), generation);
  EXPECT_EQ(set.size(), size);
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(SlotSet, NamesFieldAndValueOfABadRequest) {
  SlotSet set(SlotLimits{.user_address_end = Hva(0x7ffffffff000)});
  ExpectRefused(set, Region(32764, 0, 0x1000), kInvalid, "slot = 32764");
  ExpectRefused(set, Region(0, 0, 0x1000, kHva, 4), kInvalid, "flags = 0x4");
  ExpectRefused(set, Region(0, 0, 0x1001), kInvalid, "size = 0x1001");
  ExpectRefused(set, Region(0, 0x10, 0x1000), kInvalid, "gpa = 0x10");
  ExpectRefused(set, Region(0, 0, 0x1000, kHva + 1), kInvalid, "hva = 0x100000000001");
  ExpectRefused(set, Region(0, 0, 0x2000, 0x7fffffffe000), kInvalid, "hva = 0x7fffffffe000");
  ExpectRefused(set, Region(0, 0, 0x2000, ~uint64_t{0xfff}), kInvalid, "hva = 0xfffffffffffff000");
  ExpectRefused(set, Region(0, 1ull << 52, 0x1000), kInvalid, "gpa = 0x10000000000000");
  ExpectRefused(set, Region(0, ~uint64_t{0xfff}, 0x2000), kInvalid, "wraps");
  ExpectRefused(set, Region(0, 0, TiB(8)), kInvalid, "2^31");
  MemoryRegion smm = Region(0, 0, 0x1000);
  smm.address_space = 1;
  ExpectRefused(set, smm, kInvalid, "address_space = 1");
}

TEST(SlotSet, ChecksInTheKernelsOrder) {
  SlotSet set(SlotLimits{});
  // Each request breaks a rule and all that come after it; mending the first leaves the next.
  MemoryRegion region{.slot = 40000,
                      .address_space = 3,
                      .flags = 8,
                      .gpa = Gpa(~uint64_t{0}),
                      .size = TiB(9) + 1,
                      .hva = Hva(~uint64_t{0})};
  ExpectRefused(set, region, kInvalid, "slot =");
  region.slot = 1;
  ExpectRefused(set, region, kInvalid, "flags =");
  region.flags = 0;
  ExpectRefused(set, region, kInvalid, "size =");
  region.size = TiB(9);
  ExpectRefused(set, region, kInvalid, "gpa =");
  region.gpa = Gpa(~uint64_t{0xfff});
  ExpectRefused(set, region, kInvalid, "hva =");
  region.hva = Hva(kHva);
  ExpectRefused(set, region, kInvalid, "address_space =");
  region.address_space = 0;
  ExpectRefused(set, region, kInvalid, "wraps");
  region.gpa = Gpa(0);
  ExpectRefused(set, region, kInvalid, "2^31");
}

TEST(SlotSet, DeletingAnUnknownSlotIsInvalidArgument) {
  SlotSet set(SlotLimits{});
  ExpectRefused(set, Region(5, 0, 0), kInvalid, "slot = 5");
}

TEST(SlotSet, HvaSizeAndReadOnlyOfASlotStand) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(3, 0x10000, 0x4000)).ok());
  ASSERT_TRUE(Apply(set, Region(4, 0x20000, 0x4000)).ok());
  ExpectRefused(set, Region(3, 0x10000, 0x4000, kHva + 0x1000), kInvalid, "hva");
  ExpectRefused(set, Region(3, 0x10000, 0x5000), kInvalid, "size");
  ExpectRefused(set, Region(3, 0x10000, 0x4000, kHva, kSlotReadOnly), kInvalid, "flags");
  // The size comes first even where the new place is another slot's.
  ExpectRefused(set, Region(3, 0x20000, 0x5000), kInvalid, "size");
}

TEST(SlotSet, OverlapComesBeforeTheGuestsAddressWidth) {
  SlotSet set(SlotLimits{.guest_physical_address_bits = 36});
  const uint64_t end = uint64_t{1} << 36;
  ASSERT_TRUE(Apply(set, Region(0, end - 0x1000, 0x1000)).ok());
  ExpectRefused(set, Region(1, end - 0x1000, 0x2000), absl::StatusCode::kAlreadyExists, "slot 0");
  ExpectRefused(set, Region(1, end, 0x1000), kInvalid, "36 physical address bits");
}

TEST(SlotSet, AMovingSlotMayOverlapItself) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x4000)).ok());
  ASSERT_TRUE(Apply(set, Region(1, 0x8000, 0x2000)).ok());
  EXPECT_EQ(*Apply(set, Region(0, 0x12000, 0x4000)), SlotChange::kMove);
  EXPECT_EQ(*Apply(set, Region(0, 0xf000, 0x4000)), SlotChange::kMove);
  ExpectRefused(set, Region(0, 0x9000, 0x4000), absl::StatusCode::kAlreadyExists, "slot 1");
  EXPECT_EQ(set.FindById(0, 0)->base, Gfn(0xf));
  // Below frame 0 there is no other.
  ASSERT_TRUE(Apply(set, Region(2, 0, 0x4000)).ok());
  EXPECT_EQ(*Apply(set, Region(2, 0x1000, 0x4000)), SlotChange::kMove);
}

TEST(SlotSet, TheSameRequestTwiceChangesNothing) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x4000)).ok());
  const uint64_t generation = set.generation(0);
  EXPECT_EQ(*Apply(set, Region(0, 0x10000, 0x4000)), SlotChange::kNone);
  EXPECT_EQ(set.generation(0), generation);
}

TEST(SlotSet, RefusesMorePagesThanItsTotal) {
  SlotSet set(SlotLimits{.total_pages = PageCount(10)});
  ASSERT_TRUE(Apply(set, Region(0, 0, 0x8000)).ok());
  ExpectRefused(set, Region(1, 0x10000, 0x3000), kInvalid, "size = 0x3000");
  ASSERT_TRUE(Apply(set, Region(1, 0x10000, 0x2000)).ok());
  EXPECT_EQ(set.total_pages(), PageCount(10));
}

TEST(SlotSet, MemoryMayEndWithTheUsersAddressesAndNotBeginBehindThem) {
  constexpr uint64_t kEnd = 0x7ffffffff000;
  SlotSet set(SlotLimits{.user_address_end = Hva(kEnd)});
  ExpectRefused(set, Region(0, 0, 0x1000, kEnd), kInvalid, "user addresses");
  ExpectRefused(set, Region(0, 0, 0x1000, kEnd + 0x1000), kInvalid, "user addresses");
  EXPECT_TRUE(Apply(set, Region(0, 0, 0x2000, kEnd - 0x2000)).ok());
}

TEST(SlotSet, SlotsLieBelowTheWidthOfTheCpuAsWell) {
  SlotSet set(SlotLimits{.guest_physical_address_bits = 40, .max_physical_address_bits = 36});
  const uint64_t end = uint64_t{1} << 36;
  ExpectRefused(set, Region(0, end, 0x1000), kInvalid, "MAXPHYADDR of 36 bits");
  EXPECT_TRUE(Apply(set, Region(0, end - 0x1000, 0x1000)).ok());
}

MemoryRegion Frames(uint64_t hpa, uint64_t size) {
  MemoryRegion region = Region(0, 0x10000, size, 0, kSlotHostFrames);
  region.hpa = Hpa(hpa);
  return region;
}

TEST(SlotSet, HostFramesLieBelowTheHostsWidthAndAreMemory) {
  SlotSet set(SlotLimits{.host_physical_address_bits = 40});
  const uint64_t end = uint64_t{1} << 40;
  ExpectRefused(set, Frames(end - 0x1000, 0x2000), kInvalid, "MAXPHYADDR of 40 bits");
  ExpectRefused(set, Frames(end + 0x1000, 0x1000), kInvalid, "MAXPHYADDR of 40 bits");
  ExpectRefused(set, Frames(0x800, 0x1000), kInvalid, "hpa = 0x800");
  MemoryRegion bad = Frames(0, 0x1000);
  for (const Access rights : {Access::Write(), Access::Write() | Access::Execute()}) {
    bad.rights = rights;
    ExpectRefused(set, bad, kInvalid, "rights");
  }
  bad = Frames(0, 0x1000);
  bad.hva = Hva(kHva);
  ExpectRefused(set, bad, kInvalid, "hva");
  bad = Frames(0, 0x1000);
  bad.memory_type = static_cast<MemoryType>(3);
  ExpectRefused(set, bad, kInvalid, "memory_type");
  EXPECT_TRUE(Apply(set, Frames(end - 0x1000, 0x1000)).ok());
  EXPECT_TRUE(set.FindById(0, 0)->has_host_frames());
  EXPECT_TRUE(set.FindByGfn(0, Gfn(0x10))->has_host_frames());
}

TEST(SlotSet, WhatIsSaidOfFramesIsRefusedOfMemory) {
  SlotSet set(SlotLimits{});
  MemoryRegion region = Region(0, 0, 0x1000);
  region.rights = Access::Read();
  ExpectRefused(set, region, kInvalid, "rights");
  region = Region(0, 0, 0x1000);
  region.memory_type = MemoryType::kUncacheable;
  ExpectRefused(set, region, kInvalid, "memory_type");
  region = Region(0, 0, 0x1000);
  region.hpa = Hpa(0x1000);
  ExpectRefused(set, region, kInvalid, "hpa");
}

TEST(SlotSet, WhatStandsBehindASlotOnlyADeletionChanges) {
  SlotSet set(SlotLimits{.private_memory = true});
  MemoryRegion frames = Frames(0x100000, 0x1000);
  frames.cookie = 5;
  ASSERT_TRUE(Apply(set, frames).ok());
  MemoryRegion other = frames;
  other.rights = Access::Read();
  ExpectRefused(set, other, kInvalid, "rights");
  other = frames;
  other.memory_type = MemoryType::kUncacheable;
  ExpectRefused(set, other, kInvalid, "memory_type");
  other = frames;
  other.cookie = 6;
  ExpectRefused(set, other, kInvalid, "cookie");
  other = frames;
  other.hpa = Hpa(0x200000);
  ExpectRefused(set, other, kInvalid, "hpa");
  ExpectRefused(set, Region(0, 0x10000, 0x1000), kInvalid, "flags");

  MemoryRegion secret = Region(1, 0x20000, 0x1000, kHva, kSlotPrivateMemory);
  secret.private_hva = Hva(kHva + 0x800);
  ExpectRefused(set, secret, kInvalid, "private_hva");
  secret.private_hva = Hva(kHva + MiB(1));
  ASSERT_TRUE(Apply(set, secret).ok());
  ExpectRefused(set, secret, kInvalid, "private memory");
  ExpectRefused(set, Region(1, 0x20000, 0x1000), kInvalid, "private memory");
}

// Slot 1's private memory is the shared memory of slot 0, from its third page on.
TEST(SlotSet, AHostRangeIsTheSharedMemoryOfOneSlotAndThePrivateOfAnother) {
  SlotSet set(SlotLimits{.private_memory = true});
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x8000)).ok());
  MemoryRegion secret = Region(1, 0x20000, 0x4000, kHva + MiB(1), kSlotPrivateMemory);
  secret.private_hva = Hva(kHva + 0x2000);
  ASSERT_TRUE(Apply(set, secret).ok());
  using Parts = std::map<uint32_t, std::pair<uint64_t, uint64_t>>;
  const auto parts_in = [&](uint64_t offset, ByteCount size) {
    Parts parts;
    set.ForEachInHostRange(HostRange(Hva(kHva + offset), size),
                           [&](const MemorySlot& slot, Gfn first, PageCount pages) {
                             parts[slot.id] = {first.raw(), pages.raw()};
                           });
    return parts;
  };
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(parts_in(0x1000, 0x1000), (Parts{{0, {0x11, 1}}}));
    EXPECT_EQ(parts_in(0x3000, 0x2000), (Parts{{0, {0x13, 2}}, {1, {0x21, 2}}}));
  }
  ASSERT_TRUE(Apply(set, Region(1, 0, 0)).ok());
  EXPECT_EQ(parts_in(0x3000, 0x2000), (Parts{{0, {0x13, 2}}}));
}

TEST(SlotSet, LimitsOutsideTheirRangesAreNamed) {
  EXPECT_TRUE(CheckLimits(SlotLimits{}).ok());
  for (const auto& [limits, field] : std::vector<std::pair<SlotLimits, std::string>>{
           {{.slots = 0}, "slots"},
           {{.slots = 65537}, "slots"},
           {{.address_spaces = 0}, "address_spaces"},
           {{.address_spaces = 17}, "address_spaces"},
           {{.guest_physical_address_bits = 31}, "guest_physical_address_bits"},
           {{.guest_physical_address_bits = 53}, "guest_physical_address_bits"},
           {{.max_physical_address_bits = 31}, "max_physical_address_bits"},
           {{.max_physical_address_bits = 53}, "max_physical_address_bits"},
           {{.user_address_end = Hva(0x1001)}, "user_address_end"}}) {
    const absl::Status status = CheckLimits(limits);
    EXPECT_EQ(status.code(), kInvalid);
    EXPECT_TRUE(absl::StrContains(status.message(), field)) << status;
  }
}

TEST(SlotSet, GenerationsOfAddressSpacesNeverMeet) {
  SlotSet set(SlotLimits{.address_spaces = 2});
  std::map<uint64_t, int> seen;
  ++seen[set.generation(0)];
  ++seen[set.generation(1)];
  for (int i = 0; i < 20; ++i) {
    MemoryRegion region = Region(0, 0x1000u * static_cast<unsigned>(i + 1), 0x1000);
    region.address_space = static_cast<AddressSpaceId>(i % 2);
    ASSERT_TRUE(Apply(set, region).ok());
    ++seen[set.generation(region.address_space)];
  }
  for (const auto& [generation, times] : seen) EXPECT_EQ(times, 1) << generation;
}

TEST(SlotSet, ADeletedSlotIsInvalidBeforeItIsGone) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x4000)).ok());
  const uint64_t before = set.generation(0);
  absl::StatusOr<SlotUpdate> update = set.Prepare(Region(0, 0, 0));
  ASSERT_TRUE(update.ok());
  EXPECT_TRUE(update->takes_away());
  EXPECT_FALSE(set.FindByGfn(0, Gfn(0x11))->invalid);
  EXPECT_EQ(set.generation(0), before);
  set.PublishInvalid(*update);
  EXPECT_TRUE(set.FindByGfn(0, Gfn(0x11))->invalid);
  EXPECT_EQ(set.generation(0), before | kSlotUpdateInProgress);
  const std::unique_ptr<SlotState> retired = set.Publish(*std::move(update));
  EXPECT_NE(retired, nullptr);
  EXPECT_FALSE(set.FindByGfn(0, Gfn(0x11)).has_value());
  EXPECT_NE(set.generation(0) & ~kSlotUpdateInProgress, before);
  EXPECT_EQ(set.generation(0) & kSlotUpdateInProgress, 0u);
}

TEST(SlotSet, AnAbandonedMoveLeavesTheSlotWhereItWas) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x4000)).ok());
  const MemorySlot slot = *set.FindById(0, 0);
  const uint64_t before = set.generation(0);
  for (bool invalid_first : {false, true}) {
    absl::StatusOr<SlotUpdate> update = set.Prepare(Region(0, 0x80000, 0x4000));
    ASSERT_TRUE(update.ok());
    if (invalid_first) set.PublishInvalid(*update);
    update->Abandon();
    EXPECT_EQ(*set.FindByGfn(0, Gfn(0x10)), slot);
    EXPECT_FALSE(set.FindByGfn(0, Gfn(0x80)).has_value());
    EXPECT_EQ(set.generation(0) & kSlotUpdateInProgress, 0u);
    EXPECT_EQ(set.generation(0) != before, invalid_first);
    EXPECT_TRUE(set.CheckInvariants().ok());
  }
}

TEST(SlotSet, TheDirtyLogSurvivesAMoveAndIsFreshAfterOffAndOn) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x4000, kHva, kSlotLogDirtyPages)).ok());
  DirtyLog* log = set.FindById(0, 0)->state->dirty_log();
  ASSERT_TRUE(log->Prepare(2).ok());
  log->Mark(2);
  ASSERT_TRUE(Apply(set, Region(0, 0x20000, 0x4000, kHva, kSlotLogDirtyPages)).ok());
  EXPECT_EQ(set.FindById(0, 0)->state->dirty_log(), log);
  EXPECT_TRUE(log->IsDirty(2));
  ASSERT_TRUE(Apply(set, Region(0, 0x20000, 0x4000)).ok());
  EXPECT_EQ(set.FindById(0, 0)->state->dirty_log(), nullptr);
  ASSERT_TRUE(Apply(set, Region(0, 0x20000, 0x4000, kHva, kSlotLogDirtyPages)).ok());
  EXPECT_EQ(set.FindById(0, 0)->state->dirty_log()->CountDirty(), 0u);
}

TEST(SlotSet, AMoveMayChangeTheDirtyLog) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x4000)).ok());
  EXPECT_EQ(*Apply(set, Region(0, 0x20000, 0x4000, kHva, kSlotLogDirtyPages)), SlotChange::kMove);
  EXPECT_NE(set.FindById(0, 0)->state->dirty_log(), nullptr);
  EXPECT_EQ(*Apply(set, Region(0, 0x10000, 0x4000)), SlotChange::kMove);
  EXPECT_EQ(set.FindById(0, 0)->state->dirty_log(), nullptr);
}

TEST(SlotSet, PermitsFollowTheSlotAndWriteTrackingSurvivesAChangeOfFlags) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, MiB(2), MiB(2))).ok());
  EXPECT_EQ(set.FindById(0, 0)->state->MaxLevel(Gfn(512)), kLevel2M);
  ASSERT_TRUE(set.FindById(0, 0)->state->permits().AddWriteTracking(Gfn(513)).ok());
  ASSERT_TRUE(Apply(set, Region(0, MiB(2), MiB(2), kHva, kSlotLogDirtyPages)).ok());
  EXPECT_EQ(set.FindById(0, 0)->state->MaxLevel(Gfn(512)), kLevel4K);
  ASSERT_TRUE(Apply(set, Region(0, MiB(2) + KiB(4), MiB(2))).ok());
  EXPECT_EQ(set.FindById(0, 0)->state->MaxLevel(Gfn(513)), kLevel4K);
  EXPECT_FALSE(set.FindById(0, 0)->state->permits().IsWriteTracked(Gfn(513)));
}

TEST(SlotSet, ARingVmKeepsNoBitmapAndAnInitiallySetOneStartsFull) {
  SlotSet set(SlotLimits{});
  set.set_dirty_bitmap_policy(DirtyBitmapPolicy::kRings);
  ASSERT_TRUE(Apply(set, Region(0, 0, 0x4000, kHva, kSlotLogDirtyPages)).ok());
  EXPECT_EQ(set.FindById(0, 0)->state->dirty_log(), nullptr);
  set.set_dirty_bitmap_policy(DirtyBitmapPolicy::kAllDirty);
  ASSERT_TRUE(Apply(set, Region(1, 0x10000, 0x4000, kHva, kSlotLogDirtyPages)).ok());
  EXPECT_EQ(set.FindById(0, 1)->state->dirty_log()->CountDirty(), 4u);
}

TEST(SlotSet, AnEightTebibyteSlotCostsAFewKibibytesUntilTouched) {
  SlotSet set(SlotLimits{});
  const size_t empty = set.bytes();
  ASSERT_TRUE(Apply(set, Region(0, 0, TiB(8) - KiB(4), GiB(4), kSlotLogDirtyPages)).ok());
  EXPECT_LT(set.FindById(0, 0)->state->bytes(), KiB(10));
  EXPECT_LT(set.bytes() - empty, KiB(64));
}

// Keeps slots as a page-by-page map, which KVM's rules come to.
class SlotModel {
 public:
  void Set(const MemoryRegion& region) {
    std::erase_if(pages_, [&](const auto& page) { return page.second.id == region.slot; });
    for (uint64_t i = 0; i < region.size >> kPageShift; ++i) {
      pages_[(region.gpa.raw() >> kPageShift) + i] = {region.slot,
                                                      (region.hva.raw() >> kPageShift) + i};
    }
  }
  bool Overlaps(const MemoryRegion& region) const {
    for (uint64_t i = 0; i < region.size >> kPageShift; ++i) {
      const auto it = pages_.find((region.gpa.raw() >> kPageShift) + i);
      if (it != pages_.end() && it->second.id != region.slot) return true;
    }
    return false;
  }
  void ExpectSame(const SlotSet& set, uint64_t gfn) const {
    const std::optional<MemorySlot> slot = set.FindByGfn(0, Gfn(gfn));
    const auto it = pages_.find(gfn);
    ASSERT_EQ(slot.has_value(), it != pages_.end()) << gfn;
    if (!slot.has_value()) return;
    EXPECT_EQ(slot->id, it->second.id);
    EXPECT_EQ(slot->HvaOf(Gfn(gfn)).raw() >> kPageShift, it->second.hva_page);
  }

 private:
  struct Page {
    uint32_t id;
    uint64_t hva_page;
  };
  std::map<uint64_t, Page> pages_;
};

TEST(SlotSet, AgreesWithAMapOfPagesUnderRandomRequests) {
  std::mt19937_64 random(11);
  SlotSet set(SlotLimits{});
  SlotModel model;
  std::map<uint32_t, MemoryRegion> present;
  for (int i = 0; i < 20000; ++i) {
    const uint32_t id = static_cast<uint32_t>(random() % 60);
    MemoryRegion region = Region(id, random() % 512 << kPageShift, (1 + random() % 12) * KiB(4),
                                 kHva + (random() % 4096 << kPageShift));
    const auto old = present.find(id);
    if (old != present.end() && random() % 4 != 0) {
      const Gpa place = region.gpa;
      region = old->second;
      if (random() % 2 == 0) region.size = 0;
      region.gpa = place;
    }
    const absl::StatusOr<SlotChange> change = Apply(set, region);
    if (change.ok()) {
      ASSERT_FALSE(region.size != 0 && model.Overlaps(region));
      model.Set(region);
      region.size == 0 ? static_cast<void>(present.erase(id))
                       : static_cast<void>(present[id] = region);
    } else if (absl::IsAlreadyExists(change.status())) {
      ASSERT_TRUE(model.Overlaps(region));
    }
    for (int look = 0; look < 4; ++look) model.ExpectSame(set, random() % 530);
    if (i % 256 != 0) continue;
    ASSERT_TRUE(set.CheckInvariants().ok()) << set.CheckInvariants();
  }
  EXPECT_EQ(set.size(), present.size());
}

// --- several changes together ---

MemoryRegion InSpace(AddressSpaceId address_space, MemoryRegion region) {
  region.address_space = address_space;
  return region;
}

std::vector<MemorySlot> All(const SlotSet& set) {
  std::vector<MemorySlot> slots;
  for (AddressSpaceId space = 0; space < set.limits().address_spaces; ++space) {
    set.ForEach(space, [&](const MemorySlot& slot) { slots.push_back(slot); });
  }
  return slots;
}

TEST(SlotBatch, ThatIsNotPublishedLeavesAllAsItWas) {
  SlotSet set(SlotLimits{.address_spaces = 2, .private_memory = true});
  MemoryRegion secret = Region(1, 0x40000, 0x4000, kHva, kSlotPrivateMemory);
  secret.private_hva = Hva(kHva + MiB(1));
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x4000)).ok());
  ASSERT_TRUE(Apply(set, secret).ok());
  ASSERT_TRUE(Apply(set, InSpace(1, Region(0, 0x10000, 0x2000))).ok());
  const std::vector<MemorySlot> slots = All(set);
  const PageCount pages = set.total_pages();
  size_t bytes = 0;
  for (int i = 0; i < 200; ++i) {
    {
      SlotBatch batch(set);
      ASSERT_TRUE(batch.Add(Region(0, 0x20000, 0x4000)).ok()) << "it moves";
      ASSERT_TRUE(batch.Add(Region(0, 0x20000, 0x4000, kHva, kSlotLogDirtyPages)).ok());
      ASSERT_TRUE(batch.Add(Region(1, 0, 0)).ok()) << "the private one goes";
      ASSERT_TRUE(batch.Add(Region(2, 0x40000, 0x8000)).ok());
      ASSERT_TRUE(batch.Add(InSpace(1, Region(0, 0, 0))).ok());
      EXPECT_FALSE(batch.Add(Region(3, 0x20000, 0x1000)).ok()) << "slot 0 is to be there";
      EXPECT_EQ(All(set), slots) << "readers see none of it";
    }
    if (i == 0) bytes = set.bytes();
    int found = 0;
    set.ForEachInHostRange(HostRange(Hva(kHva + MiB(1)), kPageSize),
                           [&](const MemorySlot&, Gfn, PageCount) { ++found; });
    EXPECT_EQ(found, 1) << "the private memory";
  }
  EXPECT_EQ(All(set), slots);
  EXPECT_EQ(set.FindById(0, 0), slots[0]);
  EXPECT_EQ(set.size(), 3u);
  EXPECT_EQ(set.total_pages(), pages);
  EXPECT_EQ(set.bytes(), bytes);
  EXPECT_EQ(set.CheckInvariants(), absl::OkStatus());
}

TEST(SlotBatch, ShowsInEachSpaceWhatGoesAndNewFlagsBeforeTheRest) {
  SlotSet set(SlotLimits{.address_spaces = 2});
  for (const AddressSpaceId space : {0, 1}) {
    ASSERT_TRUE(Apply(set, InSpace(space, Region(0, 0x10000, 0x4000))).ok());
    ASSERT_TRUE(Apply(set, InSpace(space, Region(1, 0x20000, 0x4000))).ok());
  }
  const auto at = [&](AddressSpaceId space, uint64_t gpa) {
    return set.FindByGfn(space, Gfn::Of(Gpa(gpa)));
  };
  SlotBatch batch(set);
  for (const AddressSpaceId space : {0, 1}) {
    ASSERT_TRUE(batch.Add(InSpace(space, Region(0, 0, 0))).ok());
    ASSERT_TRUE(batch.Add(InSpace(space, Region(2, 0x10000, 0x1000, kHva + MiB(1)))).ok());
    ASSERT_TRUE(batch.Add(InSpace(space, Region(1, 0x20000, 0x4000))).ok()) << "as it is";
    ASSERT_TRUE(
        batch.Add(InSpace(space, Region(1, 0x20000, 0x4000, kHva, kSlotLogDirtyPages))).ok());
  }
  batch.PublishFirst();
  for (const AddressSpaceId space : {0, 1}) {
    EXPECT_TRUE(at(space, 0x10000)->invalid) << space;
    EXPECT_TRUE(at(space, 0x20000)->logs_dirty_pages()) << space;
    EXPECT_NE(set.generation(space) & kSlotUpdateInProgress, 0u) << space;
  }
  batch.Publish();
  for (const AddressSpaceId space : {0, 1}) {
    EXPECT_EQ(at(space, 0x10000)->id, 2u) << space;
    EXPECT_FALSE(at(space, 0x11000).has_value()) << space;
    EXPECT_EQ(set.generation(space) & kSlotUpdateInProgress, 0u) << space;
  }
  EXPECT_EQ(set.CheckInvariants(), absl::OkStatus()) << "the index by host address too";
}

TEST(SlotBatch, KeepsNoMemoryOfWhatItHasShownFirst) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, 0x10000, 0x4000)).ok());
  size_t bytes = 0;
  for (int i = 0; i < 200; ++i) {
    for (const uint32_t flags : {kSlotLogDirtyPages, uint32_t{0}}) {
      SlotBatch batch(set);
      ASSERT_TRUE(batch.Add(Region(0, 0x10000, 0x4000, kHva, flags)).ok());
      batch.PublishFirst();
      batch.Publish();
    }
    if (i == 0) bytes = set.bytes();
  }
  EXPECT_EQ(set.bytes(), bytes);
}

TEST(SlotSet, AnyTwoIdsOfAnyTwoSpacesMayBeOverOnePage) {
  SlotSet set(SlotLimits{.address_spaces = kMaxAddressSpaces});
  for (AddressSpaceId space = 0; space < kMaxAddressSpaces; ++space) {
    for (uint32_t id = 1; id < set.limits().slots; id *= 2) {
      ASSERT_TRUE(Apply(set, InSpace(space, Region(id, uint64_t{id} << 12, 0x1000))).ok());
    }
  }
  EXPECT_EQ(set.CheckInvariants(), absl::OkStatus());
  size_t found = 0;
  set.ForEachInHostRange(HostRange(Hva(kHva), kPageSize),
                         [&](const MemorySlot&, Gfn, PageCount) { ++found; });
  EXPECT_EQ(found, set.size());
}

TEST(SlotSet, PagesOfADeletedSlotMayBeUsedAgain) {
  SlotSet set(SlotLimits{.total_pages = PageCount(10)});
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(Apply(set, Region(0, 0, 0xa000)).ok());
    ASSERT_TRUE(Apply(set, Region(0, 0x100000, 0xa000)).ok()) << "moved";
    ASSERT_TRUE(Apply(set, Region(0, 0, 0)).ok());
    EXPECT_EQ(set.total_pages(), PageCount(0));
  }
}

TEST(SlotSet, ChangesThatAreGivenUpKeepNoMemory) {
  SlotSet set(SlotLimits{});
  ASSERT_TRUE(Apply(set, Region(0, 0, 0x1000)).ok());
  const size_t before = set.bytes();
  for (int i = 0; i < 1000; ++i) {
    absl::StatusOr<SlotUpdate> update = set.Prepare(Region(0, 0x10000, 0x1000));
    ASSERT_TRUE(update.ok());
    set.PublishInvalid(*update);
  }
  EXPECT_EQ(set.bytes(), before);
  EXPECT_EQ(set.CheckInvariants(), absl::OkStatus());
}

}  // namespace
}  // namespace tdp
