// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/space/view.h"

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/mmu/format/ept_format.h"
#include "tests/mmu/viewing_guest.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/test_host.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr FaultOutcome kDone = FaultOutcome::kFixed;
constexpr FaultOutcome kDenied = FaultOutcome::kViewDenied;
constexpr PageCount kPage{1};

Access ReadOnly() { return Access::ReadExecute(); }
Access ExecuteOnly() { return Access::Execute() | Access::UserExecute(); }

// The shortest way of a fault, for a page beside the last one, knows no rules.
TEST(Views, APageBesideOnesThatWereJustMappedIsDeniedWhatTheViewDenies) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(2));
  ASSERT_EQ(guest.vm().SetViewRights(kBaseView, Gfn(5), PageCount(1), Access::ReadExecute()),
            absl::OkStatus());
  for (const uint64_t page : {2, 3, 4}) EXPECT_EQ(guest.Store(Gpa(page * kPageSize)), kDone);
  EXPECT_EQ(guest.Store(Gpa(0x5000)), FaultOutcome::kViewDenied);
  EXPECT_EQ(guest.Store(Gpa(0x6000)), kDone);
}

TEST(Views, AReadOnlyPageOfAViewIsWritableInTheBase) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(3), kPage, ReadOnly()), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x3000)), kDone);
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  EXPECT_EQ(guest.Load(Gpa(0x3000)), kDone);
  EXPECT_EQ(guest.Store(Gpa(0x3000)), kDenied);
  EXPECT_EQ(guest.last.denied, Access::Write());
  EXPECT_EQ(guest.Store(Gpa(0x2000)), kDone);
  ASSERT_EQ(guest.vcpu().SetView(kBaseView), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x3000)), kDone);
  EXPECT_EQ(guest.vm().Stats().faults.view_denied, 1u);
}

// The hook of an introspection tool: a page that runs and cannot be read.
TEST(Views, AnExecuteOnlyPageRunsAndReportsReadsAndWrites) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4), 9);
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  EXPECT_EQ(guest.Load(Gpa(0x5000)), kDone);
  EXPECT_EQ(guest.LevelOf(Gpa(0x5000), view), 2);
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(5), kPage, ExecuteOnly()), absl::OkStatus());
  EXPECT_EQ(guest.LevelOf(Gpa(0x4000), view), 1) << "what is around it stays mapped";
  EXPECT_EQ(guest.Load(Gpa(0x5000)), kDenied);
  EXPECT_EQ(guest.last.denied, Access::Read());
  EXPECT_EQ(guest.Fetch(Gpa(0x5000)), kDone);
  EXPECT_EQ(guest.Load(Gpa(0x5000)), kDenied) << "also where it is mapped";
  EXPECT_EQ(guest.Store(Gpa(0x5000)), kDenied);
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(5), kPage, Access::All()), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x5000)), kDone);
}

TEST(Views, ALeafIsAsLargeAsItsRightsAreUniform) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(8), 9);
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(512), PageCount(513), ReadOnly()), absl::OkStatus());
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  for (uint64_t mib = 0; mib < 8; mib += 2) EXPECT_EQ(guest.Load(Gpa(MiB(mib))), kDone);
  EXPECT_EQ(guest.LevelOf(Gpa(0), view), 2);
  EXPECT_EQ(guest.LevelOf(Gpa(MiB(2)), view), 2);
  EXPECT_EQ(guest.LevelOf(Gpa(MiB(4)), view), 1) << "its first page is read-only, the rest is not";
  EXPECT_EQ(guest.LevelOf(Gpa(MiB(6)), view), 2);
}

