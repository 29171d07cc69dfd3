// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr Hva kRam{0x7f0000000000};

ExitQualification WriteTo(Access allowed) {
  return ExitQualification::Make(Access::Write(), allowed, true, true);
}

class VmTest : public HostTest {
 protected:
  absl::Status SetRam(Gpa gpa, ByteCount size, uint32_t flags = 0, uint32_t slot = 0,
                      Hva hva = kRam) {
    return vm_->SetMemoryRegion(
        {.slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = hva});
  }
  Hfn FrameOf(Gpa gpa) { return vm_->Translate(gpa)->FrameOf(Gfn::Of(gpa)); }
};

TEST_F(VmTest, AFaultMapsTheHostFrameBehindTheSlot) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  EXPECT_EQ(Fault(Gpa(0x3456)), FaultOutcome::kFixed);
  EXPECT_EQ(FrameOf(Gpa(0x3456)), Hfn((kRam.raw() + 0x3000) >> kPageShift));
  EXPECT_TRUE(vm_->Translate(Gpa(0x3456))->entry.dirty());
  EXPECT_EQ(LevelOf(Gpa(0x4000)), 0);
}

// Page by page, and a few pages of each of two tables at once.
TEST_F(VmTest, TablesThatZapsHaveLeftEmptyAreFreed) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  const auto map = [&] {
    for (const uint64_t at : {uint64_t{0}, MiB(2) - kPageSize, MiB(2), MiB(4) - kPageSize}) {
      EXPECT_EQ(Fault(Gpa(at)), FaultOutcome::kFixed);
    }
  };
  const auto zap = [&](uint64_t first, uint64_t pages) {
    vm_->ZapRange(Gfn(first), PageCount(pages))->Settle();
  };
  map();
  for (const uint64_t page : {0, 511, 512}) zap(page, 1);
  EXPECT_EQ(vm_->Stats().tables_freed, 1u) << "that of the first 2 MiB";
  zap(1023, 1);
  EXPECT_EQ(vm_->Stats().tables_freed, 4u) << "and the second, with both above";
  map();
  zap(500, 20);
  EXPECT_EQ(vm_->Stats().tables_freed, 4u);
  zap(0, 1000);
  zap(1000, 24);
  EXPECT_EQ(vm_->Stats().tables_freed, 8u);
}

TEST_F(VmTest, ATableThatMapsOtherFramesByNowMakesNoFaultSpurious) {
  Start({.max_leaf_level = kLevel4K});
  constexpr uint64_t kTables = 200;
  ASSERT_TRUE(SetRam(Gpa(0), kTables * MiB(2)).ok());
  const auto other = *vm_->CreateVcpu();
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kSpurious);
  vm_->ZapRange(Gfn(0), PageCount(512))->Settle();
  // Sooner or later the table is one of these.
  for (uint64_t i = 1; i < kTables; ++i) {
    const FaultResult made = other->HandleEptViolation(Gpa(i * MiB(2) + 0x3000), kWriteFault);
    EXPECT_EQ(made.outcome, FaultOutcome::kFixed);
  }
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 0);
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(FrameOf(Gpa(0x3000)), Hfn((kRam.raw() + 0x3000) >> kPageShift));
}

TEST_F(VmTest, TheSameFaultAgainIsSpuriousAndAsksTheHostNothingWhereTheLeafWasSeen) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  const int before = host_.resolves;
  EXPECT_EQ(Fault(Gpa(0x3000), WriteTo(Access::Read())), FaultOutcome::kSpurious);
  EXPECT_EQ(host_.resolves, before);
}

TEST_F(VmTest, RulesOfTheBaseThatAreGoneCostAFaultNothing) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  for (const Access rights : {Access::Read(), Access::All()}) {
    ASSERT_TRUE(vm_->SetViewRights(kBaseView, Gfn(8), PageCount(4), rights).ok());
  }
  for (const std::optional<Hfn> frames : {std::optional(Hfn(5)), std::optional<Hfn>()}) {
    ASSERT_TRUE(vm_->SetViewFrames(kBaseView, Gfn(8), PageCount(4), frames).ok());
  }
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  const int before = host_.resolves;
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kSpurious);
  EXPECT_EQ(host_.resolves, before) << "the fault took the long way";
}

