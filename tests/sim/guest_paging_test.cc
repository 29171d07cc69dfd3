// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests are of guest paging: rights, protection keys, and what the INV instructions and
// register writes must drop and must keep.

#include <gtest/gtest.h>

#include <cstdint>

#include "tdp/backends/sim/cpu.h"
#include "tests/sim/guest_page.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

class GuestPaging : public GuestPageTest {
 protected:
  // Returns the error code of the page fault, or 0 if there was none.
  uint32_t Fault(AccessKind kind, Accessor accessor) {
    const AccessResult result = Touch(kind, accessor);
    return result.event == Event::kPageFault ? world_.cpu().exit().error_code : 0;
  }
  void SetLeaf(uint64_t bits) {
    world_.Store(entry_, kGpa | bits);
    world_.cpu().Invlpg(Gva(kGva));
  }
};

TEST_F(GuestPaging, WpDecidesWhetherTheSupervisorMayWriteReadOnlyPages) {
  SetLeaf(0x65);
  EXPECT_EQ(Fault(AccessKind::kStore, Accessor::kSupervisor), 3u);
  EXPECT_EQ(Fault(AccessKind::kStore, Accessor::kUser), 7u);
  world_.ChangeRegisters([](Registers& r) { r.cr0 &= ~kCr0Wp; });
  EXPECT_EQ(Fault(AccessKind::kStore, Accessor::kSupervisor), 0u);
  EXPECT_EQ(Fault(AccessKind::kStore, Accessor::kUser), 7u);
}

TEST_F(GuestPaging, SmepForbidsSupervisorFetchesFromUserPages) {
  EXPECT_EQ(Fault(AccessKind::kFetch, Accessor::kSupervisor), 0u);
  SetCr4(kCr4Smep);
  EXPECT_EQ(Fault(AccessKind::kFetch, Accessor::kSupervisor), 0x11u);
  EXPECT_EQ(Fault(AccessKind::kFetch, Accessor::kUser), 0u);
}

TEST_F(GuestPaging, SmapIsExcusedByAcExceptForImplicitAccesses) {
  SetCr4(kCr4Smap);
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kSupervisor), 1u);
  EXPECT_EQ(Fault(AccessKind::kStore, Accessor::kSupervisor), 3u);
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kUser), 0u);
  world_.ChangeRegisters([](Registers& r) { r.ac = true; });
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kSupervisor), 0u);
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kImplicitSupervisor), 1u);
}

TEST_F(GuestPaging, UserKeysRestrictDataAccessesToUserPages) {
  SetCr4(kCr4Pke);
  SetLeaf(kGuestLeaf | uint64_t{5} << 59);
  world_.ChangeRegisters([](Registers& r) { r.pkru = 1u << 10; });
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kUser), 0x25u) << "access disable";
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kSupervisor), 0x21u);
  EXPECT_EQ(Fault(AccessKind::kFetch, Accessor::kUser), 0u);
  world_.ChangeRegisters([](Registers& r) { r.pkru = 2u << 10; });
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kUser), 0u) << "write disable";
  EXPECT_EQ(Fault(AccessKind::kStore, Accessor::kUser), 0x27u);
  EXPECT_EQ(Fault(AccessKind::kStore, Accessor::kSupervisor), 0x23u);
  world_.ChangeRegisters([](Registers& r) { r.cr0 &= ~kCr0Wp; });
  EXPECT_EQ(Fault(AccessKind::kStore, Accessor::kSupervisor), 0u);
}

TEST_F(GuestPaging, AKeyChangeNeedsNoFlush) {
  SetCr4(kCr4Pke);
  SetLeaf(kGuestLeaf | uint64_t{5} << 59);
  ASSERT_EQ(Fault(AccessKind::kLoad, Accessor::kUser), 0u);
  world_.cpu().SetPkru(1u << 10);
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kUser), 0x25u);
  world_.cpu().SetPkru(0);
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kUser), 0u);
}

TEST_F(GuestPaging, SupervisorKeysRestrictSupervisorPages) {
  SetCr4(kCr4Pks);
  SetLeaf((kGuestLeaf & ~kGuestUser) | uint64_t{3} << 59);
  world_.ChangeRegisters([](Registers& r) { r.pkrs = 1u << 6; });
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kSupervisor), 0x21u);
  SetLeaf(kGuestLeaf | uint64_t{3} << 59);
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kSupervisor), 0u);
}