TEST(Views, WhatIsTakenFromTheBaseIsTakenFromEveryView) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vcpu(1).SetView(view), absl::OkStatus());
  const auto fill = [&] {
    EXPECT_EQ(guest.Store(Gpa(0x3000), 0), kDone);
    EXPECT_EQ(guest.Store(Gpa(0x3000), 1), kDone);
    EXPECT_EQ(guest.LevelOf(Gpa(0x3000), view), 1);
  };
  fill();
  guest.Settle(guest.vm().ZapRange(Gfn(3), kPage));
  EXPECT_EQ(guest.LevelOf(Gpa(0x3000), view), 0);
  fill();
  guest.Settle(guest.vm().ZapAll());
  EXPECT_EQ(guest.LevelOf(Gpa(0x3000), view), 0);
  fill();
  ASSERT_EQ(guest.vm().BeginHostInvalidation(ViewingGuest::kRam, MiB(1)), absl::OkStatus());
  ASSERT_EQ(guest.memory().Migrate(ViewingGuest::kRam, MiB(1)), absl::OkStatus());
  guest.vm().EndHostInvalidation();
  EXPECT_EQ(guest.LevelOf(Gpa(0x3000), view), 0);
  fill();
  ASSERT_EQ(guest.vm().SetMemoryTypes({.non_coherent_dma = true}), absl::OkStatus());
  EXPECT_EQ(guest.LevelOf(Gpa(0x3000), view), 0);
  EXPECT_EQ(guest.Store(Gpa(0x3000), 1), kDone);
  EXPECT_EQ(guest.vm().Translate(Gpa(0x3000), 0, view)->entry.memory_type(),
            MemoryType::kUncacheable);
  ASSERT_EQ(guest.vm().SetMemoryRegion({.slot = 0, .size = 0}), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x3000), 1), FaultOutcome::kMmio);
}

TEST(Views, AgingSplittingAndCollapsingReachEveryView) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4), 9);
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(0), PageCount(512), ReadOnly()), absl::OkStatus());
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  EXPECT_EQ(guest.Load(Gpa(0)), kDone);
  EXPECT_TRUE(*guest.vm().TestAge(ViewingGuest::kRam, MiB(2)));
  auto aged = guest.vm().AgeHostRange(ViewingGuest::kRam, MiB(2));
  ASSERT_TRUE(aged.ok());
  aged->flush.Settle();
  EXPECT_TRUE(aged->young);
  EXPECT_FALSE(*guest.vm().TestAge(ViewingGuest::kRam, MiB(2)));
  guest.Settle(guest.vm().SplitRange(Gfn(0), PageCount(512)));
  EXPECT_EQ(guest.LevelOf(Gpa(0), view), 1);
  EXPECT_EQ(*guest.vm().CollapseRange(Gfn(0), PageCount(512)), 1u);
  EXPECT_EQ(guest.LevelOf(Gpa(0), view), 2);
  EXPECT_EQ(guest.Store(Gpa(0)), kDenied) << "the rule holds for the large leaf";
}

TEST(Views, APageIsYoungIfAnyViewUsesIt) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(guest.vm().CreateView().ok());
  EXPECT_EQ(guest.Load(Gpa(0x3000)), kDone);
  EXPECT_TRUE(*guest.vm().TestAge(ViewingGuest::kRam, MiB(2)));
  auto aged = guest.vm().AgeHostRange(ViewingGuest::kRam, MiB(2));
  ASSERT_TRUE(aged.ok());
  aged->flush.Settle();
  EXPECT_TRUE(aged->young);
}

TEST(Views, RightsThatAgingTakesInOneViewOweAFlush) {
  ViewingGuest guest({.vm = {.accessed_dirty = Use::kNever}});
  guest.AddSlot(Gpa(0), MiB(4));
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(guest.vm().CreateView().ok());
  for (const ViewId view : {0, 1, 2}) {
    ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
    EXPECT_EQ(guest.Load(Gpa(0x3000 + view * kPageSize)), kDone);
    const Hva page = ViewingGuest::kRam + 0x3000 + view * kPageSize;
    auto aged = guest.vm().AgeHostRange(page, kPageSize);
    ASSERT_TRUE(aged.ok());
    EXPECT_TRUE(aged->young) << view;
    EXPECT_TRUE(aged->flush.is_owed()) << view;
    aged->flush.Settle();
  }
}

