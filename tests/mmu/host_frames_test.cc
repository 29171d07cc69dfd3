// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests name the host's frames in slots, and map a range before anyone asks for it.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/mmu/viewing_guest.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr auto kFetch = ExitQualification::Make(Access::Execute(), Access::None(), true, true);
constexpr Hva kRam{TiB(1)};

MemoryRegion Frames(Gpa gpa, ByteCount size, Hpa hpa, uint32_t flags = 0) {
  return {.flags = kSlotHostFrames | flags, .gpa = gpa, .size = size, .hpa = hpa};
}

class HostFramesTest : public HostTest {
 protected:
  void Set(const MemoryRegion& region) {
    ASSERT_EQ(vm_->SetMemoryRegion(region), absl::OkStatus());
  }
  FaultResult Touch(Gpa gpa, ExitQualification how) { return vcpu_->HandleEptViolation(gpa, how); }
  void Map(Gpa gpa) { ASSERT_EQ(Touch(gpa, kReadFault).outcome, FaultOutcome::kFixed); }
  Hpa HpaOf(Gpa gpa) {
    const auto found = vm_->Translate(gpa);
    return found.ok() ? found->FrameOf(Gfn::Of(gpa)).address() : Hpa(0);
  }
};

TEST_F(HostFramesTest, AFaultMapsTheNamedFrameAndTheHostIsNotAsked) {
  Start();
  Set(Frames(Gpa(0x10000), 0x8000, Hpa(0x7000)));
  EXPECT_EQ(Touch(Gpa(0x13000), kReadFault).outcome, FaultOutcome::kFixed);
  for (const auto how : {kWriteFault, kFetch}) {
    EXPECT_EQ(Touch(Gpa(0x13000), how).outcome, FaultOutcome::kSpurious) << "all is allowed";
  }
  EXPECT_EQ(HpaOf(Gpa(0x13000)), Hpa(0xa000));
  EXPECT_TRUE(vm_->Translate(Gpa(0x13000))->access.Covers(Access::All()));
  EXPECT_EQ(host_.resolves, 0);
  EXPECT_EQ(Touch(Gpa(0x18000), kReadFault).outcome, FaultOutcome::kMmio) << "behind its end";
}

TEST_F(HostFramesTest, ALeafIsAsLargeAsSlotAndAlignmentAllow) {
  Start();
  Set(Frames(Gpa(MiB(1)), GiB(2), Hpa(GiB(8) + MiB(1))));
  EXPECT_EQ(Touch(Gpa(MiB(1)), kReadFault).level, kLevel4K)
      << "the slot begins inside a large frame";
  EXPECT_EQ(Touch(Gpa(MiB(2)), kReadFault).level, kLevel2M);
  EXPECT_EQ(Touch(Gpa(GiB(1)), kReadFault).level, kLevel1G);
  EXPECT_EQ(HpaOf(Gpa(GiB(1) + MiB(3))), Hpa(GiB(9) + MiB(3)));
  Set({.slot = 1,
       .flags = kSlotHostFrames,
       .gpa = Gpa(GiB(16)),
       .size = GiB(1),
       .hpa = Hpa(GiB(4) + 0x1000)});
  EXPECT_EQ(Touch(Gpa(GiB(16)), kReadFault).level, kLevel4K)
      << "frames and addresses are not congruent";
  EXPECT_EQ(host_.resolves, 0);
}

TEST_F(HostFramesTest, RightsThatTheSlotLacksAreDenied) {
  Start();
  MemoryRegion region = Frames(Gpa(0), MiB(2), Hpa(GiB(1)));
  region.rights = Access::Read();
  Set(region);
  EXPECT_EQ(Touch(Gpa(0x1000), kReadFault).outcome, FaultOutcome::kFixed);
  for (const auto& [how, right] :
       {std::pair(kWriteFault, Access::Write()), std::pair(kFetch, Access::Execute())}) {
    const FaultResult fault = Touch(Gpa(0x1000), how);
    EXPECT_EQ(fault.outcome, FaultOutcome::kViewDenied);
    EXPECT_EQ(fault.denied, right);
  }
  EXPECT_EQ(vm_->Translate(Gpa(0x1000))->access, Access::Read());
  EXPECT_FALSE(EntryAt(Gpa(0x1000)).host_writable()) << "no fault may give W back";
}