TEST_F(GuestPaging, AWriteSetsDirtyThroughACachedCleanTranslation) {
  SetLeaf(0x7);
  ASSERT_TRUE(Touch(AccessKind::kLoad).ok());
  EXPECT_EQ(world_.Load(entry_) & 0x60, kGuestAccessed);
  ASSERT_TRUE(Touch(AccessKind::kStore).ok());
  EXPECT_EQ(world_.Load(entry_) & 0x60, kGuestAccessed | kGuestDirty);
}

TEST_F(GuestPaging, ANonCanonicalAddressIsAGeneralProtectionFault) {
  EXPECT_EQ(world_.cpu().Access(Gva(uint64_t{1} << 47), AccessKind::kLoad).event,
            Event::kGeneralProtection);
  // A cached translation of the canonical address with the same low bits does not serve it.
  ASSERT_TRUE(Touch().ok());
  EXPECT_EQ(world_.cpu().Access(Gva(kGva | uint64_t{1} << 60), AccessKind::kLoad).event,
            Event::kGeneralProtection);
}

TEST_F(GuestPaging, WithoutNxeBit63IsReserved) {
  SetLeaf(kGuestLeaf | kGuestNoExecute);
  EXPECT_EQ(Fault(AccessKind::kFetch, Accessor::kUser), 0x15u);
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kUser), 0u);
  world_.ChangeRegisters([](Registers& r) { r.efer &= ~kEferNxe; });
  world_.cpu().Invlpg(Gva(kGva));
  EXPECT_EQ(Fault(AccessKind::kLoad, Accessor::kUser), 0xdu) << "reserved";
}

TEST(LegacyPaging, PseGives4MiBPagesWithAddressBits39To32InBits20To13) {
  World world(NoCaches(), PagingMode::k32Bit);
  constexpr uint64_t kHigh = uint64_t{0x12} << 32;
  world.MapEpt(kHigh | MiB(8), GiB(8), 2);
  world.MapGuest(0x40000000, MiB(8) | 0x12 << 13, 2);
  world.Enter();
  const Gva gva(0x40000000 + 0x12345);
  EXPECT_EQ(world.cpu().Access(gva, AccessKind::kLoad).hpa, Hpa(GiB(8) + 0x12345));
  // Bit 21 is reserved; without CR4.PSE the entry points to a table.
  world.MapGuest(0x40000000, MiB(8) | 1 << 21, 2);
  EXPECT_EQ(world.cpu().Access(gva, AccessKind::kLoad).event, Event::kPageFault);
  EXPECT_EQ(world.cpu().exit().error_code, kFaultPresent | kFaultReserved);
  world.ChangeRegisters([](Registers& r) { r.cr4 &= ~kCr4Pse; });
  EXPECT_EQ(world.cpu().Access(gva, AccessKind::kLoad).event, Event::kEptViolation);
}

// --- what must go and what may stay ---

TEST_F(GuestPaging, ATranslationStaysUntilToldOtherwise) {
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  EXPECT_TRUE(StillCached());
  world_.cpu().Invlpg(Gva(kGva + 0x1000));
  EXPECT_TRUE(StillCached()) << "INVLPG of another page";
  world_.cpu().Invlpg(Gva(kGva + 0x123));
  EXPECT_FALSE(StillCached());
}

TEST_F(GuestPaging, ACr3WriteDropsAllButGlobalPages) {
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  ASSERT_EQ(world_.cpu().WriteCr3(world_.cpu().registers().cr3), Event::kNone);
  EXPECT_FALSE(StillCached());

  SetCr4(kCr4Pge);
  SetLeaf(kGuestLeaf | kGuestGlobal);
  ASSERT_TRUE(StillCached());
  MoveSilently();
  ASSERT_EQ(world_.cpu().WriteCr3(world_.cpu().registers().cr3), Event::kNone);
  EXPECT_TRUE(StillCached()) << "a global page";
  ASSERT_EQ(world_.cpu().WriteCr4(world_.cpu().registers().cr4 & ~kCr4Pge), Event::kNone);
  EXPECT_FALSE(StillCached()) << "clearing CR4.PGE drops global pages";
}

