// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest writes its tables and changes its roots, and its shadow has to follow in time.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/shadow_fault.h"

namespace tdp::shadow_test {
namespace {

// --- Writes to tables ---

TEST_F(ShadowFault, ATableOfLeavesGoesUnsyncAtItsFirstWrite) {
  Start();
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 17 * 8), 0);
  EXPECT_FALSE(machine_->wants_emulation());
  EXPECT_EQ(Stats().mmu_unsync, 1u);
  const uint64_t before = Faults();
  for (uint64_t i = 18; i < 30; ++i) machine_->Store(Gva(0x4000 + i * 8), 0);
  EXPECT_EQ(Faults(), before) << "writes go on unseen";
}

TEST_F(ShadowFault, AnUnsyncPageFollowsItsTableAtInvlpgForOneAddress) {
  Start();
  const Seen old = Access(0x10000);
  const Seen old_too = Access(0x11000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
  machine_->Store(Gva(0x4000 + 17 * 8), 0x21000 | kAll);
  EXPECT_EQ(Access(0x10000), old) << "as a TLB may";
  machine_->Invlpg(Gva(0x10000));
  ExpectSame(0x10000);
  EXPECT_EQ(Access(0x11000), old_too);
  EXPECT_EQ(Stats().mmu_unsync, 1u);
}

TEST_F(ShadowFault, AtMovToCr3EveryUnsyncPageIsSynced) {
  Start();
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | (kAll & ~guest::kWrite));
  machine_->WriteCr3(guest_.cr3);
  EXPECT_EQ(Stats().mmu_unsync, 0u);
  ExpectSame(0x10000);
  ExpectSame(0x10000, kStore);
}

TEST_F(ShadowFault, LosingWAloneLeavesTheEntryMapped) {
  Start();
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x10000 | (kAll & ~guest::kWrite));
  machine_->WriteCr3(guest_.cr3);
  const uint64_t before = Faults();
  ExpectSame(0x10000);
  EXPECT_EQ(Faults(), before);
  ExpectSame(0x10000, kStore);
}

TEST_F(ShadowFault, AWriteToAnUpperTableIsGivenBackToBeEmulated) {
  Start();
  Access(0x10000);
  Table(4, 40, 0x3000 | kAll);
  machine_->Store(Gva(40 << kPageShift), 0, 8);  // the directory's first entry
  EXPECT_TRUE(machine_->wants_emulation());
  EXPECT_EQ(machine_->emulated_gpa(), Gpa(0x3000));
  EXPECT_EQ(Stats().mmu_pde_zapped, 1u);
  ExpectSame(0x10000);
}

TEST_F(ShadowFault, AnUpperTableThatIsWrittenThreeTimesIsShadowedNoMore) {
  Start();
  Access(0x10000);
  Table(4, 40, 0x3000 | kAll);
  for (uint64_t i = 100; i < 103; ++i) Emulate(3, i, 0);
  EXPECT_EQ(Stats().mmu_flooded, 1u);
  ExpectSame(0x10000);  // and is again, when it is used
}

TEST_F(ShadowFault, AnUpperTableThatIsUsedBetweenItsWritesIsNotFlooded) {
  Start();
  for (uint64_t i = 1; i < 8; ++i) {
    Access(8 * i << kPageShift);  // the first of the eight that come with it
    Emulate(3, 100 + i, 0);
  }
  EXPECT_EQ(Stats().mmu_flooded, 0u);
}

// Linux clears A by the lowest byte of an entry. Another byte alone is none that a guest writes.
TEST_F(ShadowFault, AWriteOfOneByteFitsAnEntryWhereItIsTheLowest) {
  Start();
  Access(0x10000);
  ASSERT_TRUE(machine_->shadow().OnWritten(Gpa(0x3000 + 100 * 8), 1).ok());
  EXPECT_EQ(Stats().mmu_flooded, 0u);
  ASSERT_TRUE(machine_->shadow().OnWritten(Gpa(0x3001 + 100 * 8), 1).ok());
  EXPECT_EQ(Stats().mmu_flooded, 1u);
}