TEST_F(HostFramesTest, TheTypeIsTheSlotsAndCombinesAsTheHostsWould) {
  Start();
  MemoryRegion device = Frames(Gpa(0), MiB(2), Hpa(0xfee00000 - MiB(2)));
  device.memory_type = MemoryType::kUncacheable;
  Set(device);
  Set({.slot = 1, .flags = kSlotHostFrames, .gpa = Gpa(MiB(4)), .size = MiB(2), .hpa = Hpa(0)});
  for (const Gpa gpa : {Gpa(0), Gpa(MiB(4))}) Map(gpa);
  EXPECT_EQ(EntryAt(Gpa(0)).memory_type(), MemoryType::kUncacheable);
  EXPECT_FALSE(EntryAt(Gpa(0)).ignore_pat());
  EXPECT_EQ(EntryAt(Gpa(MiB(4))).memory_type(), MemoryType::kWriteBack);
  ASSERT_TRUE(vm_->SetMemoryTypes({.non_coherent_dma = true}).ok());
  for (const Gpa gpa : {Gpa(0), Gpa(MiB(4))}) Map(gpa);
  EXPECT_EQ(EntryAt(Gpa(MiB(4))).memory_type(), MemoryType::kUncacheable) << "by the guest's MTRRs";
}

TEST_F(HostFramesTest, InvalidationsOfHostMemoryAreNotAboutThem) {
  Start();
  Set(Frames(Gpa(0), GiB(1), Hpa(0)));
  ASSERT_EQ(vm_->BeginHostInvalidation(Hva(0), TiB(1)), absl::OkStatus());
  const FaultResult fault = Touch(Gpa(MiB(4)), kWriteFault);
  EXPECT_EQ(fault.outcome, FaultOutcome::kFixed) << "its addresses are of another kind";
  EXPECT_EQ(fault.level, kLevel1G);
  vm_->EndHostInvalidation();
  EXPECT_TRUE(vm_->Translate(Gpa(MiB(4))).ok());
  EXPECT_FALSE(*vm_->TestAge(Hva(0), TiB(1)));
}

TEST_F(HostFramesTest, AReadOnlySlotMakesWritesMmio) {
  Start();
  Set(Frames(Gpa(0), MiB(2), Hpa(GiB(1)), kSlotReadOnly));
  EXPECT_EQ(Touch(Gpa(0), kWriteFault).outcome, FaultOutcome::kMmio);
  EXPECT_EQ(Touch(Gpa(0), kReadFault).outcome, FaultOutcome::kFixed);
  EXPECT_FALSE(vm_->Translate(Gpa(0))->access.can_write());
}

TEST_F(HostFramesTest, ASlotThatMovesOrGoesTakesItsMappingsAlong) {
  Start();
  MemoryRegion region = Frames(Gpa(0), MiB(4), Hpa(GiB(1)));
  Set(region);
  Map(Gpa(0));
  region.gpa = Gpa(MiB(16));
  Set(region);
  EXPECT_EQ(HpaOf(Gpa(0)), Hpa(0));
  Map(Gpa(MiB(16)));
  EXPECT_EQ(HpaOf(Gpa(MiB(16))), Hpa(GiB(1)));
  Set({.slot = 0, .size = 0});
  EXPECT_EQ(HpaOf(Gpa(MiB(16))), Hpa(0));
}

