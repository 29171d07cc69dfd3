// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests are of guest paging where its rules meet: reserved bits by mode, what a fault or
// another size drops, accesses over the end of a page.

#include <gtest/gtest.h>

#include <cstdint>

#include "tdp/backends/sim/cpu.h"
#include "tests/sim/guest_page.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

using PagingCorners = GuestPageTest;

// SDM vol. 3A, tables 5-4 to 5-19. The leaf of `level` is asked for where `leaf` is true.
bool IsReserved(PagingMode mode, int level, bool leaf, int bit, const CpuFeatures& features) {
  const int width = features.physical_address_bits;
  if (mode == PagingMode::k32Bit) return leaf && level == 2 && bit >= width - 19 && bit <= 21;
  if (bit >= width && bit <= (Is64Bit(mode) ? 51 : 62)) return true;
  if (bit == 7) return level >= 4 || (level == 3 && !leaf && !features.guest_pages_1g);
  if (leaf && level == 2) return bit >= 13 && bit <= 20;
  return leaf && level == 3 && bit >= 13 && bit <= 29;
}

TEST(ReservedBits, OfEveryLevelAndModeAreThoseOfTheTables) {
  using enum PagingMode;
  for (const PagingMode mode : {k32Bit, kPae, k4Level, k5Level}) {
    for (const bool pages_1g : {false, true}) {
      World world(NoCaches(), mode);
      CpuFeatures features = world.cpu().features();
      features.guest_pages_1g = pages_1g;
      features.physical_address_bits = 36;
      world.cpu().SetFeatures(features);
      world.Enter();
      for (int level = 1; level <= GuestLevels(mode); ++level) {
        for (const bool leaf : {false, true}) {
          if (level == 1 ? !leaf : leaf && (level > 3 || (level == 3 && !pages_1g))) continue;
          const uint64_t gva = GiB(1) + (leaf ? GiB(2) : 0);
          const uint64_t place =
              leaf ? world.MapGuest(gva, 0, level) : world.GuestEntryAt(gva, level);
          if (!leaf) world.MapGuest(gva, 0);
          const uint64_t entry = world.LoadGuest(place);
          for (int bit = 1; bit < (mode == k32Bit ? 32 : 64); ++bit) {
            if (bit == 7 && level <= 3 && (level != 3 || pages_1g)) continue;  // another kind
            if (bit == 7 && mode == kPae && level == 3) continue;
            world.StoreGuest(place, entry | uint64_t{1} << bit);
            const AccessResult result = world.cpu().Access(Gva(gva), AccessKind::kLoad);
            const bool reserved = result.event == Event::kPageFault &&
                                  (world.cpu().exit().error_code & kFaultReserved) != 0;
            ASSERT_EQ(reserved, IsReserved(mode, level, leaf, bit, features))
                << "mode " << static_cast<int>(mode) << " level " << level << " leaf " << leaf
                << " bit " << bit;
          }
          world.StoreGuest(place, 0);
        }
      }
    }
  }
}

TEST(LegacyPaging, TheFaultOfAFetchIsToldWhereSmepNeedsIt) {
  World world(NoCaches(), PagingMode::k32Bit);
  world.MapEpt(kGpa, kHpa);
  world.MapGuest(kGva, kGpa, 1, kGuestLeaf & ~kGuestUser);
  world.Enter();
  const auto fault = [&] {
    world.cpu().Access({.gva = kGva, .kind = AccessKind::kFetch, .accessor = Accessor::kUser});
    return world.cpu().exit().error_code;
  };
  EXPECT_EQ(fault(), kFaultPresent | kFaultUser);
  world.ChangeRegisters([](Registers& r) { r.cr4 |= kCr4Smep; });
  EXPECT_EQ(fault(), kFaultPresent | kFaultUser | kFaultFetch);
}