TEST_F(VmTest, LeavesAreAsLargeAsSlotHostAndOptionsAllow) {
  host_.order = 18;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), GiB(3) + MiB(2) + KiB(4), 0, 0, Hva(GiB(1024))).ok());
  Fault(Gpa(GiB(1) + 5));
  EXPECT_EQ(LevelOf(Gpa(GiB(1))), 3);
  EXPECT_EQ(FrameOf(Gpa(GiB(1) + MiB(7))), Hfn::Of(Hpa(GiB(1025) + MiB(7))));
  Fault(Gpa(GiB(3)));
  EXPECT_EQ(LevelOf(Gpa(GiB(3))), 2) << "the slot ends inside this GiB";
  Fault(Gpa(GiB(3) + MiB(2)));
  EXPECT_EQ(LevelOf(Gpa(GiB(3) + MiB(2))), 1) << "the slot ends inside these 2 MiB";
  host_.order = 9;
  Fault(Gpa(GiB(2)));
  EXPECT_EQ(LevelOf(Gpa(GiB(2))), 2) << "the host page is 2 MiB";
}

TEST_F(VmTest, OptionsLimitTheLeaf) {
  host_.order = 18;
  Start({.max_leaf_level = kLevel4K});
  ASSERT_TRUE(SetRam(Gpa(0), GiB(1), 0, 0, Hva(GiB(1024))).ok());
  Fault(Gpa(0));
  EXPECT_EQ(LevelOf(Gpa(0)), 1);
}

TEST_F(VmTest, AnIncongruentSlotGetsSmallLeaves) {
  host_.order = 18;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), GiB(1), 0, 0, Hva(GiB(1024) + KiB(4))).ok());
  Fault(Gpa(MiB(2)));
  EXPECT_EQ(LevelOf(Gpa(MiB(2))), 1);
}

TEST_F(VmTest, AHoleIsMmioAndRemembersItUntilASlotComes) {
  Start();
  EXPECT_EQ(Fault(Gpa(0xfee00000)), FaultOutcome::kMmio);
  EXPECT_EQ(vcpu_->HandleEptMisconfiguration(Gpa(0xfee00000)).outcome, FaultOutcome::kMmio);
  ASSERT_TRUE(SetRam(Gpa(0xfee00000), KiB(4)).ok());
  EXPECT_EQ(vcpu_->HandleEptMisconfiguration(Gpa(0xfee00000)).outcome, FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(0xfee00000)), 1);
}

TEST_F(VmTest, AWriteToAReadOnlySlotIsMmioAndReadsAreMappedWithoutW) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2), kSlotReadOnly).ok());
  EXPECT_EQ(Fault(Gpa(0), kReadFault), FaultOutcome::kFixed);
  EXPECT_FALSE(vm_->Translate(Gpa(0))->access.can_write());
  EXPECT_EQ(Fault(Gpa(0), WriteTo(Access::ReadExecute())), FaultOutcome::kMmio);
}

TEST_F(VmTest, AReadOnlyHostPageIsMappedReadOnlyUntilTheWriteThatBreaksItsSharing) {
  host_.writable = false;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  EXPECT_EQ(Fault(Gpa(0), kReadFault), FaultOutcome::kFixed);
  EXPECT_FALSE(vm_->Translate(Gpa(0))->access.can_write());
  EXPECT_EQ(Fault(Gpa(0), WriteTo(Access::ReadExecute())), FaultOutcome::kFixed);
  EXPECT_TRUE(vm_->Translate(Gpa(0))->access.can_write());
}