TEST_F(GuestPaging, SettingSmepDropsTranslationsAndClearingItKeepsThem) {
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  const uint64_t cr4 = world_.cpu().registers().cr4;
  ASSERT_EQ(world_.cpu().WriteCr4(cr4 | kCr4Smap), Event::kNone);
  ASSERT_EQ(world_.cpu().WriteCr4(cr4), Event::kNone);
  EXPECT_TRUE(StillCached()) << "SMAP asks for nothing";
  ASSERT_EQ(world_.cpu().WriteCr4(cr4 | kCr4Smep), Event::kNone);
  EXPECT_FALSE(StillCached());
  world_.Store(entry_, kGpa | kGuestLeaf);
  world_.cpu().Invlpg(Gva(kGva));
  ASSERT_TRUE(StillCached());
  MoveSilently();
  ASSERT_EQ(world_.cpu().WriteCr4(cr4), Event::kNone);
  EXPECT_TRUE(StillCached());
}

TEST_F(GuestPaging, PcidsKeepTranslationsApart) {
  SetCr4(kCr4Pcide);
  const uint64_t cr3 = world_.cpu().registers().cr3;
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 1), Event::kNone);
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  constexpr uint64_t kKeep = uint64_t{1} << 63;
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 2), Event::kNone);
  EXPECT_FALSE(StillCached()) << "PCID 2 never saw the old page";
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 1 | kKeep), Event::kNone);
  EXPECT_TRUE(StillCached());
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 1), Event::kNone);
  EXPECT_FALSE(StillCached());
}

TEST_F(GuestPaging, ClearingPcideDropsTheTranslationsOfEveryPcid) {
  SetCr4(kCr4Pcide);
  const uint64_t cr3 = world_.cpu().registers().cr3;
  const uint64_t cr4 = world_.cpu().registers().cr4;
  constexpr uint64_t kKeep = uint64_t{1} << 63;
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 1), Event::kNone);
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | kKeep), Event::kNone);
  ASSERT_EQ(world_.cpu().WriteCr4(cr4 & ~kCr4Pcide), Event::kNone);
  ASSERT_EQ(world_.cpu().WriteCr4(cr4), Event::kNone);
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 1 | kKeep), Event::kNone);
  EXPECT_FALSE(StillCached());
}

TEST_F(GuestPaging, SettingSmepKeepsTheTranslationsOfOtherPcids) {
  SetCr4(kCr4Pcide);
  const uint64_t cr3 = world_.cpu().registers().cr3;
  const uint64_t cr4 = world_.cpu().registers().cr4;
  constexpr uint64_t kKeep = uint64_t{1} << 63;
  for (const uint64_t pcid : {1, 2}) {
    ASSERT_EQ(world_.cpu().WriteCr3(cr3 | pcid), Event::kNone);
    ASSERT_TRUE(Touch().ok());
  }
  MoveSilently();
  ASSERT_EQ(world_.cpu().WriteCr4(cr4 | kCr4Smep), Event::kNone);
  EXPECT_FALSE(StillCached());
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 1 | kKeep), Event::kNone);
  EXPECT_TRUE(StillCached());
}

TEST_F(GuestPaging, ReservedBitsOfCr3AreRefusedIn64BitModesAndNothingIsDropped) {
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  const Registers before = world_.cpu().registers();
  for (const int bit : {46, 51, 52, 61, 62, 63}) {  // LAM, which is not modelled, has 61 and 62
    EXPECT_EQ(world_.cpu().WriteCr3(before.cr3 | uint64_t{1} << bit), Event::kGeneralProtection)
        << bit;
    EXPECT_EQ(world_.cpu().exit().event, Event::kGeneralProtection);
  }
  EXPECT_EQ(world_.cpu().registers(), before);
  EXPECT_TRUE(StillCached());
  SetCr4(kCr4Pcide);
  EXPECT_EQ(world_.cpu().WriteCr3(before.cr3 | uint64_t{1} << 63), Event::kNone);
  EXPECT_EQ(world_.cpu().WriteCr3(before.cr3 | uint64_t{3} << 62), Event::kGeneralProtection);
}