TEST_F(HostFramesTest, WhatIsBadIsRefusedByNameAndValueAndNothingChanges) {
  const ByteCount end = uint64_t{1} << host_.offered.physical_address_bits;
  Start();
  const MemoryRegion good = Frames(Gpa(0), MiB(2), Hpa(GiB(1)));
  const auto refuse = [&](auto change, const std::string& what) {
    MemoryRegion bad = good;
    change(bad);
    const absl::Status status = vm_->SetMemoryRegion(bad);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(what));
  };
  refuse([](MemoryRegion& r) { r.hva = kRam; }, "hva = 0x10000000000");
  refuse([](MemoryRegion& r) { r.hpa = Hpa(0x1800); }, "hpa = 0x1800");
  refuse([end](MemoryRegion& r) { r.hpa = Hpa(end - MiB(1)); }, "MAXPHYADDR");
  refuse([](MemoryRegion& r) { r.hpa = Hpa(~uint64_t{0xfff}); }, "hpa = 0xfffffffffffff000");
  refuse([](MemoryRegion& r) { r.rights = Access::Write(); }, "-w--");
  refuse([](MemoryRegion& r) { r.memory_type = static_cast<MemoryType>(3); }, "memory_type = 0x3");
  refuse([](MemoryRegion& r) { r.flags = 0; }, "hpa = 0x40000000");
  refuse([](MemoryRegion& r) { r.flags |= kSlotPrivateMemory; }, "flags = 0x44");
  Set(good);
  refuse([](MemoryRegion& r) { r.hpa = Hpa(GiB(2)); }, "hpa = 0x80000000");
  refuse([](MemoryRegion& r) { r.rights = Access::Read(); }, "rights = 0x1");
  refuse([](MemoryRegion& r) { r.memory_type = MemoryType::kUncacheable; }, "memory_type = 0x0");
  refuse([](MemoryRegion& r) { r.cookie = 5; }, "cookie = 0x5");
  Set({.slot = 1, .gpa = Gpa(MiB(8)), .size = MiB(2), .hva = kRam});
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->SetMemoryRegion(
      {.slot = 1, .flags = kSlotHostFrames, .gpa = Gpa(MiB(8)), .size = MiB(2)})))
      << "a slot keeps its kind";
  EXPECT_EQ(Touch(Gpa(0), kReadFault).outcome, FaultOutcome::kFixed);
  EXPECT_EQ(HpaOf(Gpa(0)), Hpa(GiB(1)));
}

TEST_F(HostFramesTest, ExecuteOnlyNeedsACpuThatHasIt) {
  host_.offered.ept = host_.offered.ept.Without(ept::kCapExecuteOnly);
  Start();
  MemoryRegion region = Frames(Gpa(0), MiB(2), Hpa(GiB(1)));
  region.rights = Access::Execute();
  EXPECT_THAT(std::string(vm_->SetMemoryRegion(region).message()), HasSubstr("execute-only"));
}

// --- Populate

TEST_F(HostFramesTest, AnIdentityMapOf512GiBIsOneTableBelowTheRootAndOneBlock) {
  Start();
  vcpu_.reset();
  Set(Frames(Gpa(0), GiB(512), Hpa(0)));
  const ByteCount reserved = vm_->Stats().table_bytes_reserved;
  EXPECT_EQ(*vm_->Populate(Gpa(0), GiB(512)), GiB(512));
  EXPECT_EQ(host_.resolves, 0);
  EXPECT_EQ(vm_->Stats().tables_in_use, 2u);
  EXPECT_EQ(vm_->Stats().table_bytes_reserved, kTableBlockBytes);
  EXPECT_LE(reserved, kTableBlockBytes);
  for (uint64_t gib : {0, 1, 255, 511}) {
    const Gpa gpa(GiB(gib) + 0x5000);
    EXPECT_EQ(HpaOf(gpa).raw() + 0x5000 % kPageSize, gpa.raw());
    EXPECT_EQ(vm_->Translate(gpa)->level, kLevel1G);
    EXPECT_EQ(vm_->Translate(gpa)->access, Access::All());
  }
}

TEST_F(HostFramesTest, PopulateUsesWholeTablesWhereLargeLeavesCanNotBe) {
  Start({.max_leaf_level = kLevel4K});
  Set(Frames(Gpa(0x3000), MiB(8), Hpa(GiB(3))));
  EXPECT_EQ(*vm_->Populate(Gpa(0x3000), MiB(8)), MiB(8));
  EXPECT_EQ(host_.resolves, 0);
  for (const ByteCount at : {ByteCount{0}, MiB(4), MiB(8) - kPageSize}) {
    EXPECT_EQ(HpaOf(Gpa(0x3000 + at)), Hpa(GiB(3) + at));
  }
}

TEST_F(HostFramesTest, PopulateAsksTheHostForSlotsOfHostMemory) {
  host_.order = 9;
  Start();
  Set({.gpa = Gpa(0), .size = MiB(64), .hva = kRam});
  EXPECT_EQ(*vm_->Populate(Gpa(0), MiB(64)), MiB(64));
  EXPECT_GT(host_.resolves, 0);
  EXPECT_EQ(vm_->Translate(Gpa(MiB(30)))->level, kLevel2M);
  host_.missing = {kRam + MiB(64)};
  Set({.slot = 1, .gpa = Gpa(MiB(64)), .size = MiB(2), .hva = kRam + MiB(64)});
  EXPECT_EQ(*vm_->Populate(Gpa(MiB(62)), MiB(4)), MiB(2)) << "up to what is not there";
  host_.answer = absl::UnavailableError("later");
  EXPECT_TRUE(absl::IsUnavailable(vm_->Populate(Gpa(MiB(64)), MiB(2)).status()));
  host_.answer = absl::OkStatus();
}

