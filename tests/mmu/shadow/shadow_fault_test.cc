// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/shadow_vcpu.h"

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/shadow_fault.h"
#include "tests/world/test_host.h"

namespace tdp::shadow_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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

// --- A and D ---

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

// Without CR0.WP the write that set D has given a read-only page W, which must not outlive D.
TEST_F(ShadowFault, WithoutWpAReadOnlyPageThatLosesDGetsItAgain) {
  Start();
  constexpr uint64_t kClean = 0x10000 | guest::kPresent | guest::kAccessed;
  Table(4, 16, kClean);
  guest_.cr0 &= ~sim::kCr0Wp;
  machine_->Load(guest_);
  for (int i = 0; i < 2; ++i) {
    Access(0x10000, kStore);
    EXPECT_EQ(EntryAt(4, 16), kClean | guest::kDirty);
    ASSERT_EQ(machine_->Store(Gva(0x4000 + 16 * 8), kClean).what, kMemory);
    machine_->Invlpg(Gva(0x10000));
  }
}

// --- CR0.WP, SMEP, SMAP ---

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

// --- Memory ---

TEST_F(ShadowFault, NoMemoryAndWritesToReadOnlyMemoryAreMmio) {
  Start();
  Table(4, 16, MiB(32) | kAll);
  EXPECT_EQ(Access(0x10123), (Seen{Seen::What::kMmio, MiB(32) + 0x123}));
  ASSERT_TRUE(machine_->memory().Map(Hva(0x7e0000000000), MiB(4)).ok());
  ASSERT_TRUE(machine_->SetRam(1, Gpa(MiB(32)), MiB(4), Hva(0x7e0000000000), kSlotReadOnly).ok());
  ExpectSame(0x10123);
  EXPECT_EQ(Access(0x10123, kStore), (Seen{Seen::What::kMmio, MiB(32) + 0x123}));
}

TEST_F(ShadowFault, APdpteThatLeadsToNoMemoryIsNothingToTheOtherGiBs) {
  Start({}, PagingMode::kPae);
  machine_->Poke<uint64_t>(Gpa(0x5018), MiB(64) | guest::kPresent);
  machine_->WriteCr3(guest_.cr3);
  ExpectSame(0x10000);
  ExpectSame(GiB(3));
  ExpectSame(0x11000, kStore);
  // There is memory by now, and it maps the page.
  ASSERT_TRUE(machine_->SetRam(1, Gpa(MiB(64)), MiB(1), Machine::kRam).ok());
  machine_->Poke<uint64_t>(Gpa(0), 0x4000 | kAll);
  ExpectSame(GiB(3) + 0x10000);
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
  Access(0x13000, kStore);
  EXPECT_THAT(TakeDirty(), ElementsAre(0x11, 0x13)) << "each page of a take is protected again";
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

// --- Limits ---

TEST_F(ShadowFault, AtTheQuotaTheOldestPagesGo) {
  MachineOptions options;
  options.vm.shadow_page_quota = 64;
  Start(options);
  // There are 200 tables, each of which maps one page.
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
  // No table comes from the pool any more: whatever is recycled, more are in use than the quota
  // allows.
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
  EXPECT_TRUE(
      absl::IsFailedPrecondition(machine_->shadow().HandlePageFault(Gva(0x10000), 0).status));
}

TEST_F(ShadowFault, EmulatedWritesNameWhatIsWrong) {
  Start();
  const auto nothing = [](std::byte*) {};
  ShadowVcpu& shadow = machine_->shadow();
  EXPECT_TRUE(absl::IsInvalidArgument(shadow.EmulateWrite(Gpa(0x1ffc), 8, nothing)));
  const auto never = [](std::byte*) { ADD_FAILURE() << "nothing may be stored"; };
  EXPECT_TRUE(absl::IsInvalidArgument(shadow.EmulateWrite(Gpa(0x1010), ~uint64_t{0}, never)));
  EXPECT_TRUE(absl::IsNotFound(shadow.EmulateWrite(Gpa(MiB(32)), 8, nothing)));
  ASSERT_TRUE(machine_->SetRam(1, Gpa(MiB(32)), MiB(4), Machine::kRam, kSlotReadOnly).ok());
  EXPECT_TRUE(absl::IsPermissionDenied(shadow.EmulateWrite(Gpa(MiB(32)), 8, never)));
}

TEST(ShadowOptions, ABackendWithoutItSaysSo) {
  TestHost none;
  none.offered.shadow_paging = false;
  const auto vm = Vm::Create(none, {.paging = Paging::kShadow});
  EXPECT_TRUE(absl::IsFailedPrecondition(vm.status())) << vm.status();
  TestHost offering;
  const auto few = Vm::Create(offering, {.paging = Paging::kShadow, .shadow_page_quota = 63});
  EXPECT_TRUE(absl::IsInvalidArgument(few.status())) << few.status();
  const auto logged = Vm::Create(
      offering, {.paging = Paging::kShadow, .dirty_tracking = DirtyTracking::kDirtyBits});
  EXPECT_TRUE(absl::IsInvalidArgument(logged.status())) << logged.status();
}

// Every sync looks at all pages that are out of sync in one section, for whose end others wait.
TEST_F(ShadowFault, FewPagesAreOutOfSyncHoweverManyTablesTheGuestWrites) {
  constexpr uint64_t kTables = 400;
  constexpr uint64_t kFirst = 0x100;  // frame
  Start({.vm = {.shadow_page_quota = 1000}});
  for (uint64_t i = 1; i <= kTables; ++i) {
    Table(3, i, (kFirst + i) << kPageShift | kAll);
    Table(kFirst + i, 0, 0x10000 | kAll);
    Table(kFirst + i, 1, (kFirst + i) << kPageShift | kAll);  // itself
  }
  for (uint64_t i = 1; i <= kTables; ++i) {
    Access(i * MiB(2));
    machine_->Store(Gva(i * MiB(2) + kPageSize), 0x11000 | kAll);
    EXPECT_FALSE(machine_->wants_emulation());
    ASSERT_LE(Stats().mmu_unsync, 257u);
  }
  machine_->WriteCr3(guest_.cr3);
  EXPECT_EQ(Stats().mmu_unsync, 0u);
  for (uint64_t i = 1; i <= kTables; ++i) ExpectSame(i * MiB(2), kStore);
}

}  // namespace
}  // namespace tdp::shadow_test