TEST_F(GuestPaging, InvlpgDropsGlobalPagesAndTheUpperEntries) {
  SetCr4(kCr4Pge);
  SetLeaf(kGuestLeaf | kGuestGlobal);
  ASSERT_TRUE(StillCached());
  MoveSilently();
  ASSERT_TRUE(StillCached());
  world_.cpu().Invlpg(Gva(kGva));
  EXPECT_FALSE(StillCached()) << "a global page";

  // The guest puts another table above the leaf.
  const uint64_t table = world_.NewGuestFrame();
  world_.Store(World::HpaOfGuest(table) + (kGva >> 12 & 511) * 8, kGpa | kGuestLeaf);
  world_.Store(world_.GuestEntryAt(kGva, 2), table | kGuestTable);
  world_.cpu().Invlpg(Gva(kGva));
  EXPECT_TRUE(StillCached()) << "by the new table";
}

TEST_F(GuestPaging, WithoutPcidsInvpcidTakesPcid0Alone) {
  for (const int type : {0, 1}) {
    EXPECT_EQ(world_.cpu().Invpcid(type, 1, Gva(kGva)), Event::kGeneralProtection) << type;
    EXPECT_EQ(world_.cpu().Invpcid(type, 0, Gva(kGva)), Event::kNone) << type;
  }
}

TEST_F(GuestPaging, ASmallPageInALargeOneOfTheEptIsCachedAsSmall) {
  world_.MapEpt(GiB(2), GiB(8), 2);
  world_.MapGuest(GiB(3), GiB(2) + 5 * kPageSize);
  world_.MapGuest(GiB(3) + kPageSize, GiB(2) + 2 * kPageSize);
  EXPECT_EQ(world_.cpu().Access(Gva(GiB(3)), AccessKind::kLoad).hpa, Hpa(GiB(8) + 5 * kPageSize));
  EXPECT_EQ(world_.cpu().Access(Gva(GiB(3) + kPageSize), AccessKind::kLoad).hpa,
            Hpa(GiB(8) + 2 * kPageSize));
}

TEST_F(GuestPaging, WithoutDirtyFlagsInTheEptAWriteIsCachedLikeARead) {
  ASSERT_TRUE(Touch(AccessKind::kStore).ok());
  world_.cpu().ClearCounters();
  ASSERT_TRUE(Touch(AccessKind::kStore).ok());
  EXPECT_EQ(world_.cpu().counters().tlb_hits, 1u);
}

TEST(LegacyPaging, SwitchingPagingOffDropsWhatWasCached) {
  World world({}, PagingMode::k32Bit);
  world.MapEpt(kGpa, kHpa);
  world.MapEpt(kOtherGpa, kOtherHpa);
  const uint64_t entry = world.MapGuest(kGva, kGpa);
  world.Enter();
  ASSERT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kHpa));
  world.StoreGuest(entry, kOtherGpa | kGuestLeaf);
  ASSERT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kHpa)) << "it is kept";
  const uint64_t cr0 = world.cpu().registers().cr0;
  ASSERT_EQ(world.cpu().WriteCr0(cr0 & ~kCr0Pg), Event::kNone);
  ASSERT_EQ(world.cpu().WriteCr0(cr0), Event::kNone);
  EXPECT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kOtherHpa));
}

TEST_F(GuestPaging, InvpcidTypesDropWhatTheyName) {
  SetCr4(kCr4Pcide | kCr4Pge);
  const uint64_t cr3 = world_.cpu().registers().cr3;
  ASSERT_EQ(world_.cpu().WriteCr3(cr3 | 1), Event::kNone);
  struct Case {
    int type;
    uint16_t pcid;
    uint64_t gva;
    bool global;
    bool kept;
  };
  for (const Case& c :
       {Case{0, 1, kGva, false, false}, Case{0, 2, kGva, false, true}, Case{0, 1, kGva, true, true},
        Case{0, 1, kGva + kPageSize, false, true}, Case{1, 1, 0, false, false},
        Case{1, 2, 0, false, true}, Case{1, 1, 0, true, true}, Case{2, 0, 0, true, false},
        Case{3, 0, 0, false, false}, Case{3, 0, 0, true, true}}) {
    world_.cpu().InveptAll();
    world_.Store(entry_, kGpa | kGuestLeaf | (c.global ? kGuestGlobal : 0));
    ASSERT_TRUE(StillCached());
    MoveSilently();
    ASSERT_EQ(world_.cpu().Invpcid(c.type, c.pcid, Gva(c.gva)), Event::kNone);
    EXPECT_EQ(StillCached(), c.kept) << "type " << c.type << " pcid " << c.pcid << c.global;
  }
  EXPECT_EQ(world_.cpu().Invpcid(4, 0, Gva(0)), Event::kGeneralProtection);
  EXPECT_EQ(world_.cpu().Invpcid(1, 4096, Gva(0)), Event::kGeneralProtection);
  EXPECT_EQ(world_.cpu().Invpcid(0, 1, Gva(uint64_t{1} << 50)), Event::kGeneralProtection);
}