// W is missing where a log was until now, and aging without A bits took every right.
TEST_F(HostFramesTest, PopulateGivesBackWhatLogsAndAgingHaveTaken) {
  for (const Level largest : {kLevel4K, kLevel1G}) {
    SCOPED_TRACE(largest.raw());
    vcpu_ = nullptr;
    vm_ = nullptr;
    Start({.accessed_dirty = Use::kNever, .max_leaf_level = largest});
    Set(Frames(Gpa(0), MiB(4), Hpa(GiB(4))));
    MemoryRegion ram{.slot = 1, .gpa = Gpa(MiB(4)), .size = MiB(4), .hva = kRam};
    Set(ram);
    ASSERT_EQ(*vm_->Populate(Gpa(0), MiB(8)), MiB(8));
    Set(Frames(Gpa(0), MiB(4), Hpa(GiB(4)), kSlotLogDirtyPages));
    ASSERT_EQ(*vm_->Populate(Gpa(0), MiB(4)), MiB(4));
    EXPECT_FALSE(vm_->Translate(Gpa(0))->access.can_write()) << "the log has to see it";
    Set(Frames(Gpa(0), MiB(4), Hpa(GiB(4))));
    AgeResult aged = *vm_->AgeHostRange(kRam, MiB(4));
    aged.flush.Settle();
    EXPECT_FALSE(vm_->Translate(Gpa(MiB(5)))->access.can_read());
    ASSERT_EQ(*vm_->Populate(Gpa(0x1000), MiB(8) - 0x1000), MiB(8) - 0x1000);
    for (const uint64_t at : {uint64_t{0x1000}, MiB(3), MiB(4), MiB(5)}) {
      EXPECT_EQ(vm_->Translate(Gpa(at))->access, Access::All()) << at;
    }
    EXPECT_EQ(host_.kicks, 0);
  }
}

TEST_F(HostFramesTest, WhatIsPopulatedIsNeitherAccessedNorDirty) {
  Start();
  Set(Frames(Gpa(0), GiB(1), Hpa(GiB(4))));
  Set({.slot = 1, .gpa = Gpa(GiB(1)), .size = MiB(2), .hva = kRam});
  ASSERT_EQ(*vm_->Populate(Gpa(0), GiB(1) + MiB(2)), GiB(1) + MiB(2));
  for (const Gpa gpa : {Gpa(0), Gpa(GiB(1))}) {
    EXPECT_FALSE(EntryAt(gpa).accessed() || EntryAt(gpa).dirty());
  }
}

