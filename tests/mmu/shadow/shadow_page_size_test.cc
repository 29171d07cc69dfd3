// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest's pages of every size lie here on those of the host, and neighbours come with them.

#include <cstdint>

#include "gtest/gtest.h"
#include "tests/mmu/shadow/shadow_fault.h"

namespace tdp::shadow_test {
namespace {

// --- Page sizes ---

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

// A table that is none any more, and in no shadow, is tracked no more.
TEST_F(ShadowFault, ALargePageIsLargeAgainWhenTheTableInsideIsGone) {
  MachineOptions options;
  options.host_order = 9;
  Start(options);
  Table(0x600, 0, 0x10000 | kAll);
  Table(3, 1, 0x600000 | kAll);
  ExpectSame(MiB(2));
  Table(3, 4, 0x600000 | kAll | guest::kLargePage);
  ExpectSame(MiB(8) + 0x10000, kStore);
  EXPECT_EQ(machine_->last_fault().level, kLevel4K);
  Emulate(3, 1, 0);
  Emulate(3, 4, 0);
  ASSERT_TRUE(machine_->shadow().OnWritten(Gpa(0x600006), 4).ok());
  Table(3, 5, 0x600000 | kAll | guest::kLargePage);
  ExpectSame(MiB(10) + 0x10000, kStore);
  EXPECT_EQ(machine_->last_fault().level, kLevel2M);
}

// The large page was allowed when the fault began. The tables of the walk itself lie in it, and
// this fault is the first to track them.
TEST_F(ShadowFault, ALargePageWithTheTablesOfTheFirstWalkInsideIsMappedBySmallOnes) {
  MachineOptions options;
  options.host_order = 9;
  Start(options);
  // The shadow has nothing but a root outside the large page.
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

// A supervisor's write to a read-only page sets D where CR0.WP is clear, in a large page's entry,
// too. The two entries here map the same page with the same rights. (The reference would set D as
// well: the stores are made on the shadow alone.)
TEST_F(ShadowFault, WithoutWpEachReadOnlyLargePageGetsADOfItsOwnAndGetsItAgain) {
  for (const uint64_t user : {uint64_t{0}, guest::kUser}) {
    Start();
    guest_.cr0 &= ~sim::kCr0Wp;
    machine_->Load(guest_);
    const uint64_t clean = 0x600000 | 0x21 | user | guest::kLargePage;
    Table(3, 3, clean);
    Table(3, 5, clean);
    Access(0x612345, kStore);
    EXPECT_EQ(EntryAt(3, 3), clean | guest::kDirty);
    ExpectSame(0xa12345);
    ExpectSame(0xa12345, kLoad, true);
    EXPECT_EQ(EntryAt(3, 5), clean);
    Access(0xa12345, kStore);
    EXPECT_EQ(EntryAt(3, 5), clean | guest::kDirty);

    Emulate(3, 3, clean);
    machine_->Invlpg(Gva(0x612345));
    ExpectSame(0x613000);
    Access(0x612345, kStore);
    EXPECT_EQ(EntryAt(3, 3), clean | guest::kDirty);
    ExpectSame(0x612345, kStore, true);
  }
}

TEST_F(ShadowFault, WithSmapAWriteToAReadOnlyLargeUserPageIsEmulatedToo) {
  Start();
  Table(3, 3, 0x600000 | (kAll & ~guest::kWrite) | guest::kLargePage);
  guest_.cr0 &= ~sim::kCr0Wp;
  guest_.cr4 |= sim::kCr4Smap;
  machine_->Load(guest_);
  ExpectSame(0x612345, kStore, false, true);
  EXPECT_TRUE(machine_->wants_emulation());
  ExpectSame(0x612345, kLoad, false, false);
}

// Frames 16 to 19 end a slot, and frame 20 begins another with other memory; both are in the window
// of eight that one fault fills in, from either side.
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
  ASSERT_TRUE(machine_->memory().Map(Hva(0x7e0000000000), MiB(4)).ok());
  ASSERT_TRUE(machine_->SetRam(1, Gpa(GiB(1)), MiB(4), Hva(0x7e0000000000)).ok());
  ExpectSame(GiB(1) + 0x123456, kStore);
}

}  // namespace
}  // namespace tdp::shadow_test