// The table of the last fault has the page, and it may not be written yet.
TEST_F(VmTest, AWriteThatFoundNothingIsNotToldThatAPageIsThereThatMayBeReadAlone) {
  host_.writable = false;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  EXPECT_EQ(Fault(Gpa(0), kReadFault), FaultOutcome::kFixed);
  EXPECT_EQ(Fault(Gpa(0), kReadFault), FaultOutcome::kSpurious);
  EXPECT_EQ(Fault(Gpa(0), kWriteFault), FaultOutcome::kFixed);
  EXPECT_TRUE(vm_->Translate(Gpa(0))->access.can_write());
}

TEST_F(VmTest, AFrameThatTheHostChangedIsReplacedNotMixed) {
  host_.writable = false;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  EXPECT_EQ(Fault(Gpa(0), kReadFault), FaultOutcome::kFixed);
  host_.offset = MiB(64);  // copy on write gave another frame
  EXPECT_EQ(Fault(Gpa(0), WriteTo(Access::ReadExecute())), FaultOutcome::kRetry);
  EXPECT_EQ(LevelOf(Gpa(0)), 0);
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
  EXPECT_EQ(FrameOf(Gpa(0)), Hfn((kRam.raw() + MiB(64)) >> kPageShift));
}

TEST_F(VmTest, AFrameThatTheHostChangedIsReplacedInTheAddressSpaceOfTheFault) {
  host_.writable = false;
  Start({.address_spaces = 2});
  ASSERT_TRUE(vm_->SetMemoryRegion({.address_space = 1, .size = MiB(2), .hva = kRam}).ok());
  ASSERT_TRUE(vcpu_->SetAddressSpace(1).ok());
  EXPECT_EQ(Fault(Gpa(0), kReadFault), FaultOutcome::kFixed);
  host_.offset = MiB(64);
  EXPECT_EQ(Fault(Gpa(0), WriteTo(Access::ReadExecute())), FaultOutcome::kRetry);
  EXPECT_EQ(LevelOf(Gpa(0)), 0);
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
}

// HAXM kept the old memory.
TEST_F(VmTest, ASlotMadeAnewOverOtherMemoryShowsTheNewMemory) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  Fault(Gpa(0));
  ASSERT_TRUE(SetRam(Gpa(0), 0).ok());
  EXPECT_EQ(LevelOf(Gpa(0)), 0);
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2), 0, 0, kRam + MiB(16)).ok());
  Fault(Gpa(0));
  EXPECT_EQ(FrameOf(Gpa(0)), Hfn((kRam.raw() + MiB(16)) >> kPageShift));
}

TEST_F(VmTest, AMovedSlotLeavesNothingBehind) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  Fault(Gpa(0x1000));
  ASSERT_TRUE(SetRam(Gpa(GiB(1)), MiB(2)).ok());
  EXPECT_EQ(LevelOf(Gpa(0x1000)), 0);
  EXPECT_EQ(Fault(Gpa(0x1000)), FaultOutcome::kMmio);
  EXPECT_EQ(Fault(Gpa(GiB(1) + 0x1000)), FaultOutcome::kFixed);
}

// ArceOS dropped the whole 2 MiB.
// Once another large leaf is beside them, as the shortest way of a fault wants it.
TEST_F(VmTest, NoLargeLeafReachesOverTheFirstOrTheLastPageOfASlot) {
  host_.order = 9;
  Start();
  ASSERT_TRUE(SetRam(Gpa(MiB(1)), MiB(6), 0, 0, kRam + MiB(1)).ok());
  ASSERT_EQ(Fault(Gpa(MiB(2))), FaultOutcome::kFixed);
  ASSERT_EQ(Fault(Gpa(MiB(4))), FaultOutcome::kFixed);
  ASSERT_EQ(LevelOf(Gpa(MiB(4))), 2);
  ASSERT_EQ(Fault(Gpa(MiB(1) + 0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(MiB(1) + 0x3000)), 1);
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 0);
  ASSERT_EQ(Fault(Gpa(MiB(6) + 0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(MiB(6) + 0x3000)), 1);
  EXPECT_EQ(LevelOf(Gpa(MiB(7) + 0x3000)), 0);
}

// Another vCPU's faults use the tables that the zap has freed for other pages, at the same places.
TEST_F(VmTest, AFaultIsNotToldThatItsPageIsThereByATableThatMapsAnother) {
  Start({.max_leaf_level = kLevel4K});
  ASSERT_TRUE(SetRam(Gpa(0), GiB(4)).ok());
  const std::unique_ptr<Vcpu> other = *vm_->CreateVcpu();
  ASSERT_EQ(Fault(Gpa(0x1000)), FaultOutcome::kFixed);
  ASSERT_EQ(Fault(Gpa(0x2000)), FaultOutcome::kFixed);
  vm_->ZapRange(Gfn(0), kLevel2M.pages())->Settle();
  for (uint64_t table = 1; table < GiB(4) / MiB(2); ++table) {
    const Gpa gpa(table * MiB(2) + 0x2000);
    ASSERT_EQ(other->HandleEptViolation(gpa, kWriteFault).outcome, FaultOutcome::kFixed);
  }
  EXPECT_EQ(Fault(Gpa(0x2000)), FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(0x2000)), 1);
}