TEST_F(GuestPaging, InvvpidTypesDropWhatTheyName) {
  SetCr4(kCr4Pge);
  struct Case {
    int type;
    uint16_t vpid;
    uint64_t gva;
    bool global;
    bool kept;
  };
  for (const Case& c : {Case{0, 1, kGva, true, false}, Case{0, 2, kGva, false, true},
                        Case{0, 1, kGva + kPageSize, false, true}, Case{1, 1, 0, true, false},
                        Case{1, 2, 0, false, true}, Case{2, 0, 0, true, false},
                        Case{3, 1, 0, false, false}, Case{3, 1, 0, true, true}}) {
    world_.cpu().InveptAll();
    world_.Store(entry_, kGpa | kGuestLeaf | (c.global ? kGuestGlobal : 0));
    ASSERT_TRUE(StillCached());
    MoveSilently();
    ASSERT_TRUE(world_.cpu().Invvpid(c.type, c.vpid, Gva(c.gva)));
    EXPECT_EQ(StillCached(), c.kept) << "type " << c.type << " vpid " << c.vpid << c.global;
  }
  EXPECT_FALSE(world_.cpu().Invvpid(1, 0)) << "VPID 0 names nothing";
  EXPECT_FALSE(world_.cpu().Invvpid(4, 1));
  EXPECT_TRUE(world_.cpu().Invvpid(0, 1, Gva(uint64_t{1} << 55))) << "of 5-level paging";
  EXPECT_FALSE(world_.cpu().Invvpid(0, 1, Gva(uint64_t{1} << 56)));
}

// The upper entries on the way to another address may stay: the page beside the one that is named
// has lost its table, and is found through what the CPU kept of that.
TEST_F(GuestPaging, InvpcidAndInvvpidOfAnAddressDropTheUpperEntriesOnItsWayAlone) {
  SetCr4(kCr4Pcide);
  constexpr uint64_t kNextTable = kGva + MiB(2);
  world_.MapGuest(kNextTable, kGpa);
  world_.MapGuest(kNextTable + kPageSize, kGpa);
  const uint64_t directory = world_.GuestEntryAt(kNextTable, 2);
  const uint64_t table = world_.Load(directory);
  const auto reaches_next = [&] {
    return world_.cpu().Access(Gva(kNextTable + kPageSize), AccessKind::kLoad).ok();
  };
  for (const bool by_vpid : {false, true}) {
    for (const uint64_t named : {kGva, kNextTable}) {
      world_.cpu().InveptAll();
      world_.Store(directory, table);
      ASSERT_TRUE(world_.cpu().Access(Gva(kNextTable), AccessKind::kLoad).ok());
      world_.Store(directory, 0);
      if (by_vpid) {
        ASSERT_TRUE(world_.cpu().Invvpid(0, 1, Gva(named)));
      } else {
        ASSERT_EQ(world_.cpu().Invpcid(0, 0, Gva(named)), Event::kNone);
      }
      EXPECT_EQ(reaches_next(), named == kGva) << by_vpid;
    }
  }
}

TEST_F(GuestPaging, InvvpidOfAllVpidsKeepsVpid0) {
  Controls controls;
  controls.vpid = 0;
  ASSERT_TRUE(world_.cpu().SetControls(controls).ok());
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  ASSERT_TRUE(world_.cpu().Invvpid(2, 0));
  EXPECT_TRUE(StillCached());
}

TEST_F(GuestPaging, InveptOfAnotherRootKeepsThisOnes) {
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  ASSERT_TRUE(world_.cpu().InveptSingle(Eptp::Make(Hpa(MiB(700)), 4, false)));
  EXPECT_TRUE(StillCached());
  ASSERT_TRUE(world_.cpu().InveptSingle(world_.eptp(true)));
  EXPECT_FALSE(StillCached()) << "the other bits of the EPTP do not matter";
}