TEST_F(ShadowFault, AWriteThatFitsNoEntryZapsThePage) {
  Start();
  Access(0x10000);
  ASSERT_TRUE(machine_->shadow().OnWritten(Gpa(0x3ffc), 4).ok());
  EXPECT_EQ(Stats().mmu_flooded, 0u) << "half an entry fits";
  ASSERT_TRUE(machine_->shadow().OnWritten(Gpa(0x3006), 4).ok());
  EXPECT_EQ(Stats().mmu_flooded, 1u);
}

TEST_F(ShadowFault, ALinkedTableThatWentUnsyncElsewhereIsReadAgain) {
  Start();
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
  // This is a second way to the same table, and was never used before: nothing stale can be excused
  // there, for whichever of its entries.
  Emulate(3, 1, 0x4000 | kAll);
  ExpectSame(0x200000 + 0x11000);
  ExpectSame(0x200000 + 0x10000);
}

// The table that is out of sync lies below the one that is linked.
TEST_F(ShadowFault, BelowALinkedTableNothingIsStaleEither) {
  Start();
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
  Emulate(2, 1, 0x3000 | kAll);
  ExpectSame(GiB(1) + 0x11000);
  ExpectSame(GiB(1) + 0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x30000 | kAll);
  Emulate(1, 1, 0x2000 | kAll);
  ExpectSame((uint64_t{1} << 39) + 0x11000);
  ExpectSame((uint64_t{1} << 39) + 0x10000);
}

// Between the store and the word of it another vCPU walks the new table, and remembers the way to
// the old one's shadow.
TEST_F(ShadowFault, ALeafOfATableThatWasJustExchangedDoesNotGoIntoTheOldOnesShadow) {
  Start();
  Access(0x10000);
  Table(5, 0x11, 0x30000 | kAll);
  Table(3, 0, 0x5000 | kAll);
  EXPECT_EQ(Access(0x11000).value, machine_->HpaOf(Gpa(0x30000)));
  ASSERT_TRUE(machine_->shadow().OnWritten(Gpa(0x3000), 8).ok());
  Emulate(3, 0, 0x4000 | kAll);
  ExpectSame(0x10000);  // links the old one's shadow again
  EXPECT_EQ(Access(0x11000).value, machine_->HpaOf(Gpa(0x11000)));
}

// --- Roots ---

TEST_F(ShadowFault, TwoAddressSpacesShareThePagesOfWhatTheyShare) {
  Start();
  Access(0x10000);
  const uint64_t pages = Stats().pages;
  Table(6, 0, EntryAt(1, 0));
  machine_->WriteCr3(0x6000);
  ExpectSame(0x10000);
  EXPECT_EQ(Stats().pages, pages + 1) << "the root alone is new";
}

TEST_F(ShadowFault, ASwitchBackToARecentCr3CostsNoFault) {
  Start();
  for (uint64_t root = 6; root < 9; ++root) Table(root, 0, EntryAt(1, 0));
  const std::vector<uint64_t> roots = {0x1000, 0x6000, 0x7000, 0x8000};
  for (const uint64_t cr3 : roots) {
    machine_->WriteCr3(cr3);
    Access(0x10000);
  }
  const uint64_t before = Faults();
  for (const uint64_t cr3 : roots) {
    machine_->WriteCr3(cr3);
    Access(0x10000);
  }
  EXPECT_EQ(Faults(), before);
}

TEST_F(ShadowFault, ACr3WriteThatKeepsTranslationsMayKeepAnUnsyncPage) {
  Start();
  guest_.cr4 |= sim::kCr4Pcide;
  machine_->Load(guest_);
  Table(6, 0, EntryAt(1, 0));
  const Seen old = Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
  constexpr uint64_t kKeep = guest::kCr3KeepTranslations;
  machine_->WriteCr3(0x1000 | kKeep);
  EXPECT_EQ(Access(0x10000), old);
  // Another PCID, of which nothing was kept, shares the table: it sees what is written.
  machine_->WriteCr3(0x6001 | kKeep);
  ExpectSame(0x10000);
}

