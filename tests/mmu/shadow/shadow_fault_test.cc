// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/shadow_vcpu.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/shadow_machine.h"

namespace tdp::shadow_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr uint64_t kAll = 0x67;  // present, writable, user, A, D
constexpr auto kLoad = sim::AccessKind::kLoad;
constexpr auto kStore = sim::AccessKind::kStore;
constexpr auto kFetch = sim::AccessKind::kFetch;
constexpr auto kMemory = Seen::What::kMemory;

// A guest in 4-level paging with its tables in frames 1 to 4, the leaves in frame 4; gva 0x10000
// and on map the frames of the same numbers, gva 0x4000 the table of leaves itself.
class ShadowFault : public testing::Test {
 protected:
  void Start(const MachineOptions& options = {}, PagingMode mode = PagingMode::k4Level) {
    machine_ = std::make_unique<Machine>(options);
    for (uint64_t table = 1; table < 4; ++table) Table(table, 0, (table + 1) << kPageShift | kAll);
    for (uint64_t i = 1; i < 64; ++i) Table(4, i, i << kPageShift | kAll);
    guest_ = GuestIn(mode);
    guest_.cr3 = mode == PagingMode::k4Level ? 0x1000 : 0x3000;
    if (mode == PagingMode::kPae) machine_->Poke<uint64_t>(Gpa(0x5000), 0x3001);
    if (mode == PagingMode::kPae) guest_.cr3 = 0x5000;
    machine_->Load(guest_);
  }
  void TearDown() override {
    const absl::Status status = machine_->vm().CheckInvariants();
    EXPECT_TRUE(status.ok()) << status;
  }

  // Writes that nobody hears of.
  void Table(uint64_t frame, uint64_t index, uint64_t entry) {
    machine_->Poke<uint64_t>(Gpa((frame << kPageShift) + index * 8), entry);
  }
  uint64_t EntryAt(uint64_t frame, uint64_t index) {
    return machine_->Peek<uint64_t>(Gpa((frame << kPageShift) + index * 8));
  }
  void Emulate(uint64_t frame, uint64_t index, uint64_t entry) {
    ASSERT_TRUE(machine_->shadow()
                    .EmulateWrite(Gpa((frame << kPageShift) + index * 8), 8,
                                  [entry](std::byte* place) { std::memcpy(place, &entry, 8); })
                    .ok());
  }
  Seen Access(uint64_t gva, sim::AccessKind kind = kLoad, bool user = false, bool ac = false) {
    return machine_->Access({Gva(gva), kind, user, ac});
  }
  void ExpectSame(uint64_t gva, sim::AccessKind kind = kLoad, bool user = false, bool ac = false) {
    const Seen seen = Access(gva, kind, user, ac);
    EXPECT_EQ(seen, machine_->Reference({Gva(gva), kind, user, ac}))
        << absl::StrCat(absl::Hex(gva));
  }
  uint64_t Faults() const { return machine_->faults(); }
  ShadowStats Stats() { return machine_->vm().Stats().shadow; }
  std::vector<uint64_t> TakeDirty() {
    std::vector<uint64_t> pages;
    EXPECT_TRUE(machine_->vm()
                    .TakeDirtyLog(0,
                                  [&pages](uint64_t base, uint64_t mask) {
                                    for (uint64_t i = 0; i < 64; ++i) {
                                      if ((mask >> i & 1) != 0) pages.push_back(base + i);
                                    }
                                  })
                    .ok());
    return pages;
  }

  std::unique_ptr<Machine> machine_;
  GuestCpu guest_;
};

TEST_F(ShadowFault, AMappedPageIsReachedAfterOneFault) {
  Start();
  ExpectSame(0x10123);
  EXPECT_EQ(Faults(), 1u);
  ExpectSame(0x10456, kStore, true);
  EXPECT_EQ(Faults(), 1u);
}