TEST_F(HostFramesTest, PopulateStopsAtAHoleAndSaysWhatIsInTheWay) {
  Start();
  Set(Frames(Gpa(0), MiB(4), Hpa(0)));
  EXPECT_EQ(*vm_->Populate(Gpa(MiB(2)), MiB(8)), MiB(2));
  EXPECT_TRUE(absl::IsNotFound(vm_->Populate(Gpa(MiB(4)), MiB(2)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->Populate(Gpa(1), MiB(2)).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->Populate(Gpa(0), 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->Populate(Gpa(0), MiB(2), 1).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->Populate(Gpa(TiB(256) - MiB(2)), MiB(4)).status()));
  EXPECT_TRUE(absl::IsNotFound(vm_->Populate(Gpa(0), MiB(2), 0, 7).status()));
}

TEST_F(HostFramesTest, PopulateMapsWhatIsExecuteOnlyAndStopsAtWhatIsDeniedAltogether) {
  Start();
  Set(Frames(Gpa(0), MiB(2), Hpa(0)));
  ASSERT_TRUE(vm_->SetViewRights(kBaseView, Gfn(1), PageCount(1), Access::Execute()).ok());
  ASSERT_TRUE(vm_->SetViewRights(kBaseView, Gfn(8), PageCount(1), Access::None()).ok());
  EXPECT_EQ(*vm_->Populate(Gpa(0), MiB(2)), 0x8000u);
  EXPECT_FALSE(vm_->Translate(Gpa(0x1000))->access.can_read());
  EXPECT_TRUE(absl::IsPermissionDenied(vm_->Populate(Gpa(0x8000), 0x1000).status()));
  EXPECT_EQ(*vm_->Populate(Gpa(0x9000), 0x1000), 0x1000u);
}

TEST_F(HostFramesTest, PopulateMapsNothingOfASlotThatDeniesAll) {
  Start({.max_leaf_level = kLevel4K});
  MemoryRegion denied = Frames(Gpa(0), MiB(2), Hpa(0));
  denied.rights = Access::None();
  Set(denied);
  EXPECT_TRUE(absl::IsPermissionDenied(vm_->Populate(Gpa(0), MiB(2)).status()));
  EXPECT_FALSE(vm_->Translate(Gpa(0)).ok());
}

TEST_F(HostFramesTest, PopulateOfAnotherViewLeavesTheBaseAlone) {
  Start();
  Set(Frames(Gpa(0), MiB(2), Hpa(0)));
  const ViewId view = *vm_->CreateView();
  EXPECT_EQ(*vm_->Populate(Gpa(0), MiB(2), 0, view), MiB(2));
  EXPECT_TRUE(vm_->Translate(Gpa(0), 0, view).ok());
  EXPECT_FALSE(vm_->Translate(Gpa(0)).ok());
  EXPECT_TRUE(vm_->DestroyView(view).ok()) << "no user is left in it";
}

TEST_F(HostFramesTest, WithoutTablesPopulateSaysSoAndTheRestIsAsItWas) {
  Start({.max_leaf_level = kLevel4K, .table_quota = 120});
  Set(Frames(Gpa(0), GiB(1), Hpa(0)));
  const auto mapped = vm_->Populate(Gpa(0), GiB(1));
  ASSERT_TRUE(mapped.ok());
  EXPECT_LT(*mapped, GiB(1));
  EXPECT_TRUE(absl::IsResourceExhausted(vm_->Populate(Gpa(*mapped), GiB(1) - *mapped).status()));
}

// --- Dirty logs, on software CPUs

class HostFramesThatLog : public testing::TestWithParam<DirtyTracking> {};

TEST_P(HostFramesThatLog, WritesAreShownOnceForEachTakeAndPopulateMarksNothing) {
  ViewingGuest guest({.vm = {.dirty_tracking = GetParam()}});
  const Hva hva = ViewingGuest::kRam;
  ASSERT_TRUE(guest.memory().Map(hva, MiB(2), {.order = 9}).ok());
  const Hpa hpa = guest.memory().Resolve(hva, Access::Read())->hfn.address();
  ASSERT_TRUE(guest.vm().SetMemoryRegion(Frames(Gpa(0), MiB(2), hpa, kSlotLogDirtyPages)).ok());
  const auto take = [&] {
    uint64_t pages = 0;
    EXPECT_TRUE(guest.vm().TakeDirtyLog(0, [&](uint64_t, uint64_t mask) { pages |= mask; }).ok());
    return pages;
  };
  EXPECT_EQ(*guest.vm().Populate(Gpa(0), MiB(2)), MiB(2));
  EXPECT_EQ(take(), 0u);
  for (int round = 0; round < 2; ++round) {
    EXPECT_EQ(guest.Store(Gpa(0x3008)), FaultOutcome::kFixed);
    EXPECT_EQ(guest.last_hpa, hpa + 0x3008);
    EXPECT_EQ(take(), 8u) << "round " << round;
  }
}

INSTANTIATE_TEST_SUITE_P(Tracking, HostFramesThatLog,
                         testing::Values(DirtyTracking::kWriteProtection,
                                         DirtyTracking::kDirtyBits),
                         NameOfTracking);

// --- Rights and types of the base view

TEST(BaseView, HasRightsOfItsOwnByRange) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4), 9);
  EXPECT_EQ(guest.Store(Gpa(0x3000)), FaultOutcome::kFixed);
  ASSERT_EQ(guest.vm().SetViewRights(kBaseView, Gfn(3), PageCount(2), Access::ReadExecute()),
            absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x3000)), FaultOutcome::kViewDenied);
  EXPECT_EQ(guest.last.denied, Access::Write());
  EXPECT_EQ(guest.Load(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(guest.Store(Gpa(0x5000)), FaultOutcome::kFixed);
  const ViewId other = *guest.vm().CreateView();
  ASSERT_EQ(guest.vcpu().SetView(other), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x3000)), FaultOutcome::kFixed) << "they are the base's alone";
  ASSERT_EQ(guest.vcpu().SetView(kBaseView), absl::OkStatus());
  ASSERT_EQ(guest.vm().SetViewRights(kBaseView, Gfn(3), PageCount(2), Access::All()),
            absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x3000)), FaultOutcome::kFixed);
}