TEST_F(VmTest, ZappingAPartOfALargeLeafKeepsTheRest) {
  host_.order = 9;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4), 0, 0, Hva(GiB(1024))).ok());
  Fault(Gpa(0));
  ASSERT_EQ(LevelOf(Gpa(0)), 2);
  vm_->ZapRange(Gfn(5), PageCount(1))->Settle();
  EXPECT_EQ(LevelOf(Gpa(0x5000)), 0);
  EXPECT_EQ(LevelOf(Gpa(0x4000)), 1);
  EXPECT_EQ(FrameOf(Gpa(0x6000)), Hfn::Of(Hpa(GiB(1024) + 0x6000)));
  EXPECT_TRUE(vm_->Translate(Gpa(0x4000))->entry.dirty()) << "a split keeps A and D";
}

TEST_F(VmTest, ZappingPartOfALargeLeafWithoutMemoryForTheSplitDropsTheLeafWhole) {
  host_.order = 9;
  Start({.table_quota = 8});
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4), 0, 0, Hva(GiB(1024))).ok());
  Fault(Gpa(0));
  ASSERT_EQ(LevelOf(Gpa(0)), 2);
  vm_->ZapRange(Gfn(5), PageCount(1))->Settle();
  EXPECT_EQ(LevelOf(Gpa(0x4000)), 0) << "the guest faults it in again";
  EXPECT_EQ(Fault(Gpa(0x4000)), FaultOutcome::kFixed);
}

// hvpp wrote the new entry into the guest's memory.
TEST_F(VmTest, ASmallMappingUnderALargeLeafSplitsIt) {
  host_.order = 9;
  host_.writable = false;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4), 0, 0, Hva(GiB(1024))).ok());
  Fault(Gpa(0), kReadFault);
  ASSERT_EQ(LevelOf(Gpa(0)), 2);
  host_.order = 0;  // the host has split its page: only this one becomes writable
  EXPECT_EQ(Fault(Gpa(0x3000), WriteTo(Access::ReadExecute())), FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 1);
  EXPECT_TRUE(vm_->Translate(Gpa(0x3000))->access.can_write());
  EXPECT_FALSE(vm_->Translate(Gpa(0x4000))->access.can_write());
  EXPECT_EQ(FrameOf(Gpa(0x4000)), Hfn::Of(Hpa(GiB(1024) + 0x4000)));
}

TEST_F(VmTest, ASplitByAFaultIsFlushed) {
  for (const ExitQualification how : {kWriteFault, WriteTo(Access::ReadExecute())}) {
    SCOPED_TRACE(how.raw());
    vcpu_.reset();
    host_.order = 9;
    host_.writable = false;
    Start();
    ASSERT_TRUE(SetRam(Gpa(0), MiB(4), 0, 0, Hva(GiB(1024))).ok());
    Fault(Gpa(0), kReadFault);
    ASSERT_EQ(LevelOf(Gpa(0)), 2);
    host_.order = 0;
    const auto other = *vm_->CreateVcpu();
    std::optional<GuestEntry> entry = other->EnterGuest();
    host_.on_kick = [&] { entry.reset(); };
    EXPECT_EQ(Fault(Gpa(0x3000), how), FaultOutcome::kFixed);
    ASSERT_EQ(LevelOf(Gpa(0x3000)), 1);
    EXPECT_FALSE(entry.has_value()) << "a CPU goes on with the large translation";
    EXPECT_EQ(vm_->Stats().faults.splits, 1u);
  }
}