TEST_F(ShadowFault, APageThatTheGuestDoesNotMapIsTheGuestsOwnFault) {
  Start();
  EXPECT_EQ(Access(0x80000, kStore, true), (Seen{Seen::What::kPageFault, 6}));
  ExpectSame(0x80000, kStore, true);
}

TEST_F(ShadowFault, EveryRightOfTheGuestsIsKept) {
  Start();
  for (uint64_t rights = 0; rights < 8; ++rights) {
    const uint64_t entry = 0x61 | (rights & 1) << 1 | (rights & 2) << 1 | (rights & 4) << 61;
    Table(4, 32 + rights, (32 + rights) << kPageShift | entry);
  }
  for (uint64_t page = 32; page < 40; ++page) {
    for (const auto kind : {kLoad, kStore, kFetch}) {
      ExpectSame(page << kPageShift, kind, false);
      ExpectSame(page << kPageShift, kind, true);
    }
  }
}

// --- A and D
// -------------------------------------------------------------------------------------------

TEST_F(ShadowFault, TheGuestSeesAAndDAsItsCpuWouldSetThem) {
  Start();
  Table(4, 16, 0x10000 | 7);
  Access(0x10000);
  EXPECT_EQ(EntryAt(4, 16), 0x10000 | 7 | guest::kAccessed);
  Access(0x10000, kStore);
  EXPECT_EQ(EntryAt(4, 16), 0x10000 | 7 | guest::kAccessed | guest::kDirty);
}

TEST_F(ShadowFault, AGuestThatClearsDAndFlushesSeesItSetAgain) {
  Start();
  Access(0x10000, kStore);
  Emulate(4, 16, 0x10000 | 7 | guest::kAccessed);
  machine_->Invlpg(Gva(0x10000));
  Access(0x10000, kStore);
  EXPECT_EQ(EntryAt(4, 16), 0x10000 | kAll);
}

// --- CR0.WP, SMEP, SMAP
// ------------------------------------------------------------------------------------

TEST_F(ShadowFault, WithoutWpASupervisorWritesAReadOnlyUserPageAndUsersStillReadIt) {
  Start();
  Table(4, 16, 0x10000 | (kAll & ~guest::kWrite));
  guest_.cr0 &= ~sim::kCr0Wp;
  guest_.cr4 |= sim::kCr4Smep;
  machine_->Load(guest_);
  for (int i = 0; i < 3; ++i) {
    ExpectSame(0x10000, kStore, false);
    ExpectSame(0x10000, kFetch, false);
    ExpectSame(0x10000, kLoad, true);
    ExpectSame(0x10000, kStore, true);
    ExpectSame(0x10000, kFetch, true);
  }
}

TEST_F(ShadowFault, WithSmapSuchAWriteIsEmulatedSoThatTheUserPageStaysOne) {
  Start();
  Table(4, 16, 0x10000 | (kAll & ~guest::kWrite));
  guest_.cr0 &= ~sim::kCr0Wp;
  guest_.cr4 |= sim::kCr4Smap;
  machine_->Load(guest_);
  ExpectSame(0x10000, kStore, false, true);
  EXPECT_TRUE(machine_->wants_emulation());
  ExpectSame(0x10000, kLoad, false, false);  // refused by SMAP
}

// --- Writes to tables
// -------------------------------------------------------------------------------------

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
  // A second way to the same table, never used before: nothing stale can be excused there, for
  // whichever of its entries.
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

// --- Roots
// ----------------------------------------------------------------------------------------------

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

// The same where not the page was absent but the table.
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