// PCID 1 ran while nothing was mapped at the address, so its CPU has nothing to keep for it: what
// PCID 0 has brought into the table that both use must not be found.
TEST_F(ShadowFault, ACr3WriteThatKeepsTranslationsKeepsNoneThatItsPcidNeverHad) {
  Start();
  guest_.cr4 |= sim::kCr4Pcide;
  Table(4, 16, 0);
  machine_->Load(guest_);
  Table(6, 0, EntryAt(1, 0));
  constexpr uint64_t kKeep = guest::kCr3KeepTranslations;
  machine_->WriteCr3(0x6001);
  ExpectSame(0x10000);
  ExpectSame(0x11000);
  machine_->WriteCr3(0x1000 | kKeep);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x10000 | kAll);
  ExpectSame(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
  machine_->WriteCr3(0x6001 | kKeep);
  ExpectSame(0x10000);
}

// Here it was not the page that was absent before, but the table above it.
TEST_F(ShadowFault, ACr3WriteThatKeepsTranslationsKeepsNoneOfATableThatWasNotLinked) {
  Start();
  guest_.cr4 |= sim::kCr4Pcide;
  machine_->Load(guest_);
  Table(6, 0, 0x7000 | kAll);  // a PML4, PDPT and directory of its own
  Table(7, 0, 0x8000 | kAll);
  machine_->WriteCr3(0x6001);
  EXPECT_EQ(Access(0x10000).what, Seen::What::kPageFault);
  constexpr uint64_t kKeep = guest::kCr3KeepTranslations;
  machine_->WriteCr3(0x1000 | kKeep);
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
  Table(8, 0, 0x4000 | kAll);
  machine_->WriteCr3(0x6001 | kKeep);
  ExpectSame(0x10000);
}

// Here nothing else is added: the guest writes its tables through a large page, whose parts are no
// entries of tables.
TEST_F(ShadowFault, ACr3WriteThatKeepsTranslationsKeepsNotOneLeafMore) {
  Start();
  guest_.cr4 |= sim::kCr4Pcide;
  Table(3, 4, kAll | guest::kLargePage);
  Table(6, 0, EntryAt(1, 0));
  machine_->Load(guest_);
  constexpr uint64_t kKeep = guest::kCr3KeepTranslations;
  constexpr uint64_t kEntry = MiB(8) + 0x4000 + 72 * 8;
  machine_->Store(Gva(kEntry), 0);
  ExpectSame(0x10000);
  machine_->WriteCr3(0x6001);
  ExpectSame(0x48000);
  machine_->WriteCr3(0x1000 | kKeep);
  machine_->Store(Gva(kEntry), 0x10000 | kAll);
  ExpectSame(0x48000);
  machine_->Store(Gva(kEntry), 0x20000 | kAll);
  machine_->WriteCr3(0x6001 | kKeep);
  ExpectSame(0x48000);
}

// The root of PCID 0 is cached, and has a shadow of its own of the table: another right above it.
TEST_F(ShadowFault, InvpcidSyncsTheRootOfItsPcid) {
  Start();
  guest_.cr4 |= sim::kCr4Pcide;
  Table(3, 4, kAll | guest::kLargePage);
  Table(6, 0, 0x7000 | (kAll & ~guest::kUser));
  Table(7, 0, 0x3000 | kAll);
  machine_->Load(guest_);
  constexpr uint64_t kKeep = guest::kCr3KeepTranslations;
  constexpr uint64_t kEntry = MiB(8) + 0x4000 + 16 * 8;
  for (const uint64_t cr3 : {uint64_t{0x6001}, 0x1000 | kKeep, 0x6001 | kKeep}) {
    machine_->WriteCr3(cr3);
    Access(0x10000);
    Access(kEntry);
  }
  ASSERT_EQ(machine_->Store(Gva(kEntry), 0x20000 | kAll).what, kMemory);
  ASSERT_FALSE(machine_->wants_emulation());
  ASSERT_EQ(*machine_->shadow().Invpcid(0, 0, Gva(0x10000)), GuestEvent::kNone);
  machine_->WriteCr3(0x1000 | kKeep);
  ExpectSame(0x10000);
}

TEST_F(ShadowFault, SettingTheRegistersIsAFlush) {
  Start();
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
  machine_->Load(guest_);
  ExpectSame(0x10000);
}