TEST_F(PagingCorners, InvlpgIsAboutTheCurrentPcidAlone) {
  SetCr4(kCr4Pcide);
  const uint64_t cr3 = world_.cpu().registers().cr3;
  constexpr uint64_t kKeep = uint64_t{1} << 63;
  for (const uint64_t pcid : {1, 2}) {
    ASSERT_EQ(world_.cpu().WriteCr3(cr3 | pcid), Event::kNone);
    ASSERT_TRUE(Touch().ok());
  }
  MoveSilently();
  world_.cpu().Invlpg(Gva(kGva));
  EXPECT_FALSE(StillCached());
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 1 | kKeep), Event::kNone);
  EXPECT_TRUE(StillCached()) << "PCID 1's may stay";
}

TEST(Paging32Bit, InvlpgHeedsTheLower32BitsOfItsAddress) {
  World world({}, PagingMode::k32Bit);
  world.MapEpt(kGpa, kHpa);
  world.MapEpt(kOtherGpa, kOtherHpa);
  const uint64_t entry = world.MapGuest(kGva, kGpa);
  world.Enter();
  ASSERT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kHpa));
  world.StoreGuest(entry, kOtherGpa | kGuestLeaf);
  world.cpu().Invlpg(Gva(kGva | GiB(8)));
  EXPECT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kOtherHpa));
}

TEST_F(PagingCorners, ALargeGlobalPageIsCached) {
  SetCr4(kCr4Pge);
  world_.MapEpt(GiB(2), GiB(8), 2);
  world_.MapGuest(GiB(3), GiB(2), 2, kGuestLeaf | kGuestGlobal);
  ASSERT_TRUE(world_.cpu().Access(Gva(GiB(3)), AccessKind::kLoad).ok());
  world_.cpu().ClearCounters();
  EXPECT_EQ(world_.cpu().Access(Gva(GiB(3) + MiB(1)), AccessKind::kLoad).hpa, Hpa(GiB(8) + MiB(1)));
  EXPECT_EQ(world_.cpu().counters().tlb_hits, 1u);
}

// The page becomes a part of a larger one, and a write that has to set D walks.
TEST_F(PagingCorners, AWalkTakesThePlaceOfWhatWasCachedByAnotherSize) {
  world_.MapEpt(GiB(2), GiB(8), 2);
  world_.Store(entry_, kGpa | (kGuestLeaf & ~kGuestDirty));
  ASSERT_EQ(Touch().hpa, Hpa(kHpa));
  world_.Store(world_.GuestEntryAt(kGva, 2), GiB(2) | kGuestLeaf | kGuestLargePage);
  world_.cpu().Invpcid(0, 0, Gva(kGva + kPageSize));  // the upper entries, but not the page
  ASSERT_EQ(Touch(AccessKind::kStore).hpa, Hpa(GiB(8)));
  EXPECT_EQ(Touch().hpa, Hpa(GiB(8)));
}

// The directory leads to another table, and the page beside it is found to be missing from the EPT.
TEST_F(PagingCorners, AnEptViolationDropsTheGuestsUpperEntriesOnTheWay) {
  world_.MapGuest(kGva + kPageSize, MiB(128));
  ASSERT_TRUE(Touch().ok());
  const uint64_t table = world_.NewGuestFrame();
  world_.Store(World::HpaOfGuest(table) + (kGva >> 12 & 511) * 8 + 8, kOtherGpa | kGuestLeaf);
  world_.Store(world_.GuestEntryAt(kGva, 2), table | kGuestTable);
  const Gva beside(kGva + kPageSize);
  ASSERT_EQ(world_.cpu().Access(beside, AccessKind::kLoad).event, Event::kEptViolation);
  EXPECT_EQ(world_.cpu().exit().gpa, Gpa(MiB(128))) << "by the table of before";
  EXPECT_EQ(world_.cpu().Access(beside, AccessKind::kLoad).hpa, Hpa(kOtherHpa));
}