// The tables of a view that raises #VE go as a log begins, and what they say was written is older.
// Another vCPU makes room in the log before they are read.
TEST_F(VmTest, TablesThatGoAsALogBeginsBringNothingIntoIt) {
  host_.offered.ve = true;
  Start({.virtualization_exceptions = Use::kRequire});
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  const ViewId view = *vm_->CreateView();
  ASSERT_EQ(vm_->SetRaisesVe(view, Gfn(0), PageCount(8), true), absl::OkStatus());
  const auto other = *vm_->CreateVcpu();
  ASSERT_EQ(vcpu_->SetView(view), absl::OkStatus());
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  std::optional<GuestEntry> entry = vcpu_->EnterGuest();
  host_.on_kick = [&] {
    if (!entry.has_value()) return;
    while (other->HandleEptViolation(Gpa(0x5000), kWriteFault).outcome == FaultOutcome::kRetry) {
    }
    entry.reset();
  };
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4), kSlotLogDirtyPages).ok());
  ASSERT_FALSE(entry.has_value());
  uint64_t dirty = 0;
  EXPECT_TRUE(vm_->TakeDirtyLog(0, [&](uint64_t, uint64_t mask) { dirty |= mask; }).ok());
  EXPECT_EQ(dirty, uint64_t{1} << 5);
}

// Its guest's tables, which map nothing, are asked after its own.
TEST_F(VmTest, WhatIsTakenFromAHypervisorIsFlushedThoughItsGuestHasNothing) {
  Start({.nested = true});
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  for (const uint64_t gpa : {0x3000, 0x5000}) {
    EXPECT_EQ(Fault(Gpa(gpa)), FaultOutcome::kFixed);
  }
  PendingFlush flush = *vm_->ZapRange(Gfn(3), PageCount(1));
  EXPECT_TRUE(flush.is_owed());
  flush.Settle();
  std::optional<GuestEntry> entry = vcpu_->EnterGuest();
  host_.on_kick = [&] { entry.reset(); };
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4), kSlotLogDirtyPages).ok());
  EXPECT_FALSE(entry.has_value()) << "a CPU goes on writing unlogged";
}

TEST_F(VmTest, ZapAllTakesEverythingAtOnce) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), GiB(1)).ok());
  for (uint64_t i = 0; i < 100; ++i) Fault(Gpa(i * MiB(2)));
  vm_->ZapAll()->Settle();
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(LevelOf(Gpa(i * MiB(2))), 0);
  EXPECT_GE(vm_->Stats().tables_freed, 100u);
}

TEST_F(VmTest, ZapAllReachesEveryEntryOfTheRoot) {
  Start({.guest_physical_bits = 48});
  constexpr uint64_t kEntry = uint64_t{1} << 39;
  const std::vector<uint64_t> entries = {0, 1, 7, 8, 63, 64, 504, 511};
  for (const uint64_t entry : entries) {
    const auto slot = static_cast<uint32_t>(entry);
    ASSERT_TRUE(SetRam(Gpa(entry * kEntry), MiB(2), 0, slot).ok());
    Fault(Gpa(entry * kEntry));
    ASSERT_NE(LevelOf(Gpa(entry * kEntry)), 0) << entry;
  }
  vm_->ZapAll()->Settle();
  for (const uint64_t entry : entries) EXPECT_EQ(LevelOf(Gpa(entry * kEntry)), 0) << entry;
}

TEST_F(VmTest, ZapAllWithNothingMappedOwesNothing) {
  Start();
  PendingFlush flush = *vm_->ZapAll();
  EXPECT_FALSE(flush.is_owed());
  EXPECT_EQ(vm_->Stats().zaps, 0u);
}