// A page fault drops what is cached for its address (SDM vol. 3A, 5.10.4.1).
TEST_F(ShadowFault, AfterAPageFaultOfTheGuestsTheAddressIsWalkedAnew) {
  Start();
  Table(4, 16, 0x10000 | (kAll & ~guest::kWrite));
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | (kAll & ~guest::kWrite));
  ASSERT_EQ(Access(0x10000, kStore).what, Seen::What::kPageFault);
  ExpectSame(0x10000);
}

// The fetch gives the leaf X, and the guest takes it again.
TEST_F(ShadowFault, ARightThatCameWithAFaultGoesWithAFlush) {
  Start();
  Table(4, 16, 0x10000 | kAll | guest::kNoExecute);
  ExpectSame(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x10000 | kAll);
  ExpectSame(0x10000, kFetch);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x10000 | kAll | guest::kNoExecute);
  machine_->Invlpg(Gva(0x10000));
  ExpectSame(0x10000, kFetch);
}

// With EFER.NXE clear bit 63 is reserved. The flush that comes with its change reads the table.
TEST_F(ShadowFault, ATableOfOneModeIsNotSyncedByTheRulesOfAnother) {
  Start();
  GuestCpu plain = guest_;
  plain.efer &= ~sim::kEferNxe;
  machine_->Load(plain);
  ExpectSame(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x10000 | kAll | guest::kNoExecute);
  machine_->Load(guest_);
  machine_->Load(plain);
  ExpectSame(0x10000);
}

// Here PCID 0 has brought a right into the table, to a page that PCID 1 has only read.
TEST_F(ShadowFault, ACr3WriteThatKeepsTranslationsKeepsNoRightThatItsPcidNeverHad) {
  Start();
  guest_.cr4 |= sim::kCr4Pcide;
  Table(4, 16, 0x10000 | (kAll & ~guest::kDirty));
  Table(6, 0, EntryAt(1, 0));
  machine_->Load(guest_);
  constexpr uint64_t kKeep = guest::kCr3KeepTranslations;
  machine_->Store(Gva(0x4000 + 63 * 8), 0);  // maps the table, too
  machine_->WriteCr3(0x6001);
  ExpectSame(0x10000);
  machine_->WriteCr3(0x1000 | kKeep);
  ASSERT_EQ(Access(0x10000, kStore).what, kMemory);
  ASSERT_EQ(machine_->Store(Gva(0x4000 + 16 * 8), 0x10000 | (kAll & ~guest::kWrite)).what, kMemory);
  machine_->WriteCr3(0x6001 | kKeep);
  ExpectSame(0x10000, kStore);
}

// Outside of 64-bit modes bit 63 of CR3 is none, and without CR4.PCIDE it asks for nothing.
TEST_F(ShadowFault, WithoutPcidsNoCr3WriteKeepsAnything) {
  Start({}, PagingMode::kPae);
  const uint64_t cr3 = guest_.cr3 | guest::kCr3KeepTranslations;
  for (uint64_t frame = 0x20; frame < 0x22; ++frame) {
    EXPECT_EQ(machine_->WriteCr3(cr3), GuestEvent::kNone);
    EXPECT_EQ(Access(0x10000).value, machine_->HpaOf(Gpa(frame == 0x20 ? 0x10000 : 0x20000)));
    machine_->Store(Gva(0x4000 + 16 * 8), frame << kPageShift | kAll);
  }
  EXPECT_EQ(machine_->WriteCr3(cr3), GuestEvent::kNone);
  EXPECT_EQ(Access(0x10000).value, machine_->HpaOf(Gpa(0x21000)));
}

TEST_F(ShadowFault, InvpcidOfContextsSyncsAll) {
  for (const uint64_t type : {1, 2, 3}) {
    Start();
    Access(0x10000);
    machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
    ASSERT_EQ(*machine_->shadow().Invpcid(type, 0, Gva(0)), GuestEvent::kNone);
    EXPECT_EQ(Stats().mmu_unsync, 0u) << "type " << type;
    ExpectSame(0x10000);
  }
}