TEST(BaseView, RightsAndTypeOfARangeLeaveEachOtherAsTheyAre) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4), 9);
  Vm& vm = guest.vm();
  const ViewMemoryType uncached{MemoryType::kUncacheable};
  ASSERT_EQ(vm.SetViewRights(kBaseView, Gfn(0), PageCount(8), Access::ReadExecute()),
            absl::OkStatus());
  ASSERT_EQ(vm.SetViewMemoryType(kBaseView, Gfn(4), PageCount(8), uncached), absl::OkStatus());
  ASSERT_EQ(vm.SetViewRights(kBaseView, Gfn(10), PageCount(2), Access::Read()), absl::OkStatus());
  for (uint64_t page = 0; page < 14; ++page) {
    const Gpa gpa(page * kPageSize);
    const bool is_writable = page == 8 || page == 9 || page >= 12;
    EXPECT_EQ(guest.Store(gpa), is_writable ? FaultOutcome::kFixed : FaultOutcome::kViewDenied)
        << page;
    EXPECT_EQ(guest.Load(gpa), FaultOutcome::kFixed);
    EXPECT_EQ(vm.Translate(gpa)->entry.memory_type() == MemoryType::kUncacheable,
              page >= 4 && page < 12)
        << page;
  }
}

TEST(BaseView, HasMemoryTypesByRangeThatStandWhateverTheMtrrsSay) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4), 9);
  const auto type_at = [&](Gpa gpa) {
    EXPECT_EQ(guest.Load(gpa), FaultOutcome::kFixed);
    return guest.vm().Translate(gpa)->entry;
  };
  ASSERT_EQ(guest.vm().SetViewMemoryType(kBaseView, Gfn(0), PageCount(16),
                                         ViewMemoryType{MemoryType::kWriteCombining, false}),
            absl::OkStatus());
  EXPECT_EQ(type_at(Gpa(0x3000)).memory_type(), MemoryType::kWriteCombining);
  EXPECT_FALSE(type_at(Gpa(0x3000)).ignore_pat());
  EXPECT_EQ(type_at(Gpa(0x10000)).memory_type(), MemoryType::kWriteBack);
  EXPECT_EQ(guest.LevelOf(Gpa(0x3000)), 1);
  ASSERT_EQ(guest.vm().SetMemoryTypes({.non_coherent_dma = true}), absl::OkStatus());
  EXPECT_EQ(type_at(Gpa(0x3000)).memory_type(), MemoryType::kWriteCombining);
  EXPECT_EQ(type_at(Gpa(0x10000)).memory_type(), MemoryType::kUncacheable);
  ASSERT_EQ(guest.vm().SetViewMemoryType(kBaseView, Gfn(0), PageCount(16), std::nullopt),
            absl::OkStatus());
  EXPECT_EQ(type_at(Gpa(0x3000)).memory_type(), MemoryType::kUncacheable);
  EXPECT_TRUE(absl::IsInvalidArgument(guest.vm().SetViewMemoryType(
      kBaseView, Gfn(0), PageCount(1), ViewMemoryType{static_cast<MemoryType>(2)})));
}

TEST_F(HostFramesTest, OneFrameThatAViewShowsKeepsTheLeavesAroundItSmall) {
  host_.order = 9;
  Start();
  Set({.size = MiB(4), .hva = Hva(TiB(1))});
  ASSERT_EQ(vm_->SetViewFrames(kBaseView, Gfn(5), PageCount(1), Hfn(0x77)), absl::OkStatus());
  for (const uint64_t gpa : {uint64_t{0}, uint64_t{0x5000}, MiB(2)}) {
    EXPECT_EQ(Touch(Gpa(gpa), kReadFault).outcome, FaultOutcome::kFixed);
  }
  EXPECT_EQ(LevelOf(Gpa(0)), 1);
  EXPECT_EQ(HpaOf(Gpa(0x5000)), Hpa(0x77000));
  EXPECT_EQ(LevelOf(Gpa(MiB(2))), 2);
}