TEST_F(ShadowFault, WritesOverSeveralPagesOfTablesAreFollowedInEach) {
  Start();
  // Two directories side by side, with a table each.
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
  // The last entry of frame 7 and the first of frame 8, at once.
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

TEST_F(ShadowFault, ARootInNoMemoryMapsNothingUntilThereIsSome) {
  Start();
  machine_->WriteCr3(MiB(64));
  EXPECT_EQ(Access(0x10000).what, Seen::What::kNoTable);
  machine_->WriteCr3(0x1000);
  ExpectSame(0x10000);
}

// --- Page sizes
// -----------------------------------------------------------------------------------------

TEST_F(ShadowFault, ALargePageOfTheGuestsIsOneOfTheShadowWhereTheHostHasOne) {
  MachineOptions options;
  options.host_order = 9;
  Start(options);
  Table(3, 3, 0x600000 | kAll | guest::kLargePage);
  ExpectSame(0x612345, kStore);
  EXPECT_EQ(machine_->last_fault().level, kLevel2M);
  const uint64_t before = Faults();
  ExpectSame(0x7fffff, kStore);
  EXPECT_EQ(Faults(), before);
}

TEST_F(ShadowFault, ALargePageOnSmallHostPagesIsMappedByADirectPage) {
  Start();
  Table(3, 3, 0x600000 | kAll | guest::kLargePage);
  ExpectSame(0x612345, kStore);
  EXPECT_EQ(machine_->last_fault().level, kLevel4K);
  ExpectSame(0x7fffff, kStore);
}

TEST_F(ShadowFault, ALargePageWithATableInsideIsMappedBySmallOnes) {
  MachineOptions options;
  options.host_order = 9;
  Start(options);
  // The guest maps all of its memory once more by large pages, its tables with it.
  for (uint64_t i = 4; i < 8; ++i) Table(3, i, (i - 4) * MiB(2) | kAll | guest::kLargePage);
  ExpectSame(MiB(8) + 0x10000, kStore);
  EXPECT_EQ(machine_->last_fault().level, kLevel4K);
  machine_->Store(Gva(MiB(8) + 0x3000), EntryAt(3, 0));
  EXPECT_TRUE(machine_->wants_emulation());
  ExpectSame(MiB(10), kStore);
  EXPECT_EQ(machine_->last_fault().level, kLevel2M);
}

// The large page was allowed when the fault began. The tables of the walk itself lie in it, and are
// tracked by this fault alone.
TEST_F(ShadowFault, ALargePageWithTheTablesOfTheFirstWalkInsideIsMappedBySmallOnes) {
  MachineOptions options;
  options.host_order = 9;
  Start(options);
  // Nothing is shadowed but a root outside the large page.
  constexpr uint64_t kRoot = 0x600;
  Table(kRoot, 0, 0x12000 | kAll);
  Table(0x12, 0, 0x13000 | kAll);
  Table(0x13, 4, 0x0 | kAll | guest::kLargePage);
  guest_.cr3 = kRoot << kPageShift;
  machine_->Load(guest_);
  machine_->vm().ZapAll()->Settle();
  ExpectSame(MiB(8) + 0x40000, kStore);
  EXPECT_EQ(machine_->last_fault().level, kLevel4K);
  machine_->Store(Gva(MiB(8) + 0x13000 + 4 * 8), 0);
  EXPECT_TRUE(machine_->wants_emulation()) << "the directory is tracked";
  EXPECT_EQ(Access(MiB(8) + 0x40000).what, Seen::What::kPageFault);
}

// Frames 16 to 19 end a slot, frame 20 begins another with other memory; both in the window of
// eight that one fault fills in, from either side.
TEST_F(ShadowFault, NeighboursOutsideTheSlotAreNotMappedFromItsHostPage) {
  for (const uint64_t first : {0x10, 0x16}) {
    MachineOptions options;
    options.host_order = 9;
    Start(options);
    ASSERT_TRUE(machine_->SetRam(0, Gpa(0), 0, Machine::kRam).ok());
    ASSERT_TRUE(machine_->memory().Map(Hva(0x7e0000000000), MiB(4), {.order = 9}).ok());
    ASSERT_TRUE(machine_->SetRam(0, Gpa(0), 0x14000, Machine::kRam).ok());
    ASSERT_TRUE(machine_->SetRam(1, Gpa(0x14000), MiB(1), Hva(0x7e0000000000)).ok());
    machine_->Load(guest_);
    ExpectSame(first << kPageShift);
    for (uint64_t page = 0x10; page < 0x18; ++page) ExpectSame(page << kPageShift, kStore);
  }
}

TEST_F(ShadowFault, NeighboursInTheSameHostPageNeedNoFault) {
  MachineOptions options;
  options.host_order = 9;
  Start(options);
  Access(0x10000);
  const uint64_t before = Faults();
  for (uint64_t page = 0x10; page < 0x18; ++page) ExpectSame(page << kPageShift, kStore);
  EXPECT_EQ(Faults(), before);
}

// The first fault below a table makes its page; from the next one on neighbours come with it.
TEST_F(ShadowFault, NeighboursInARowOf4KiBHostPagesNeedNoFault) {
  Start();
  Access(0x30000);
  Access(0x13000);
  const uint64_t before = Faults();
  for (uint64_t page = 0x10; page < 0x18; ++page) ExpectSame(page << kPageShift, kStore);
  EXPECT_EQ(Faults(), before);
  ExpectSame(0x18000);
  EXPECT_EQ(Faults(), before + 1) << "outside of the eight";
}

TEST_F(ShadowFault, NeighboursWithoutAOrOutOfTheRowWaitForTheirFault) {
  Start();
  Table(4, 0x11, 0x11000 | (kAll & ~guest::kAccessed));
  Table(4, 0x15, 0x30000 | kAll);
  Access(0x30000);
  Access(0x13000);
  const uint64_t before = Faults();
  for (const uint64_t page : {0x12, 0x13, 0x14}) ExpectSame(page << kPageShift);
  EXPECT_EQ(Faults(), before);
  EXPECT_EQ(machine_->Peek<uint64_t>(Gpa(0x4000 + 0x11 * 8)) & guest::kAccessed, 0u);
  for (const uint64_t page : {0x10, 0x11, 0x15, 0x16}) ExpectSame(page << kPageShift, kStore);
}

TEST_F(ShadowFault, NeighboursOutsideTheSlotAreNotAskedForWithIt) {
  for (const uint64_t first : {0x13, 0x14}) {
    Start();
    ASSERT_TRUE(machine_->SetRam(0, Gpa(0), 0, Machine::kRam).ok());
    ASSERT_TRUE(machine_->memory().Map(Hva(0x7e0000000000), MiB(4)).ok());
    ASSERT_TRUE(machine_->SetRam(0, Gpa(0), 0x14000, Machine::kRam).ok());
    ASSERT_TRUE(machine_->SetRam(1, Gpa(0x14000), MiB(1), Hva(0x7e0000000000)).ok());
    machine_->Load(guest_);
    Access(0x30000);
    ExpectSame(first << kPageShift);
    for (uint64_t page = 0x10; page < 0x18; ++page) ExpectSame(page << kPageShift, kStore);
  }
}

TEST_F(ShadowFault, ANeighbourThatTheHostMovesIsFoundAnew) {
  Start();
  Access(0x30000);
  for (int round = 0; round < 3; ++round) {
    Access(0x12000);
    ASSERT_TRUE(machine_->Migrate(Machine::kRam + 0x10000, 5 * kPageSize).ok());
    for (uint64_t page = 0x10; page < 0x18; ++page) ExpectSame(page << kPageShift, kStore);
    ASSERT_TRUE(machine_->Migrate(Machine::kRam + 0x10000, 8 * kPageSize).ok());
  }
}

TEST_F(ShadowFault, ATableOf4ByteEntriesHasAPageForEachHalf) {
  Start();
  for (uint64_t i = 0; i < 1024; ++i) {
    machine_->Poke<uint32_t>(Gpa(0x4000 + i * 4), static_cast<uint32_t>(i << kPageShift | kAll));
    machine_->Poke<uint32_t>(Gpa(0x3000 + i * 4), 0);
  }
  for (const uint64_t at : {0, 256, 700})
    machine_->Poke<uint32_t>(Gpa(0x3000 + at * 4), 0x4000 | kAll);
  guest_ = GuestIn(PagingMode::k32Bit);
  guest_.cr3 = 0x3000;
  machine_->Load(guest_);
  const uint64_t before = Stats().pages;
  ExpectSame(0x10000);
  ExpectSame(0x210000);
  EXPECT_EQ(Stats().pages, before + 2);
  ExpectSame(0x40010000);
  ExpectSame(0xaf010000);
  EXPECT_EQ(Stats().pages, before + 2) << "other ways to the same table";
}

TEST_F(ShadowFault, A4MiBPageIsTwoLeavesAndPse36ReachesBeyond4GiB) {
  MachineOptions options;
  options.host_order = 9;
  Start(options);
  for (uint64_t i = 0; i < 1024; ++i) machine_->Poke<uint32_t>(Gpa(0x3000 + i * 4), 0);
  machine_->Poke<uint32_t>(Gpa(0x3000 + 4), 0x800000 | kAll | guest::kLargePage);
  machine_->Poke<uint32_t>(Gpa(0x3000 + 8), 0x2000 | kAll | guest::kLargePage);  // 2^32
  ASSERT_TRUE(machine_->memory().Map(Hva(0x7e0000000000), MiB(4), {.order = 9}).ok());
  ASSERT_TRUE(machine_->SetRam(1, Gpa(GiB(4)), MiB(4), Hva(0x7e0000000000)).ok());
  guest_ = GuestIn(PagingMode::k32Bit);
  guest_.cr3 = 0x3000;
  machine_->Load(guest_);
  ExpectSame(0x412345, kStore);
  ExpectSame(0x612345, kStore);
  ExpectSame(0x812345, kStore);
  ExpectSame(0xa12345, kStore);
}

TEST_F(ShadowFault, WithoutPagingAddressesArePhysicalOnes) {
  Start({}, PagingMode::kNone);
  ExpectSame(0x123456, kStore, true);
  ExpectSame(0x123456, kFetch);
  EXPECT_EQ(Access(MiB(16)).what, Seen::What::kMmio);
}

// --- Memory
// ---------------------------------------------------------------------------------------------

TEST_F(ShadowFault, NoMemoryAndWritesToReadOnlyMemoryAreMmio) {
  Start();
  Table(4, 16, MiB(32) | kAll);
  EXPECT_EQ(Access(0x10123), (Seen{Seen::What::kMmio, MiB(32) + 0x123}));
  ASSERT_TRUE(machine_->memory().Map(Hva(0x7e0000000000), MiB(4)).ok());
  ASSERT_TRUE(machine_->SetRam(1, Gpa(MiB(32)), MiB(4), Hva(0x7e0000000000), kSlotReadOnly).ok());
  ExpectSame(0x10123);
  EXPECT_EQ(Access(0x10123, kStore), (Seen{Seen::What::kMmio, MiB(32) + 0x123}));
}

TEST_F(ShadowFault, WritesAreLoggedOnceForEachTake) {
  Start();
  for (uint64_t page = 0x10; page < 0x20; ++page) Access(page << kPageShift, kStore);
  ASSERT_TRUE(machine_->SetRam(0, Gpa(0), MiB(16), Machine::kRam, kSlotLogDirtyPages).ok());
  Access(0x10000);
  Access(0x11000, kStore);
  Access(0x13000, kStore);
  EXPECT_THAT(TakeDirty(), ElementsAre(0x11, 0x13));
  const uint64_t before = Faults();
  Access(0x11000, kStore);
  EXPECT_EQ(Faults(), before + 1);
  Access(0x11000, kStore);
  EXPECT_EQ(Faults(), before + 1);
  EXPECT_THAT(TakeDirty(), ElementsAre(0x11));
}

TEST_F(ShadowFault, AReadOfALoggedPageGivesNoWToItOrItsNeighbours) {
  for (const int order : {0, 9}) {
    MachineOptions options;
    options.host_order = order;
    Start(options);
    ASSERT_TRUE(machine_->SetRam(0, Gpa(0), MiB(16), Machine::kRam, kSlotLogDirtyPages).ok());
    Access(0x30000);
    Access(0x10000);
    TakeDirty();
    Access(0x10000, kStore);
    Access(0x12000, kStore);
    EXPECT_THAT(TakeDirty(), ElementsAre(0x10, 0x12)) << "order " << order;
  }
}

TEST_F(ShadowFault, EmulatedWritesAndFlagsOfTablesAreLogged) {
  Start();
  ASSERT_TRUE(machine_->SetRam(0, Gpa(0), MiB(16), Machine::kRam, kSlotLogDirtyPages).ok());
  Table(4, 16, 0x10000 | 7);
  Access(0x10000);  // sets A in frame 4
  Emulate(3, 9, 0);
  EXPECT_THAT(TakeDirty(), ElementsAre(3, 4));
}

TEST_F(ShadowFault, ADeletedSlotTakesItsTablesAndItsPagesWithIt) {
  Start();
  Access(0x10000);
  ASSERT_TRUE(machine_->SetRam(0, Gpa(0), 0, Machine::kRam).ok());
  EXPECT_EQ(Access(0x10000).what, Seen::What::kNoTable);
  ASSERT_TRUE(machine_->SetRam(0, Gpa(0), MiB(16), Machine::kRam).ok());
  ExpectSame(0x10000);
}

TEST_F(ShadowFault, AfterZapAllEveryOldPageIsGone) {
  Start();
  Access(0x10000);
  const uint64_t before = Stats().mmu_shadow_zapped;
  const uint64_t pages = Stats().pages;
  machine_->vm().ZapAll()->Settle();
  EXPECT_EQ(Stats().mmu_shadow_zapped, before + pages);
  EXPECT_EQ(Stats().pages, 0u);
  ExpectSame(0x10000);
}

TEST_F(ShadowFault, AgingSeesWhatWasUsed) {
  Start();
  Access(0x10000);
  EXPECT_TRUE(*machine_->vm().TestAge(Machine::kRam + 0x10000, kPageSize));
  auto age = machine_->vm().AgeHostRange(Machine::kRam + 0x10000, kPageSize);
  EXPECT_TRUE(age->young);
  age->flush.Settle();
  EXPECT_FALSE(*machine_->vm().TestAge(Machine::kRam + 0x10000, kPageSize));
  EXPECT_FALSE(*machine_->vm().TestAge(Machine::kRam + 0x20000, kPageSize));
}

// --- Limits
// ---------------------------------------------------------------------------------------------

TEST_F(ShadowFault, AtTheQuotaTheOldestPagesGo) {
  MachineOptions options;
  options.vm.shadow_page_quota = 64;
  Start(options);
  // 200 tables, each mapping one page.
  for (uint64_t i = 0; i < 200; ++i) {
    Table(3, 100 + i, (256 + i) << kPageShift | kAll);
    Table(256 + i, 0, 0x10000 | kAll);
  }
  for (uint64_t i = 0; i < 200; ++i) {
    ExpectSame((100 + i) * MiB(2));
    ASSERT_LE(Stats().pages, 64u);
  }
  EXPECT_GT(Stats().mmu_recycled, 100u);
}

TEST_F(ShadowFault, WithoutTableMemoryTheFaultFailsAndCanBeTriedAgain) {
  Start();
  ExpectSame(0x10000);
  // Nothing comes any more; what is recycled is below the quota's notice.
  ASSERT_TRUE(machine_->vm().SetTableQuota(1).ok());
  PagingFaultResult failed;
  for (uint64_t i = 0; i < 100 && failed.outcome != PagingOutcome::kError; ++i) {
    const uint64_t frame = 512 + i * 2;
    Table(1, 1 + i, frame << kPageShift | kAll);
    Table(frame, 0, (frame + 1) << kPageShift | kAll);
    Table(frame + 1, 0, 0x4000 | kAll);
    failed = machine_->shadow().HandlePageFault(Gva((1 + i) << 39 | 0x10000), 0);
    ASSERT_TRUE(machine_->vm().CheckInvariants().ok());
  }
  EXPECT_TRUE(absl::IsResourceExhausted(failed.status)) << failed.status;
  EXPECT_EQ(machine_->shadow().WriteCr3(0x9000).status().code(),
            absl::StatusCode::kResourceExhausted);
  ASSERT_TRUE(machine_->vm().SetTableQuota(1 << 20).ok());
  ExpectSame(uint64_t{1} << 39 | 0x10000);
  ExpectSame(0x10000);
}

TEST_F(ShadowFault, WhatIsNotShadowedIsRefusedInWords) {
  Start();
  guest_.cr4 |= guest::kCr4UserKeys;
  const auto keys = machine_->shadow().SetPaging(guest_.controls(), guest_.cr3);
  EXPECT_TRUE(absl::IsFailedPrecondition(keys.status()));
  EXPECT_THAT(keys.status().message(), HasSubstr("protection keys"));
  const PagingFaultResult reserved = machine_->shadow().HandlePageFault(Gva(0x10000), 9);
  EXPECT_EQ(reserved.outcome, PagingOutcome::kError);
  EXPECT_TRUE(absl::IsInvalidArgument(reserved.status)) << reserved.status;
  const PagingFaultResult far = machine_->shadow().HandlePageFault(Gva(uint64_t{1} << 60), 0);
  EXPECT_TRUE(absl::IsInvalidArgument(far.status)) << far.status;
  const FaultResult ept = machine_->vcpu().HandleEptViolation(
      Gpa(0x10000), ExitQualification::Make(tdp::Access::Read(), tdp::Access::None(), true, true));
  EXPECT_EQ(ept.outcome, FaultOutcome::kError);
  EXPECT_TRUE(absl::IsFailedPrecondition(ept.status)) << ept.status;
  EXPECT_TRUE(absl::IsFailedPrecondition(machine_->vcpu().Prefault(Gpa(0), 4096).status()));
  const auto entry = machine_->vcpu().EnterGuest();
  EXPECT_TRUE(absl::IsFailedPrecondition(machine_->shadow().Invlpg(Gva(0))));
}

TEST_F(ShadowFault, EmulatedWritesNameWhatIsWrong) {
  Start();
  const auto nothing = [](std::byte*) {};
  ShadowVcpu& shadow = machine_->shadow();
  EXPECT_TRUE(absl::IsInvalidArgument(shadow.EmulateWrite(Gpa(0x1ffc), 8, nothing)));
  EXPECT_TRUE(absl::IsNotFound(shadow.EmulateWrite(Gpa(MiB(32)), 8, nothing)));
}

TEST(ShadowOptions, ABackendWithoutItSaysSo) {
  class NoShadow : public sim::SimBackend {
   public:
    using SimBackend::SimBackend;
    const Capabilities& capabilities() const override {
      static Capabilities none = [this] {
        Capabilities offered = SimBackend::capabilities();
        offered.shadow_paging = false;
        return offered;
      }();
      return none;
    }
  };
  sim::HostMemory memory({.size = MiB(64)});
  NoShadow backend(memory);
  const auto vm = Vm::Create(backend, {.paging = Paging::kShadow});
  EXPECT_TRUE(absl::IsFailedPrecondition(vm.status())) << vm.status();
  sim::SimBackend offering(memory);
  const auto few = Vm::Create(offering, {.paging = Paging::kShadow, .shadow_page_quota = 63});
  EXPECT_TRUE(absl::IsInvalidArgument(few.status())) << few.status();
  const auto logged = Vm::Create(
      offering, {.paging = Paging::kShadow, .dirty_tracking = DirtyTracking::kDirtyBits});
  EXPECT_TRUE(absl::IsInvalidArgument(logged.status())) << logged.status();
}

}  // namespace
}  // namespace tdp::shadow_test