TEST_F(GuestPaging, WithVpid0AnEntryDropsLinearMappings) {
  Controls controls;
  controls.vpid = 0;
  ASSERT_TRUE(world_.cpu().SetControls(controls).ok());
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  EXPECT_TRUE(StillCached());
  ASSERT_EQ(world_.Enter(), Event::kNone);
  EXPECT_FALSE(StillCached());
}

TEST_F(GuestPaging, LargeGuestAndEptPagesAreCachedByTheSmaller) {
  world_.MapEpt(GiB(2), GiB(8), 2);
  world_.MapGuest(GiB(3), GiB(2), 2);
  const Gva first(GiB(3));
  EXPECT_EQ(world_.cpu().Access(first, AccessKind::kLoad).hpa, Hpa(GiB(8)));
  world_.cpu().ClearCounters();
  EXPECT_EQ(world_.cpu().Access(first + MiB(1) + 5, AccessKind::kLoad).hpa,
            Hpa(GiB(8) + MiB(1) + 5));
  EXPECT_EQ(world_.cpu().counters().tlb_hits, 1u) << "2 MiB in both dimensions";
}

// SDM vol. 3A, table 5-3: a CPU that left 64-bit mode may have them in CR3 still.
TEST(Paging32Bit, BitsAbove31OfCr3AreIgnored) {
  World world(NoCaches(), PagingMode::k32Bit);
  world.MapEpt(kGpa, kHpa);
  world.MapGuest(kGva, kGpa);
  world.Enter();
  ASSERT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kHpa));
  world.ChangeRegisters([](Registers& r) { r.cr3 |= GiB(4); });
  EXPECT_EQ(world.cpu().Access(Gva(kGva), AccessKind::kLoad).hpa, Hpa(kHpa));
}

TEST_F(GuestPaging, InvlpgOfANonCanonicalAddressDoesNothing) {
  ASSERT_TRUE(Touch().ok());
  MoveSilently();
  // Its lower 57 bits are those of the page.
  world_.cpu().Invlpg(Gva(kGva | uint64_t{1} << 60));
  EXPECT_TRUE(StillCached());
}

TEST_F(GuestPaging, InvpcidRefusesANonCanonicalAddressInEveryMode) {
  for (const PagingMode mode : {PagingMode::kNone, PagingMode::k32Bit, PagingMode::kPae}) {
    World world({}, mode);
    const Gva gva(uint64_t{1} << 50);
    EXPECT_EQ(world.cpu().Invpcid(0, 0, gva), Event::kGeneralProtection);
    EXPECT_EQ(world.cpu().Invpcid(1, 0, gva), Event::kNone) << "the type names none";
  }
}

// --- the two policies ---

TEST_F(GuestPaging, TheAdversarialPolicyFaultsOnRightsThatTheTablesHaveGivenSince) {
  for (const CachePolicy policy : {CachePolicy::kRealistic, CachePolicy::kAdversarial}) {
    CpuConfig config;
    config.policy = policy;
    World world(config);
    const uint64_t leaf = world.MapEpt(kGpa, kHpa, 1, ept::kRead | kWriteBack);
    world.MapGuest(kGva, kGpa);
    world.Enter();
    ASSERT_TRUE(world.cpu().Access(Gva(kGva), AccessKind::kLoad).ok());
    world.Store(leaf, world.Load(leaf) | ept::kWrite);
    const Event first = world.cpu().Access(Gva(kGva), AccessKind::kStore).event;
    const bool adversarial = policy == CachePolicy::kAdversarial;
    EXPECT_EQ(first, adversarial ? Event::kEptViolation : Event::kNone);
    EXPECT_TRUE(world.cpu().Access(Gva(kGva), AccessKind::kStore).ok())
        << "the violation drops the mapping, so the retry sees the tables";
  }
}

// --- PAE ---