TEST_F(ShadowFault, InvpcidKnowsTheAddressesOf5LevelPaging) {
  Start();
  Table(6, 0, 0x1000 | kAll);
  guest_ = GuestIn(PagingMode::k5Level);
  guest_.cr3 = 0x6000;
  machine_->Load(guest_);
  ShadowVcpu& shadow = machine_->shadow();
  EXPECT_EQ(*shadow.Invpcid(0, 0, Gva(uint64_t{1} << 55)), GuestEvent::kNone);
  EXPECT_EQ(*shadow.Invpcid(0, 0, Gva(uint64_t{1} << 56)), GuestEvent::kGeneralProtection);
}

// The guest has written another PDPTE, for the same GiB, to memory. (SDM vol. 3A, 5.4.1.)
TEST_F(ShadowFault, PdptesAreLoadedByTheMovsThatLoadThem) {
  struct Case {
    const char* name;
    void (*change)(GuestCpu&);
    bool loads;
  };
  constexpr Case kCases[] = {
      {"CR3", [](GuestCpu&) {}, true},
      {"CR0.WP", [](GuestCpu& cpu) { cpu.cr0 ^= guest::kCr0WriteProtect; }, false},
      {"CR0.CD", [](GuestCpu& cpu) { cpu.cr0 ^= guest::kCr0CacheDisable; }, true},
      {"CR0.NW", [](GuestCpu& cpu) { cpu.cr0 ^= guest::kCr0NotWriteThrough; }, true},
      {"CR4.PGE", [](GuestCpu& cpu) { cpu.cr4 ^= guest::kCr4GlobalPages; }, true},
      {"CR4.PSE", [](GuestCpu& cpu) { cpu.cr4 ^= guest::kCr4PageSizeExtensions; }, true},
      {"CR4.SMEP", [](GuestCpu& cpu) { cpu.cr4 ^= guest::kCr4Smep; }, true},
      {"CR4.SMAP", [](GuestCpu& cpu) { cpu.cr4 ^= guest::kCr4Smap; }, false},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    Start({}, PagingMode::kPae);
    ASSERT_EQ(Access(0x10000).value, machine_->HpaOf(Gpa(0x10000)));
    Table(6, 0, 0x7000 | kAll);
    Table(7, 16, 0x20000 | kAll);
    machine_->Poke<uint64_t>(Gpa(0x5000), 0x6001);
    c.change(guest_);
    if (std::string(c.name) == "CR3") {
      machine_->WriteCr3(guest_.cr3);
    } else {
      machine_->Load(guest_);
    }
    EXPECT_EQ(Access(0x10000, kLoad, true).value,
              machine_->HpaOf(Gpa(c.loads ? 0x20000 : 0x10000)));
  }
  // Whoever sets another CR3 besides loads them, too.
  Start({}, PagingMode::kPae);
  Table(6, 0, 0x7000 | kAll);
  Table(7, 16, 0x20000 | kAll);
  machine_->Poke<uint64_t>(Gpa(0x5020), 0x6001);
  guest_.cr3 = 0x5020;
  machine_->Load(guest_);
  EXPECT_EQ(Access(0x10000).value, machine_->HpaOf(Gpa(0x20000)));
  EXPECT_EQ(machine_->WriteCr3(MiB(64)), GuestEvent::kGeneralProtection) << "no memory is there";
}

TEST_F(ShadowFault, WritesOverSeveralPagesOfTablesAreFollowedInEach) {
  Start();
  // Two directories lie side by side, with a table each.
  Table(2, 1, 0x8000 | kAll);
  Table(8, 0, 0x9000 | kAll);
  Table(2, 2, 0xa000 | kAll);
  for (uint64_t i = 1; i < 64; ++i) Table(9, i, i << kPageShift | kAll);
  Table(7, 511, 0x9000 | kAll);
  Table(2, 3, 0x7000 | kAll);
  constexpr uint64_t kBelow7 = (uint64_t{3} << 30) + (uint64_t{511} << 21) + 0x10000;
  constexpr uint64_t kBelow8 = (uint64_t{1} << 30) + 0x10000;
  ExpectSame(kBelow7);
  ExpectSame(kBelow8);
  // One write reaches the last entry of frame 7 and the first of frame 8.
  Table(7, 511, 0x4000 | kAll);
  Table(8, 0, 0x4000 | kAll);
  Table(4, 16, 0x20000 | kAll);
  ASSERT_TRUE(machine_->shadow().OnWritten(Gpa(0x7ff8), 16).ok());
  ExpectSame(kBelow7);
  ExpectSame(kBelow8);
  EXPECT_EQ(Stats().mmu_flooded, 0u);
  Table(8, 0, 0);
  ASSERT_TRUE(machine_->shadow().OnWritten(Gpa(0x6800), 2 * kPageSize).ok());
  ExpectSame(kBelow8);
}