TEST(Paging32Bit, APageFaultDropsTheDirectorysEntry) {
  World world({}, PagingMode::k32Bit);
  world.MapEpt(kGpa, kHpa);
  world.MapGuest(kGva, kGpa);
  world.Enter();
  const Gva beside(kGva + kPageSize);
  ASSERT_TRUE(world.cpu().Access(Gva(kGva), AccessKind::kLoad).ok());
  const uint64_t table = world.NewGuestFrame();
  world.StoreGuest(World::HpaOfGuest(table) + (kGva >> 12 & 1023) * 4 + 4, kGpa | kGuestLeaf);
  world.StoreGuest(world.GuestEntryAt(kGva, 2), table | kGuestTable);
  ASSERT_EQ(world.cpu().Access(beside, AccessKind::kLoad).event, Event::kPageFault);
  EXPECT_EQ(world.cpu().Access(beside, AccessKind::kLoad).hpa, Hpa(kHpa));
}

TEST(Paging32Bit, AnAccessOverTheLastByteGoesOnAtTheFirst) {
  World world(NoCaches(), PagingMode::k32Bit);
  world.MapEpt(kGpa, kHpa);
  world.MapGuest(0xfffff000, kGpa);
  world.Enter();
  const Gva last(0xfffffffc);
  ASSERT_EQ(world.cpu().Access(last, AccessKind::kLoad, 8).event, Event::kPageFault);
  EXPECT_EQ(world.cpu().exit().gva, Gva(0));
  EXPECT_EQ(world.cpu().exit().length, 4u);
  world.MapGuest(0, kGpa);
  EXPECT_EQ(world.cpu().Access(last, AccessKind::kLoad, 8).hpa, Hpa(kHpa + 0xffc));
}

TEST_F(PagingCorners, AnAccessOverTheEndOfTheLowerHalfIsAGeneralProtectionFault) {
  constexpr uint64_t kLast = (uint64_t{1} << 47) - kPageSize;
  world_.MapGuest(kLast, kGpa);
  EXPECT_TRUE(world_.cpu().Access(Gva(kLast), AccessKind::kLoad, kPageSize).ok());
  EXPECT_EQ(world_.cpu().Access(Gva(kLast + 1), AccessKind::kLoad, kPageSize).event,
            Event::kGeneralProtection);
}

TEST_F(PagingCorners, InvpcidTakesAddressesOf57BitsWithFiveLevels) {
  World world({}, PagingMode::k5Level);
  EXPECT_EQ(world.cpu().Invpcid(0, 0, Gva(uint64_t{1} << 55)), Event::kNone);
  EXPECT_EQ(world.cpu().Invpcid(0, 0, Gva(uint64_t{1} << 56)), Event::kGeneralProtection);
}

TEST_F(PagingCorners, InvvpidFailsForATypeThatTheCpuDoesNotOffer) {
  for (int type = 0; type <= 3; ++type) {
    CpuFeatures features = world_.cpu().features();
    features.ept = EptCapabilities::All().Without(ept::kCapInvvpidAddress << type);
    world_.cpu().SetFeatures(features);
    for (int other = 0; other <= 3; ++other) {
      EXPECT_EQ(world_.cpu().Invvpid(other, 1), other != type) << type << other;
    }
  }
}

// INVEPT names EP4TAs, and a translation that was made without an EPT has none.
TEST(WithoutEpt, InveptDropsNothing) {
  World world({}, PagingMode::kNone);
  Controls controls;
  controls.ept = false;
  ASSERT_TRUE(world.cpu().SetControls(controls).ok());
  world.Enter();
  ASSERT_TRUE(world.cpu().Access(Gva(kGva), AccessKind::kLoad).ok());
  ASSERT_TRUE(world.cpu().InveptAll());
  world.cpu().ClearCounters();
  ASSERT_TRUE(world.cpu().Access(Gva(kGva), AccessKind::kLoad).ok());
  EXPECT_EQ(world.cpu().counters().tlb_hits, 1u);
}

TEST(PaePaging, AFaultAtAPdpteThatIsNotPresentTellsTheAccess) {
  World world(NoCaches(), PagingMode::kPae);
  world.Enter();
  ASSERT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kStore).event, Event::kPageFault);
  EXPECT_EQ(world.cpu().exit().error_code, kFaultWrite);
}