TEST(PaePaging, AReservedBitOfAPdpteRefusesTheLoadAndKeepsTheOldOnes) {
  World world(NoCaches(), PagingMode::kPae);
  world.MapEpt(kGpa, kHpa);
  world.Enter();
  world.Store(kHpa, 0x1000 | 1);
  world.ChangeRegisters([](Registers& r) { r.cr3 = kGpa; });
  ASSERT_EQ(world.cpu().LoadPdptes(), Event::kNone);
  EXPECT_EQ(world.cpu().registers().pdptes[0], 0x1001u);
  for (const uint64_t reserved : {uint64_t{2}, uint64_t{4}, uint64_t{0x20}, uint64_t{1} << 63}) {
    world.Store(kHpa + 8, 0x2000 | 1 | reserved);
    EXPECT_EQ(world.cpu().LoadPdptes(), Event::kGeneralProtection);
    EXPECT_EQ(world.cpu().registers().pdptes[1], 0u);
  }
  world.Store(kHpa + 8, 0x2000 | 0x20);
  EXPECT_EQ(world.cpu().LoadPdptes(), Event::kNone) << "not present: reserved bits do not matter";
}

TEST(PaePaging, EachPdpteMapsItsGiB) {
  World world({}, PagingMode::kPae);
  for (uint64_t i = 0; i < 4; ++i) {
    world.MapEpt(kGpa + i * kPageSize, kHpa + i * kPageSize);
    world.MapGuest(i * GiB(1), kGpa + i * kPageSize);
  }
  world.Enter();
  for (uint64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(world.cpu().Access(Gva(i * GiB(1)), AccessKind::kLoad).hpa,
              Hpa(kHpa + i * kPageSize));
  }
}

TEST(PaePaging, AChangeOfCr4LoadsThePdptesAnew) {
  World world(NoCaches(), PagingMode::kPae);
  world.MapEpt(kGpa, kHpa);
  world.Enter();
  world.Store(kHpa, 0x1000 | 1);
  world.ChangeRegisters([](Registers& r) { r.cr3 = kGpa; });
  ASSERT_EQ(world.cpu().LoadPdptes(), Event::kNone);
  world.Store(kHpa, 0x3000 | 1);
  const uint64_t cr4 = world.cpu().registers().cr4;
  ASSERT_EQ(world.cpu().WriteCr4(cr4 | kCr4Smap), Event::kNone);
  EXPECT_EQ(world.cpu().registers().pdptes[0], 0x1001u) << "SMAP asks for nothing";
  ASSERT_EQ(world.cpu().WriteCr4(cr4 | kCr4Pge), Event::kNone);
  EXPECT_EQ(world.cpu().registers().pdptes[0], 0x3001u);
}

TEST(PaePaging, AChangeOfCachingInCr0LoadsThePdptesAnew) {
  // NW is set beside CD alone.
  for (const uint64_t bit : {kCr0Cd, kCr0Nw}) {
    World world(NoCaches(), PagingMode::kPae);
    world.MapEpt(kGpa, kHpa);
    world.Enter();
    world.Store(kHpa, 0x1000 | 1);
    world.ChangeRegisters([](Registers& r) { r.cr3 = kGpa; });
    ASSERT_EQ(world.cpu().LoadPdptes(), Event::kNone);
    world.Store(kHpa, 0x3000 | 1);
    const uint64_t cr0 = world.cpu().registers().cr0 | kCr0Cd;
    ASSERT_EQ(world.cpu().WriteCr0(cr0 & ~kCr0Wp), Event::kNone);
    world.Store(kHpa, 0x5000 | 1);
    ASSERT_EQ(world.cpu().WriteCr0(cr0), Event::kNone);
    EXPECT_EQ(world.cpu().registers().pdptes[0], 0x3001u) << "WP asks for nothing";
    ASSERT_EQ(world.cpu().WriteCr0(cr0 ^ bit), Event::kNone);
    EXPECT_EQ(world.cpu().registers().pdptes[0], 0x5001u) << bit;
  }
}

TEST(PaePaging, APdpteOutOfReachIsAViolationWithoutALinearAddress) {
  World world(NoCaches(), PagingMode::kPae);
  world.Enter(true);
  world.ChangeRegisters([](Registers& r) { r.cr3 = kGpa; });
  ASSERT_EQ(world.cpu().LoadPdptes(), Event::kEptViolation);
  EXPECT_EQ(world.cpu().exit().qualification.raw(), 1u) << "a read, whatever the A/D flags";
  EXPECT_EQ(world.cpu().exit().gpa, Gpa(kGpa));
}

}  // namespace
}  // namespace tdp::sim