TEST_F(ShadowFault, WritesThatWrapOrAreNoneAreRefused) {
  Start();
  EXPECT_TRUE(absl::IsInvalidArgument(machine_->shadow().OnWritten(Gpa(0x1000), 0)));
  EXPECT_TRUE(absl::IsInvalidArgument(machine_->shadow().OnWritten(Gpa(~uint64_t{0}), 2)));
  EXPECT_TRUE(machine_->shadow().OnWritten(Gpa(~uint64_t{0}), 1).ok());
}

TEST_F(ShadowFault, InvpcidReachesACachedRootByItsPcid) {
  Start();
  guest_.cr4 |= sim::kCr4Pcide;
  machine_->Load(guest_);
  Table(6, 0, 0x7000 | kAll);  // a root of its own, but for the directory
  Table(7, 0, 0x3000 | kAll);
  Access(0x10000);
  machine_->WriteCr3(0x6001);
  Access(0x10000);
  machine_->Store(Gva(0x4000 + 16 * 8), 0x20000 | kAll);
  ASSERT_EQ(*machine_->shadow().Invpcid(0, 0, Gva(0x10000)), GuestEvent::kNone);
  machine_->WriteCr3(0x1000 | guest::kCr3KeepTranslations);
  ExpectSame(0x10000);
}

TEST_F(ShadowFault, InvpcidThatTheCpuRefusesIsGeneralProtection) {
  Start();
  ShadowVcpu& shadow = machine_->shadow();
  EXPECT_EQ(*shadow.Invpcid(4, 0, Gva(0)), GuestEvent::kGeneralProtection);
  EXPECT_EQ(*shadow.Invpcid(0, 1, Gva(0)), GuestEvent::kGeneralProtection) << "without PCIDs";
  EXPECT_EQ(*shadow.Invpcid(0, 0, Gva(uint64_t{1} << 60)), GuestEvent::kGeneralProtection);
  EXPECT_EQ(*shadow.Invpcid(2, 0, Gva(0)), GuestEvent::kNone);
  Start({}, PagingMode::kPae);
  EXPECT_EQ(*machine_->shadow().Invpcid(0, 0, Gva(uint64_t{1} << 60)),
            GuestEvent::kGeneralProtection)
      << "whatever the mode";
}

TEST_F(ShadowFault, PdptesWithReservedBitsAreGeneralProtectionAndChangeNothing) {
  Start({}, PagingMode::kPae);
  ExpectSame(0x10000);
  machine_->Poke<uint64_t>(Gpa(0x6000), 0x3003);
  const ShadowRegisters before = machine_->shadow().registers();
  EXPECT_EQ(machine_->WriteCr3(0x6000), GuestEvent::kGeneralProtection);
  EXPECT_EQ(machine_->shadow().registers(), before);
  ExpectSame(0x10000);
}