TEST_F(VmTest, AnInvalidatedHostRangeIsUnmappedWhereverItIsMapped) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2), 0, 0).ok());
  ASSERT_TRUE(SetRam(Gpa(GiB(1)), MiB(2), 0, 1).ok()) << "the same memory at a second place";
  Fault(Gpa(0x3000));
  Fault(Gpa(GiB(1) + 0x3000));
  Fault(Gpa(0x5000));
  ASSERT_TRUE(vm_->InvalidateHostRange(kRam + 0x3000, KiB(4)).ok());
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 0);
  EXPECT_EQ(LevelOf(Gpa(GiB(1) + 0x3000)), 0);
  EXPECT_EQ(LevelOf(Gpa(0x5000)), 1);
}

TEST_F(VmTest, AFaultWhosePageIsInvalidatedWhileItResolvesInstallsNothing) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  host_.on_resolve = [this] { ASSERT_TRUE(vm_->InvalidateHostRange(kRam, MiB(2)).ok()); };
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kRetry);
  EXPECT_EQ(LevelOf(Gpa(0)), 0);
  host_.on_resolve = nullptr;
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
}

TEST_F(VmTest, AFaultWhoseSlotIsDeletedWhileItResolvesInstallsNothing) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  host_.on_resolve = [this] { ASSERT_TRUE(SetRam(Gpa(0), 0).ok()); };
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kRetry);
  EXPECT_EQ(LevelOf(Gpa(0)), 0);
}

TEST_F(VmTest, BetweenBeginAndEndFaultsOnTheRangeAreRetriedAndOthersAreNot) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  ASSERT_TRUE(vm_->BeginHostInvalidation(kRam, KiB(8)).ok());
  EXPECT_EQ(Fault(Gpa(0x1000)), FaultOutcome::kRetry);
  EXPECT_EQ(Fault(Gpa(0x2000)), FaultOutcome::kFixed);
  vm_->EndHostInvalidation();
  EXPECT_EQ(Fault(Gpa(0x1000)), FaultOutcome::kFixed);
}

// A large leaf made beside the range would bring back what the invalidation has just taken away.
TEST_F(VmTest, AHostPageOfWhichAPartIsBeingInvalidatedIsMappedByItsFrameAlone) {
  Start();
  host_.order = 9;
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  ASSERT_TRUE(vm_->BeginHostInvalidation(kRam + KiB(4), KiB(8)).ok());
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 1);
  EXPECT_EQ(LevelOf(Gpa(0x1000)), 0);
  EXPECT_EQ(Fault(Gpa(MiB(2))), FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(MiB(2))), 2) << "another host page";
  vm_->EndHostInvalidation();
  EXPECT_EQ(Fault(Gpa(0x1000)), FaultOutcome::kFixed);
}

TEST_F(VmTest, WithoutTableMemoryAFaultChangesNothingAndTheNextTrySucceeds) {
  Start({.table_quota = 2});  // the root and one more: a path needs three
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  const FaultResult result = vcpu_->HandleEptViolation(Gpa(0), kWriteFault);
  EXPECT_EQ(result.outcome, FaultOutcome::kError);
  EXPECT_TRUE(absl::IsResourceExhausted(result.status)) << result.status;
  EXPECT_EQ(LevelOf(Gpa(0)), 0);
}

TEST_F(VmTest, EveryBudgetOfTablesIsAllOrNothing) {
  for (size_t quota = 1; quota < 12; ++quota) {
    TestHost host;
    auto vm = *Vm::Create(host, {.table_quota = quota});
    auto vcpu = *vm->CreateVcpu();
    ASSERT_TRUE(vm->SetMemoryRegion({.size = GiB(4), .hva = kRam}).ok());
    for (uint64_t i = 0; i < 4; ++i) {
      const Gpa gpa(i * GiB(1));
      const FaultResult result = vcpu->HandleEptViolation(gpa, kWriteFault);
      const bool mapped = vm->Translate(gpa).ok();
      EXPECT_EQ(result.outcome, mapped ? FaultOutcome::kFixed : FaultOutcome::kError) << quota;
      EXPECT_EQ(absl::IsResourceExhausted(result.status), !mapped);
    }
    EXPECT_TRUE(vm->CheckInvariants().ok()) << vm->CheckInvariants();
  }
}