// The end of a log gives W back where the host allows it, which may be more than the view allows.
TEST(Views, TheEndOfALogGivesNoWriteThatTheViewDenies) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4), 9);
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(0), PageCount(1024), Access::ReadExecute()),
            absl::OkStatus());
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  EXPECT_EQ(guest.Load(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_FALSE(guest.vm().Translate(Gpa(0x3000), 0, view)->entry.host_writable());
  guest.SetSlot(Gpa(0), MiB(4), kSlotLogDirtyPages);
  EXPECT_EQ(guest.vm().PushDownDirtyLog(0), absl::OkStatus());
  guest.SetSlot(Gpa(0), MiB(4), 0);
  EXPECT_EQ(guest.Load(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_FALSE(guest.vm().Translate(Gpa(0x3000), 0, view)->access.can_write());
}

class ViewsOfLoggingSlots : public testing::TestWithParam<DirtyTracking> {};

TEST_P(ViewsOfLoggingSlots, AWriteThroughAnyViewIsShownOnceForEachTake) {
  ViewingGuest guest({.vm = {.dirty_tracking = GetParam()}});
  guest.AddSlot(Gpa(0), MiB(4), 9);
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(7), kPage, ReadOnly()), absl::OkStatus());
  ASSERT_EQ(guest.vcpu(1).SetView(view), absl::OkStatus());
  for (int cpu : {0, 1}) EXPECT_EQ(guest.Store(Gpa(0x3000), cpu), kDone);
  guest.SetSlot(Gpa(0), MiB(4), kSlotLogDirtyPages);
  const auto take = [&] { return TakenPages(guest.vm()); };
  EXPECT_THAT(take(), testing::IsEmpty());
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(guest.Store(Gpa(0x3000), 1), kDone);
    EXPECT_THAT(take(), testing::ElementsAre(3)) << "through the view, round " << round;
    EXPECT_EQ(guest.Store(Gpa(0x4000), 0), kDone);
    EXPECT_EQ(guest.Store(Gpa(0x5000), 1), kDone);
    EXPECT_THAT(take(), testing::ElementsAre(4, 5)) << "through both, round " << round;
  }
  EXPECT_EQ(guest.Store(Gpa(0x7000), 1), kDenied) << "the view denies what the log would mark";
  EXPECT_THAT(take(), testing::IsEmpty());
  EXPECT_EQ(guest.vm().PushDownDirtyLog(0), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x7000), 1), kDenied);
  guest.SetSlot(Gpa(0), MiB(4), 0);
  EXPECT_EQ(guest.Store(Gpa(0x7000), 1), kDenied);
  EXPECT_EQ(guest.Store(Gpa(0x3000), 1), kDone);
}

INSTANTIATE_TEST_SUITE_P(Tracking, ViewsOfLoggingSlots,
                         testing::Values(DirtyTracking::kWriteProtection,
                                         DirtyTracking::kDirtyBits),
                         NameOfTracking);

TEST(Views, ASwitchFlushesNothingAndAChangeIsFlushedInEveryViewThatTheCpuUsed) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  const auto touch_both = [&] {
    for (ViewId id : {view, kBaseView}) {
      ASSERT_EQ(guest.vcpu().SetView(id), absl::OkStatus());
      ASSERT_EQ(guest.Store(Gpa(0x3000)), kDone);
    }
  };
  touch_both();
  const uint64_t before = guest.backend().invalidations();
  for (int i = 0; i < 10; ++i) touch_both();
  EXPECT_EQ(guest.backend().invalidations(), before);
  // The CPU is on the base; what it keeps of the view must go, too.
  guest.Settle(guest.vm().ZapRange(Gfn(3), kPage));
  ASSERT_EQ(guest.Store(Gpa(0x3000)), kDone);
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  ASSERT_EQ(guest.Store(Gpa(0x3000)), kDone) << "the flush oracle reports it if not";
}

// The root of SMM is one more that the CPU keeps translations of.
TEST(Views, AnAddressSpaceKeepsItsTranslationsWhileTheVcpuIsInTheOther) {
  ViewingGuest guest({.vm = {.address_spaces = 2}});
  guest.AddSlot(Gpa(0), MiB(4));
  ASSERT_EQ(guest.vm().SetMemoryRegion({.slot = 0,
                                        .address_space = 1,
                                        .gpa = Gpa(0),
                                        .size = MiB(4),
                                        .hva = ViewingGuest::kRam}),
            absl::OkStatus());
  const ViewId view = *guest.vm().CreateView(1);
  const auto touch_both = [&] {
    for (AddressSpaceId space : {1, 0}) {
      ASSERT_EQ(guest.vcpu().SetAddressSpace(space), absl::OkStatus());
      ASSERT_EQ(guest.Store(Gpa(0x3000)), kDone);
    }
  };
  touch_both();
  const uint64_t before = guest.backend().invalidations();
  touch_both();
  EXPECT_EQ(guest.backend().invalidations(), before);
  guest.Settle(guest.vm().ZapRange(Gfn(3), kPage, 1));
  ASSERT_EQ(guest.Store(Gpa(0x3000)), kDone);
  touch_both();
  EXPECT_TRUE(absl::IsNotFound(guest.vcpu().SetView(view))) << "it is the other space's";
}