TEST_F(ShadowFault, ACr3WithReservedBitsIsGeneralProtectionInA64BitMode) {
  Start();
  ExpectSame(0x10000);
  const ShadowRegisters before = machine_->shadow().registers();
  for (const int bit : {46, 51, 52, 61, 62, 63}) {  // LAM has 61 and 62, and CR4.PCIDE 63
    EXPECT_EQ(machine_->WriteCr3(guest_.cr3 | uint64_t{1} << bit), GuestEvent::kGeneralProtection)
        << bit;
    EXPECT_TRUE(absl::IsInvalidArgument(
        machine_->shadow().SetPaging(guest_.controls(), guest_.cr3 | uint64_t{1} << bit).status()))
        << bit;
  }
  EXPECT_EQ(machine_->shadow().registers(), before);
  guest_.cr4 |= sim::kCr4Pcide;
  machine_->Load(guest_);
  EXPECT_EQ(machine_->WriteCr3(guest_.cr3 | guest::kCr3KeepTranslations), GuestEvent::kNone);
  EXPECT_EQ(machine_->WriteCr3(guest_.cr3 | uint64_t{1} << 46), GuestEvent::kGeneralProtection);
  ExpectSame(0x10000);
  // Elsewhere CR3 has 32 bits, and the rest is ignored.
  Start({}, PagingMode::kPae);
  EXPECT_EQ(machine_->WriteCr3(guest_.cr3 | uint64_t{1} << 60), GuestEvent::kNone);
  ExpectSame(0x10000);
}

TEST_F(ShadowFault, ARootInNoMemoryMapsNothingUntilThereIsSome) {
  Start();
  machine_->WriteCr3(MiB(64));
  EXPECT_EQ(Access(0x10000).what, Seen::What::kNoTable);
  machine_->WriteCr3(0x1000);
  ExpectSame(0x10000);
}

// --- Address spaces ---

// Shows the same memory in a second address space, as SMM has it.
class ShadowSpaces : public ShadowFault {
 protected:
  void SetUp() override {
    MachineOptions options;
    options.vm.address_spaces = 2;
    Start(options);
    ASSERT_TRUE(machine_->vm()
                    .SetMemoryRegion({.address_space = 1, .size = MiB(16), .hva = Machine::kRam})
                    .ok());
  }
  void Use(AddressSpaceId space) { ASSERT_TRUE(machine_->vcpu().SetAddressSpace(space).ok()); }
};

TEST_F(ShadowSpaces, ATableThatIsWrittenInOneIsReadAnewInTheOther) {
  for (const uint64_t level : {1, 2}) {
    ExpectSame(0x10000);
    Use(1);
    machine_->Load(GuestIn(PagingMode::kNone));
    const uint64_t entry = level == 1 ? 0x4000 + 0x10 * 8 : 0x3000;
    const uint64_t value = level == 1 ? 0x20000 | kAll : 0x5000 | kAll;
    Table(5, 0x10, 0x30000 | kAll);
    ASSERT_EQ(machine_->Store(Gva(entry), value).what, kMemory);
    Use(0);
    machine_->Load(guest_);
    ExpectSame(0x10000);
  }
}

TEST_F(ShadowSpaces, AFlushInOneIsAFlushOfTheOther) {
  Use(1);
  ExpectSame(0x10000);
  machine_->Store(Gva(0x4000 + 0x10 * 8), 0x20000 | kAll);  // the table is unsync
  Use(0);
  machine_->WriteCr3(guest_.cr3);
  Use(1);
  ExpectSame(0x10000);
}

// --- What 32-bit CPUs have ---

TEST_F(ShadowFault, WithoutPagingAddressesBeyond4GiBWrap) {
  Start({}, PagingMode::kNone);
  const PagingFaultResult far =
      machine_->shadow().HandlePageFault(Gva(GiB(4) + 0x7000), guest::kFaultWrite);
  EXPECT_EQ(far.outcome, PagingOutcome::kFixed);
  EXPECT_EQ(far.gpa, Gpa(0x7000));
  ExpectSame(0x7000);
}

TEST_F(ShadowFault, In32BitPagingTheUpperHalfOfCr3IsIgnored) {
  Start();
  for (uint64_t i = 0; i < 1024; ++i) machine_->Poke<uint32_t>(Gpa(0x3000 + i * 4), 0x83 | 0x60);
  guest_ = GuestIn(PagingMode::k32Bit);
  guest_.cr3 = GiB(4) + 0x3000;
  machine_->Load(guest_);
  const Seen seen = Access(0x7000);
  EXPECT_EQ(seen, (Seen{kMemory, machine_->HpaOf(Gpa(0x7000))}));
  ExpectSame(0x7000);
}

}  // namespace
}  // namespace tdp::shadow_test