TEST_F(VmTest, WhereTheTablesStandAFaultNeedsNoTableMemory) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
  auto poor = *vm_->CreateVcpu();
  host_.blocks = 0;
  EXPECT_EQ(poor->HandleEptViolation(Gpa(0x1000), kWriteFault).outcome, FaultOutcome::kFixed);
}

TEST_F(VmTest, BlockedPagesAndHostErrorsReachTheEmbedderAsWhatTheyAre) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  host_.answer = absl::UnavailableError("still on disk");
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kBlocked);
  host_.answer = absl::PermissionDeniedError("no");
  EXPECT_TRUE(absl::IsPermissionDenied(vcpu_->HandleEptViolation(Gpa(0), kWriteFault).status));
}

TEST_F(VmTest, MisuseIsAWordedErrorAtTheCallThatMadeIt) {
  Start();
  EXPECT_THAT(
      std::string(vcpu_->HandleEptViolation(Gpa(uint64_t{1} << 48), kReadFault).status.message()),
      HasSubstr("gpa 0x1000000000000 is beyond the guest's width"));
  EXPECT_THAT(std::string(vcpu_->HandleEptViolation(Gpa(0), ExitQualification(0)).status.message()),
              HasSubstr("exit qualification 0x0"));
  EXPECT_THAT(std::string(vm_->ZapRange(Gfn(0), PageCount(1), 3).status().message()),
              HasSubstr("address space 3"));
  EXPECT_THAT(std::string(vm_->InvalidateHostRange(Hva(0x123), KiB(4)).message()),
              HasSubstr("start 0x123"));
  constexpr Gpa kFar(uint64_t{1} << 48);
  EXPECT_THAT(std::string(vcpu_->HandleEptMisconfiguration(kFar).status.message()),
              HasSubstr("gpa 0x1000000000000 is beyond the guest's width"));
  EXPECT_THAT(std::string(vm_->Translate(kFar).status().message()),
              HasSubstr("gpa 0x1000000000000 is beyond the guest's width"));
  const GuestEntry entry = vcpu_->EnterGuest();
  for (const absl::Status& refused : {vcpu_->HandleEptViolation(Gpa(0), kReadFault).status,
                                      vcpu_->HandleEptMisconfiguration(Gpa(0)).status,
                                      vcpu_->SetAddressSpace(0), vcpu_->SetView(kBaseView)}) {
    EXPECT_THAT(std::string(refused.message()), HasSubstr("in the guest"));
  }
}

TEST(Vm, CreateRefusesOptionsBeyondTheBackendByName) {
  MinimalBackend backend;
  const auto message = [&](VmOptions options) {
    return std::string(Vm::Create(backend, options).status().message());
  };
  EXPECT_THAT(message({.ept_levels = 3}), HasSubstr("ept_levels is 3"));
  EXPECT_THAT(message({.max_leaf_level = Level(4)}), HasSubstr("max_leaf_level is 4"));
  EXPECT_THAT(message({.address_spaces = 0}), HasSubstr("address_spaces is 0"));
  EXPECT_THAT(message({.guest_physical_bits = 49}), HasSubstr("guest_physical_bits is 49"));
}

TEST(Vm, FiveLevelsReachBeyond48Bits) {
  TestHost host;
  auto vm = *Vm::Create(host, {.ept_levels = 5});
  auto vcpu = *vm->CreateVcpu();
  const Gpa far(uint64_t{1} << 51);
  ASSERT_TRUE(vm->SetMemoryRegion({.gpa = far, .size = MiB(2), .hva = kRam}).ok());
  EXPECT_EQ(vcpu->HandleEptViolation(far, kWriteFault).outcome, FaultOutcome::kFixed);
  EXPECT_TRUE(vm->Translate(far).ok());
  EXPECT_TRUE(vm->CheckInvariants().ok()) << vm->CheckInvariants();
}