// Each page is beside one that was just mapped, in the other space.
TEST(Views, InEachAddressSpaceAPageIsThatOfItsOwnSlot) {
  TestHost host;
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {.address_spaces = 2});
  const std::unique_ptr<Vcpu> vcpu = *vm->CreateVcpu();
  const auto ram_of = [](AddressSpaceId space) { return Hva(TiB(1) + space * GiB(1)); };
  for (const AddressSpaceId space : {0, 1}) {
    ASSERT_EQ(vm->SetMemoryRegion({.address_space = space, .size = MiB(4), .hva = ram_of(space)}),
              absl::OkStatus());
  }
  for (uint64_t page = 0; page < 12; ++page) {
    const auto space = static_cast<AddressSpaceId>(page / 3 % 2);
    const Gpa gpa(page * kPageSize);
    ASSERT_EQ(vcpu->SetAddressSpace(space), absl::OkStatus());
    EXPECT_EQ(vcpu->HandleEptViolation(gpa, kWriteFault).outcome, FaultOutcome::kFixed);
    EXPECT_EQ(vm->Translate(gpa, space)->FrameOf(Gfn::Of(gpa)).address().raw(),
              ram_of(space).raw() + gpa.raw())
        << page;
  }
}

TEST(Views, TheGuestSwitchesByItselfThroughTheListOfEptps) {
  ViewingGuestOptions options;
  options.controls.eptp_switching = true;
  ViewingGuest guest(options);
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  sim::Controls controls = options.controls;
  const auto list = guest.vm().EptpList();
  ASSERT_TRUE(list.ok()) << list.status();
  EXPECT_EQ(*guest.vm().EptpList(), *list) << "there is one";
  controls.eptp_list = *list;
  ASSERT_EQ(guest.cpu().SetControls(controls), absl::OkStatus());
  const ViewId later = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(later, Gfn(3), kPage, ReadOnly()), absl::OkStatus());
  guest.Settle(guest.vm().ZapAll());

  for (ViewId id : {kBaseView, view, later}) {
    {
      const GuestEntry entry = guest.vcpu().EnterGuest();
      while (guest.cpu().Enter(entry.eptp()) == sim::Event::kKick) {
      }
      EXPECT_EQ(guest.cpu().Vmfunc(0, id), sim::Event::kNone);
      EXPECT_EQ(guest.cpu().eptp(), guest.vm().eptp(0, id));
      EXPECT_EQ(guest.cpu().AccessGpa(Gpa(0x3000), sim::AccessKind::kStore, 8).event,
                sim::Event::kEptViolation);
    }
    // The exit handler finds the index in its VMCS.
    ASSERT_EQ(guest.vcpu().SetView(guest.cpu().eptp_index()), absl::OkStatus());
    const FaultResult result =
        guest.vcpu().HandleEptViolation(guest.cpu().exit().gpa, guest.cpu().exit().qualification);
    EXPECT_EQ(result.outcome, id == later ? kDenied : kDone);
  }
  ASSERT_EQ(guest.vcpu().SetView(kBaseView), absl::OkStatus());
  ASSERT_EQ(guest.vm().DestroyView(later), absl::OkStatus());
  const GuestEntry entry = guest.vcpu().EnterGuest();
  while (guest.cpu().Enter(entry.eptp()) == sim::Event::kKick) {
  }
  EXPECT_EQ(guest.cpu().Vmfunc(0, later), sim::Event::kVmfunc) << "it is gone";
}

TEST(Views, WhatTheGuestCachedOfAViewByItselfIsFlushedWhicheverViewItEntersIn) {
  ViewingGuestOptions options;
  options.controls.eptp_switching = true;
  options.vcpus = 2;
  ViewingGuest guest(options);
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  sim::Controls controls = options.controls;
  controls.eptp_list = *guest.vm().EptpList();
  ASSERT_EQ(guest.cpu().SetControls(controls), absl::OkStatus());
  ASSERT_EQ(guest.vcpu(1).SetView(view), absl::OkStatus());
  ASSERT_EQ(guest.Store(Gpa(0x3000), 1), kDone);
  const auto load_in_view = [&] {
    const GuestEntry entry = guest.vcpu().EnterGuest();
    while (guest.cpu().Enter(entry.eptp()) == sim::Event::kKick) {
    }
    EXPECT_EQ(guest.cpu().Vmfunc(0, view), sim::Event::kNone);
    return guest.cpu().AccessGpa(Gpa(0x3000), sim::AccessKind::kLoad, 8).event;
  };
  EXPECT_EQ(load_in_view(), sim::Event::kNone);
  guest.Settle(guest.vm().ZapRange(Gfn(3), kPage));
  EXPECT_EQ(load_in_view(), sim::Event::kEptViolation);
}