TEST_F(HostFramesTest, ATypeOfTheHostThatIsNoPlainMemoryStandsWhateverTheMtrrsSay) {
  constexpr uint64_t kMtrrsOnAndWriteBack = 1 << 11 | 6;
  host_.memory_type = MemoryType::kWriteThrough;
  Start();
  Set({.size = MiB(4), .hva = Hva(TiB(1))});
  ASSERT_EQ(vm_->SetMemoryTypes(
                {.non_coherent_dma = true, .mtrrs = {.default_type = kMtrrsOnAndWriteBack}}),
            absl::OkStatus());
  EXPECT_EQ(Touch(Gpa(0), kReadFault).outcome, FaultOutcome::kFixed);
  EXPECT_EQ(EntryAt(Gpa(0)).memory_type(), MemoryType::kWriteThrough);
}

// The guest could do nothing about what the slot denies.
TEST_F(HostFramesTest, AViewRaisesNothingWhereTheSlotDeniesMore) {
  host_.offered.ve = true;
  Start({.virtualization_exceptions = Use::kRequire});
  for (const Access rights : {Access::All(), Access::ReadWrite()}) {
    MemoryRegion region = Frames(Gpa(0), MiB(2), Hpa(GiB(1)));
    region.rights = rights;
    Set(region);
    const ViewId view = *vm_->CreateView();
    ASSERT_EQ(vm_->SetViewRights(view, Gfn(1), PageCount(1), Access::ReadExecute()),
              absl::OkStatus());
    ASSERT_EQ(vm_->SetRaisesVe(view, Gfn(1), PageCount(1), true), absl::OkStatus());
    ASSERT_EQ(vcpu_->SetView(view), absl::OkStatus());
    EXPECT_EQ(Touch(Gpa(0x1000), kReadFault).outcome, FaultOutcome::kFixed);
    EXPECT_EQ(vm_->Translate(Gpa(0x1000), 0, view)->entry.suppress_ve(), rights != Access::All());
    Set({.size = 0});
  }
}

// --- Guests whose tables are shadowed

TEST_F(HostFramesTest, NestedAndReverseMappedVmsMapThemToo) {
  for (const VmOptions& options : {VmOptions{.nested = true}, VmOptions{.reverse_map = true}}) {
    vcpu_.reset();
    Start(options);
    Set(Frames(Gpa(0), MiB(4), Hpa(GiB(1))));
    EXPECT_EQ(Touch(Gpa(0x1000), kWriteFault).outcome, FaultOutcome::kFixed);
    EXPECT_EQ(HpaOf(Gpa(0x1000)), Hpa(GiB(1) + 0x1000));
    EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
  }
  EXPECT_EQ(host_.resolves, 0);
}

// Nobody asked for the rest of a split page to go: a guest that is mapped ahead must not fault on
// it.
TEST_F(HostFramesTest, AZapSplitsTheLargePagesOfEveryViewAtItsEnds) {
  Start();
  Set(Frames(Gpa(0), GiB(4), Hpa(0)));
  vm_->ZapRange(Gfn(0), PageCount(1))->Settle();  // keeps at hand what one view may need
  for (ViewId view = 0; view < 6; ++view) {
    if (view != kBaseView) {
      ASSERT_EQ(*vm_->CreateView(), view);
    }
    ASSERT_EQ(*vm_->Populate(Gpa(0), GiB(4), 0, view), GiB(4));
  }
  // The first range is one page in the midst of the first GiB, the second reaches into two of them.
  vm_->ZapRange(Gfn(0x1234), PageCount(1))->Settle();
  vm_->ZapRange(Gfn(0xbffff), PageCount(2))->Settle();
  for (ViewId view = 0; view < 6; ++view) {
    const auto is_mapped = [&](Gpa gpa) { return vm_->Translate(gpa, 0, view).ok(); };
    EXPECT_FALSE(is_mapped(Gpa(0x1234000)) || is_mapped(Gpa(GiB(3)))) << view;
    for (const uint64_t gpa : {uint64_t{0x1233000}, uint64_t{0x1235000}, GiB(1) - kPageSize, GiB(2),
                               GiB(3) - 2 * kPageSize, GiB(3) + kPageSize, GiB(4) - kPageSize}) {
      EXPECT_TRUE(is_mapped(Gpa(gpa))) << view << " at " << gpa;
    }
  }
}