TEST(Vm, TwoAddressSpacesHaveTheirOwnSlotsAndTables) {
  TestHost host;
  auto vm = *Vm::Create(host, {.address_spaces = 2});
  auto vcpu = *vm->CreateVcpu();
  ASSERT_TRUE(vm->SetMemoryRegion({.address_space = 1, .size = MiB(2), .hva = kRam}).ok());
  EXPECT_EQ(vcpu->HandleEptViolation(Gpa(0), kReadFault).outcome, FaultOutcome::kMmio);
  ASSERT_TRUE(vcpu->SetAddressSpace(1).ok());
  EXPECT_EQ(vcpu->HandleEptViolation(Gpa(0), kReadFault).outcome, FaultOutcome::kFixed);
  EXPECT_NE(vm->eptp(0), vm->eptp(1));
  EXPECT_FALSE(vcpu->SetAddressSpace(2).ok());
}

TEST_F(VmTest, StatsTellTheSizeOfEachPageHoweverItWasMapped) {
  host_.order = 9;
  Start({.dirty_tracking = DirtyTracking::kWriteProtection});
  const auto set = [&](uint32_t flags) {
    ASSERT_TRUE(SetRam(Gpa(0), MiB(8), flags, 0, Hva(GiB(1024))).ok());
  };
  using Leaves = std::array<uint64_t, 3>;
  set(0);
  for (uint64_t region = 0; region < 3; ++region) {
    const FaultResult result = vcpu_->HandleEptViolation(Gpa(region * MiB(2)), kWriteFault);
    EXPECT_EQ(result.outcome, FaultOutcome::kFixed);
    EXPECT_EQ(result.level, kLevel2M);
  }
  EXPECT_EQ(vm_->Stats().faults.leaves_installed, (Leaves{0, 3, 0}));
  host_.order = 0;
  EXPECT_EQ(*vcpu_->Prefault(Gpa(MiB(6)), 16 * kPageSize, Access::Read()), 16 * kPageSize);
  EXPECT_EQ(vm_->Stats().faults.leaves_installed, (Leaves{16, 3, 0}));
  set(kSlotLogDirtyPages);
  for (uint64_t page = 0; page < 4; ++page) {
    const Gpa gpa = Gpa(MiB(6)) + page * kPageSize;
    EXPECT_EQ(Fault(gpa, WriteTo(Access::ReadExecute())), FaultOutcome::kFixed);
  }
  const FaultStats stats = vm_->Stats().faults;
  EXPECT_EQ(stats.leaves_installed, (Leaves{20, 3, 0}));
  EXPECT_EQ(stats.fixed, 23u);
  EXPECT_GE(stats.fast, 3u) << "the host was not asked";
}

TEST(Vm, StatsCountWhatHappened) {
  TestHost host;
  auto vm = *Vm::Create(host, {});
  {
    auto vcpu = *vm->CreateVcpu();
    ASSERT_TRUE(vm->SetMemoryRegion({.size = MiB(2), .hva = kRam}).ok());
    EXPECT_EQ(vcpu->HandleEptViolation(Gpa(0), kWriteFault).outcome, FaultOutcome::kFixed);
    EXPECT_EQ(vcpu->HandleEptViolation(Gpa(0), kWriteFault).outcome, FaultOutcome::kSpurious);
    EXPECT_EQ(vcpu->HandleEptViolation(Gpa(GiB(1)), kWriteFault).outcome, FaultOutcome::kMmio);
  }
  const VmStats stats = vm->Stats();
  EXPECT_EQ(stats.faults.fixed, 1u);
  EXPECT_EQ(stats.faults.spurious, 1u);
  EXPECT_EQ(stats.faults.mmio, 1u);
  EXPECT_EQ(stats.faults.leaves_installed[0], 1u);
}

}  // namespace
}  // namespace tdp