TEST(Views, ADestroyedViewGivesItsTablesAndItsNumberBack) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(64));
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(0), PageCount(64), ReadOnly()), absl::OkStatus());
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  for (uint64_t mib = 0; mib < 64; mib += 2) EXPECT_EQ(guest.Load(Gpa(MiB(mib))), kDone);
  EXPECT_TRUE(absl::IsFailedPrecondition(guest.vm().DestroyView(view))) << "a vCPU is on it";
  ASSERT_EQ(guest.vcpu().SetView(kBaseView), absl::OkStatus());
  const size_t before = guest.vm().Stats().tables_in_use;
  ASSERT_EQ(guest.vm().DestroyView(view), absl::OkStatus());
  EXPECT_EQ(guest.vm().Stats().tables_in_use, before - 34);
  EXPECT_TRUE(absl::IsNotFound(guest.vcpu().SetView(view)));
  EXPECT_TRUE(absl::IsNotFound(guest.vm().Translate(Gpa(0), 0, view).status()));
  EXPECT_EQ(*guest.vm().CreateView(), view);
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0)), kDone) << "its rules are gone with it";
}

TEST(Views, ReclaimTakesColdTablesOfViewsToo) {
  ViewingGuest guest({.vm = {.table_quota = 100}});
  guest.AddSlot(Gpa(0), MiB(256));
  const ViewId view = *guest.vm().CreateView();
  for (ViewId id : {view, kBaseView, view}) {
    ASSERT_EQ(guest.vcpu().SetView(id), absl::OkStatus());
    for (uint64_t mib = 0; mib < 256; mib += 2) {
      ASSERT_EQ(guest.Store(Gpa(MiB(mib))), kDone) << guest.last.status;
    }
  }
  EXPECT_GT(guest.vm().Stats().table_reclaims, 0u);
}

TEST(Views, PrefaultMapsWhatTheViewAllowsAndStopsAtWhatItDenies) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(8), kPage, ReadOnly()), absl::OkStatus());
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  EXPECT_EQ(*guest.vcpu().Prefault(Gpa(0), MiB(1)), MiB(1));
  EXPECT_FALSE(guest.vm().Translate(Gpa(0x8000), 0, view)->access.can_write());
  EXPECT_EQ(*guest.vcpu().Prefault(Gpa(0), MiB(1), Access::Write()), 0x8000u);
  EXPECT_TRUE(absl::IsPermissionDenied(
      guest.vcpu().Prefault(Gpa(0x8000), MiB(1), Access::Write()).status()));
}

TEST(Views, ARightThatAgingTookComesBackWithinTheView) {
  ViewingGuest guest({.vm = {.accessed_dirty = Use::kNever}});
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(view, Gfn(8), kPage, ReadOnly()), absl::OkStatus());
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  EXPECT_EQ(guest.Load(Gpa(0x8000)), kDone);
  auto aged = guest.vm().AgeHostRange(ViewingGuest::kRam, MiB(1));
  aged->flush.Settle();
  EXPECT_EQ(guest.Store(Gpa(0x8000)), kDenied);
  EXPECT_EQ(guest.Load(Gpa(0x8000)), kDone);
  EXPECT_EQ(guest.Store(Gpa(0x8000)), kDenied);
}

// The exit of a page that was remembered as MMIO does not say what the guest tried.
TEST(Views, WhereMemoryHasComeAnAccessIsAnsweredByWhatItIsAndNotAsARead) {
  ViewingGuest guest;
  ASSERT_EQ(guest.vm().SetViewRights(kBaseView, Gfn(0), PageCount(512), ExecuteOnly()),
            absl::OkStatus());
  EXPECT_EQ(guest.Load(Gpa(0x3000)), FaultOutcome::kMmio) << "which is remembered";
  guest.AddSlot(Gpa(0), MiB(2), 0, kSlotReadOnly);
  EXPECT_EQ(guest.Store(Gpa(0x3000)), FaultOutcome::kMmio) << "of a read-only slot";
  EXPECT_EQ(guest.Load(Gpa(0x3000)), kDenied);
  EXPECT_EQ(guest.Fetch(Gpa(0x3000)), kDone);
}