TEST(PaePaging, HasNoProtectionKeys) {
  World world(NoCaches(), PagingMode::kPae);
  world.MapEpt(kGpa, kHpa);
  world.MapGuest(kGva, kGpa);
  world.Enter();
  world.ChangeRegisters([](Registers& r) {
    r.cr4 |= kCr4Pke;
    r.pkru = ~uint32_t{0};
  });
  EXPECT_TRUE(world.cpu().Access(Gva(kGva), AccessKind::kStore).ok());
}

TEST_F(PagingCorners, WithoutPcidsTheCacheBitsOfCr3NameNoPcid) {
  constexpr uint64_t kPwtAndPcd = 3 << 3;
  const uint64_t cr3 = world_.cpu().registers().cr3 | kPwtAndPcd;
  ASSERT_EQ(world_.cpu().WriteCr3(cr3), Event::kNone);
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  ASSERT_EQ(world_.cpu().WriteCr3(cr3), Event::kNone);
  EXPECT_FALSE(StillCached());
}

TEST_F(PagingCorners, AFaultOfAWriteDropsWhatReadsWereKeptFor) {
  world_.Store(entry_, kGpa | (kGuestLeaf & ~kGuestWrite));
  ASSERT_TRUE(Touch().ok());
  world_.Store(entry_, 0);
  ASSERT_TRUE(Touch().ok()) << "it is kept";
  ASSERT_EQ(Touch(AccessKind::kStore).event, Event::kPageFault);
  EXPECT_EQ(Touch().event, Event::kPageFault);
}

TEST_F(PagingCorners, WithCachesDisabledMemoryIsUncacheable) {
  EXPECT_EQ(Touch().memory_type, MemoryType::kWriteBack);
  world_.ChangeRegisters([](Registers& r) { r.cr0 |= kCr0Cd; });
  ASSERT_TRUE(world_.cpu().InveptAll());
  EXPECT_EQ(Touch().memory_type, MemoryType::kUncacheable);
}

TEST_F(PagingCorners, APageThatAWriteMadeDirtyIsCachedAsDirty) {
  world_.Store(entry_, kGpa | (kGuestLeaf & ~kGuestDirty));
  ASSERT_TRUE(Touch(AccessKind::kStore).ok());
  world_.cpu().ClearCounters();
  ASSERT_TRUE(Touch(AccessKind::kStore).ok());
  EXPECT_EQ(world_.cpu().counters().tlb_hits, 1u);
}

TEST(FiveLevels, LinearAddressesHave57Bits) {
  World world(NoCaches(), PagingMode::k5Level);
  world.MapEpt(kGpa, kHpa);
  world.Enter();
  for (const uint64_t gva : {uint64_t{1} << 55, ~uint64_t{0} << 56}) {
    world.MapGuest(gva, kGpa);
    EXPECT_EQ(world.cpu().Access(Gva(gva), AccessKind::kLoad).hpa, Hpa(kHpa));
  }
  EXPECT_EQ(world.cpu().Access(Gva(uint64_t{1} << 56), AccessKind::kLoad).event,
            Event::kGeneralProtection);
}

TEST_F(PagingCorners, AKeyThatEveryPageHasIsAskedOfCachedOnesToo) {
  SetCr4(kCr4Pke);
  const auto load = [&] { return world_.cpu().Access(Gva(kGva), AccessKind::kLoad).event; };
  ASSERT_EQ(load(), Event::kNone);
  world_.cpu().SetPkru(1);
  ASSERT_EQ(load(), Event::kPageFault);
  EXPECT_EQ(world_.cpu().exit().error_code, kFaultPresent | kFaultProtectionKey);
  world_.cpu().SetPkru(0);
  EXPECT_EQ(load(), Event::kNone);
}

TEST_F(PagingCorners, WithoutPgeTheGlobalBitMeansNothing) {
  world_.Store(entry_, kGpa | kGuestLeaf | kGuestGlobal);
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  ASSERT_EQ(world_.cpu().WriteCr3(world_.cpu().registers().cr3), Event::kNone);
  EXPECT_FALSE(StillCached());
}

}  // namespace
}  // namespace tdp::sim