// The first ones use up the tables that are kept at hand.
TEST_F(HostFramesTest, EachOfManyZapsSplitsTheLargePagesAtItsEnds) {
  Start();
  Set(Frames(Gpa(0), GiB(8), Hpa(0)));
  ASSERT_EQ(*vm_->Populate(Gpa(0), GiB(8)), GiB(8));
  for (uint64_t gib = 0; gib < 8; ++gib) {
    vm_->ZapRange(Gfn::Of(Gpa(GiB(gib) + 0x1234000)), PageCount(1))->Settle();
    EXPECT_FALSE(IsMapped(Gpa(GiB(gib) + 0x1234000))) << gib;
    EXPECT_TRUE(IsMapped(Gpa(GiB(gib) + 0x1235000))) << gib;
    EXPECT_TRUE(IsMapped(Gpa(GiB(gib + 1) - kPageSize))) << gib;
  }
}

TEST_F(HostFramesTest, AZapSplitsTheLargePagesAtItsEndsAfterTablesWereShort) {
  Start();
  Set(Frames(Gpa(0), GiB(4), Hpa(0)));
  for (int round = 0; round < 3; ++round) {
    ASSERT_EQ(*vm_->Populate(Gpa(0), GiB(4)), GiB(4));
    vm_->ZapRange(Gfn(0x1234), PageCount(1))->Settle();
    EXPECT_FALSE(IsMapped(Gpa(0x1234000))) << round;
    EXPECT_TRUE(IsMapped(Gpa(0x1235000)) && IsMapped(Gpa(GiB(1) - kPageSize))) << round;
    vm_->ZapRange(Gfn(0x1234), PageCount(1))->Settle();  // needs none: a full stock is kept
    ASSERT_EQ(vm_->SetTableQuota(1), absl::OkStatus());  // which goes, too
    ASSERT_EQ(vm_->SetTableQuota(kQuotaByMemory), absl::OkStatus());
  }
}

// With a second view more are wanted than the quota leaves, but two are enough.
TEST_F(HostFramesTest, AZapNearTheQuotaSplitsWithWhatThereIs) {
  Start();
  Set(Frames(Gpa(0), MiB(4), Hpa(0)));
  const ViewId view = *vm_->CreateView();
  for (const ViewId each : {kBaseView, view}) {
    ASSERT_EQ(*vm_->Populate(Gpa(0), MiB(4), 0, each), MiB(4));
  }
  ASSERT_EQ(vm_->SetTableQuota(vm_->Stats().tables_in_use + 6), absl::OkStatus());
  vm_->ZapRange(Gfn(5), PageCount(1))->Settle();
  for (const ViewId each : {kBaseView, view}) {
    EXPECT_FALSE(vm_->Translate(Gpa(0x5000), 0, each).ok()) << each;
    EXPECT_TRUE(vm_->Translate(Gpa(0x6000), 0, each).ok()) << each;
  }
}

TEST_F(HostFramesTest, ABatchOfZapsSplitsTheLargePagesAtTheEndsOfEach) {
  Start();
  Set(Frames(Gpa(0), GiB(8), Hpa(0)));
  ASSERT_EQ(*vm_->Populate(Gpa(0), GiB(8)), GiB(8));
  std::vector<Change> changes;
  for (uint64_t gib = 0; gib < 8; ++gib) {
    changes.push_back(Change::Zap(Gfn::Of(Gpa(GiB(gib) + 0x1234000)), PageCount(1)));
  }
  ASSERT_EQ(vm_->Apply(changes), absl::OkStatus());
  for (uint64_t gib = 0; gib < 8; ++gib) {
    EXPECT_FALSE(vm_->Translate(Gpa(GiB(gib) + 0x1234000)).ok()) << gib;
    EXPECT_TRUE(vm_->Translate(Gpa(GiB(gib) + 0x1235000)).ok()) << gib;
    EXPECT_TRUE(vm_->Translate(Gpa(GiB(gib + 1) - kPageSize)).ok()) << gib;
  }
}

}  // namespace
}  // namespace tdp