TEST(Views, MisuseIsAWordedError) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4));
  Vm& vm = guest.vm();
  const ViewId view = *vm.CreateView();
  EXPECT_TRUE(absl::IsInvalidArgument(vm.CreateView(1).status()));
  EXPECT_TRUE(absl::IsNotFound(vm.SetViewRights(7, Gfn(0), kPage, ReadOnly())));
  EXPECT_TRUE(absl::IsInvalidArgument(vm.SetViewRights(view, Gfn(0), PageCount(0), ReadOnly())));
  EXPECT_TRUE(
      absl::IsInvalidArgument(vm.SetViewRights(view, Gfn(1), PageCount(~uint64_t{0}), ReadOnly())));
  EXPECT_THAT(vm.SetViewRights(view, Gfn(0), kPage, Access::Write()).message(), HasSubstr("-w--"));
  EXPECT_THAT(vm.SetViewRights(view, Gfn(0), kPage, Access::UserExecute()).message(),
              HasSubstr("execute_by_mode"));
  EXPECT_TRUE(absl::IsFailedPrecondition(vm.SetRaisesVe(view, Gfn(0), kPage, true)));
  EXPECT_TRUE(absl::IsInvalidArgument(vm.DestroyView(kBaseView)));
  const GuestEntry entry = guest.vcpu().EnterGuest();
  EXPECT_TRUE(absl::IsFailedPrecondition(guest.vcpu().SetView(view)));
}

TEST(Views, WhatTheBackendLacksIsAWordedError) {
  ViewingGuestOptions options;
  options.features.ept = options.features.ept.Without(ept::kCapExecuteOnly);
  options.features.eptp_switching = false;
  ViewingGuest guest(options);
  const ViewId view = *guest.vm().CreateView();
  EXPECT_THAT(guest.vm().SetViewRights(view, Gfn(0), kPage, ExecuteOnly()).message(),
              HasSubstr("execute-only"));
  EXPECT_TRUE(absl::IsFailedPrecondition(guest.vm().EptpList().status()));
  MinimalBackend backend;
  auto with_map = *Vm::Create(backend, {.reverse_map = true});
  EXPECT_TRUE(absl::IsFailedPrecondition(with_map->CreateView().status()));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(with_map->SetViewRights(kBaseView, Gfn(0), kPage, ReadOnly())));
}

// The guest may have gone to the view by VMFUNC, which nobody was told of, and have cached what the
// tables of the view do not hold any more.
TEST(Views, DestroyingAViewBringsWhoMayHaveGoneThereOutOfTheGuest) {
  sim::CpuFeatures features;
  features.eptp_switching = true;
  ViewingGuest guest({.features = features});
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  ASSERT_TRUE(guest.vm().EptpList().ok());
  auto entry = std::make_unique<GuestEntry>(guest.vcpu().EnterGuest());
  const uint64_t before = guest.backend().kicks();
  std::atomic<bool> done = false;
  std::thread destroyer([&] {
    EXPECT_EQ(guest.vm().DestroyView(view), absl::OkStatus());
    done = true;
  });
  while (!done && guest.backend().kicks() == before) std::this_thread::yield();
  EXPECT_GT(guest.backend().kicks(), before);
  entry.reset();
  destroyer.join();
}

// A fresh root could stand where a CPU remembers another, and by VMFUNC a guest would be there
// before the flush.
TEST(Views, ZapAllLeavesEveryViewItsRootAndTheListAsItIs) {
  ViewingGuestOptions options;
  options.controls.eptp_switching = true;
  ViewingGuest guest(options);
  guest.AddSlot(Gpa(0), MiB(4));
  const ViewId view = *guest.vm().CreateView();
  ASSERT_TRUE(guest.vm().EptpList().ok());
  for (const ViewId id : {kBaseView, view}) {
    ASSERT_EQ(guest.vcpu().SetView(id), absl::OkStatus());
    ASSERT_EQ(guest.Store(Gpa(0x3000)), kDone);
  }
  const Eptp base = guest.vm().eptp();
  const Eptp other = guest.vm().eptp(0, view);
  guest.Settle(guest.vm().ZapAll());
  EXPECT_EQ(guest.vm().eptp(), base);
  EXPECT_EQ(guest.vm().eptp(0, view), other);
  EXPECT_EQ(guest.vm().CheckInvariants(), absl::OkStatus()) << "the list says what the views do";
  for (const ViewId id : {kBaseView, view}) {
    ASSERT_EQ(guest.vcpu().SetView(id), absl::OkStatus());
    const int before = guest.exits;
    EXPECT_EQ(guest.Load(Gpa(0x3000)), kDone);
    EXPECT_EQ(guest.exits, before + 1) << "view " << id << " had it still";
  }
}

}  // namespace
}  // namespace tdp
