// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These views show other host frames than the slots have.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_format.h"
#include "tests/mmu/logging_guest.h"
#include "tests/mmu/viewing_guest.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/test_host.h"

namespace tdp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr FaultOutcome kDone = FaultOutcome::kFixed;
constexpr PageCount kPage{1};
constexpr Hva kOther{0x7e0000000000};

// Returns a piece of host memory that no slot has.
Hfn OtherFrames(sim::HostMemory& memory, ByteCount size = kPageSize, int order = 0) {
  EXPECT_EQ(memory.Map(kOther, size, {.order = order}), absl::OkStatus());
  return memory.Resolve(kOther, Access::Read())->hfn;
}

TEST(ViewFrames, AHiddenHookRunsInOneViewAndIsReadInTheOther) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4), 9);
  const Hfn hook = OtherFrames(guest.memory());
  const ViewId run = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewRights(kBaseView, Gfn(5), kPage, Access::ReadWrite()),
            absl::OkStatus());
  ASSERT_EQ(guest.vm().SetViewFrames(run, Gfn(5), kPage, hook), absl::OkStatus());
  ASSERT_EQ(guest.vm().SetViewRights(run, Gfn(5), kPage, Access::Execute()), absl::OkStatus());
  EXPECT_EQ(guest.Load(Gpa(0x5010)), kDone);
  const Hpa seen = guest.last_hpa;
  EXPECT_NE(Hfn::Of(seen), hook);
  EXPECT_EQ(guest.Fetch(Gpa(0x5010)), FaultOutcome::kViewDenied);
  ASSERT_EQ(guest.vcpu().SetView(run), absl::OkStatus());
  EXPECT_EQ(guest.Fetch(Gpa(0x5010)), kDone);
  EXPECT_EQ(guest.last_hpa, hook.address() + 0x10);
  EXPECT_EQ(guest.Load(Gpa(0x5010)), FaultOutcome::kViewDenied);
  EXPECT_EQ(guest.Load(Gpa(0x4000)), kDone);
  EXPECT_EQ(Hfn::Of(guest.last_hpa), Hfn::Of(seen) - kPage) << "around it is the slot's memory";
}

TEST(ViewFrames, AFlipFlushesNothingAndAsksTheHostForNothing) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(4));
  const Hfn other = OtherFrames(guest.memory());
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewFrames(view, Gfn(5), kPage, other), absl::OkStatus());
  const auto flip = [&] {
    for (const ViewId id : {view, kBaseView}) {
      ASSERT_EQ(guest.vcpu().SetView(id), absl::OkStatus());
      ASSERT_EQ(guest.Store(Gpa(0x5000)), kDone);
      ASSERT_EQ(Hfn::Of(guest.last_hpa) == other, id == view);
    }
  };
  flip();
  const uint64_t flushes = guest.backend().invalidations();
  const int exits = guest.exits;
  for (int i = 0; i < 10; ++i) flip();
  EXPECT_EQ(guest.backend().invalidations(), flushes);
  EXPECT_EQ(guest.exits, exits);
}

// The shortest way of a fault, for a page beside the last one, knows no frames but the host's: no
// fault may take it here.
TEST(ViewFrames, APageBesideOnesThatWereJustMappedIsTheFrameThatTheViewShows) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(2));
  const Hfn other = OtherFrames(guest.memory());
  ASSERT_EQ(guest.vm().SetViewFrames(kBaseView, Gfn(5), kPage, other), absl::OkStatus());
  for (const uint64_t page : {2, 3, 4}) ASSERT_EQ(guest.Store(Gpa(page * kPageSize)), kDone);
  EXPECT_EQ(guest.Store(Gpa(0x5000)), kDone);
  EXPECT_EQ(Hfn::Of(guest.last_hpa), other);
}

TEST(ViewFrames, ARangeIsMappedAsLargeAsItsFramesAreInARowAndAligned) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(8), 9);
  const Hfn other = OtherFrames(guest.memory(), MiB(2), 9);
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewFrames(view, Gfn(512), PageCount(512), other), absl::OkStatus());
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  for (const uint64_t mib : {2, 4}) {
    EXPECT_EQ(guest.Store(Gpa(MiB(mib) + 0x5000)), kDone);
    EXPECT_EQ(guest.LevelOf(Gpa(MiB(mib)), view), 2);
    EXPECT_EQ(guest.last_hpa == other.address() + 0x5000, mib == 2);
  }
  ASSERT_EQ(guest.vm().SetViewFrames(view, Gfn(600), kPage, std::nullopt), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(599 * kPageSize)), kDone);
  EXPECT_EQ(guest.LevelOf(Gpa(599 * kPageSize), view), 1);
  EXPECT_EQ(guest.last_hpa, other.address() + 87 * kPageSize);
  EXPECT_EQ(guest.Store(Gpa(600 * kPageSize)), kDone);
  EXPECT_NE(guest.last_hpa, other.address() + 88 * kPageSize);
}

TEST(ViewFrames, SlotsDecideWhereThereIsMemory) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(2));
  guest.AddSlot(Gpa(MiB(2)), MiB(2), 0, kSlotReadOnly, 1);
  const Hfn other = OtherFrames(guest.memory());
  for (const Gfn gfn : {Gfn(0x200), Gfn(0x500)}) {
    ASSERT_EQ(guest.vm().SetViewFrames(kBaseView, gfn, kPage, other), absl::OkStatus());
  }
  EXPECT_EQ(guest.Store(Gpa(MiB(5))), FaultOutcome::kMmio);
  EXPECT_EQ(guest.Store(Gpa(MiB(2))), FaultOutcome::kMmio) << "of a read-only slot";
  EXPECT_EQ(guest.Load(Gpa(MiB(2))), kDone);
  EXPECT_EQ(Hfn::Of(guest.last_hpa), other);
}

TEST(ViewFrames, ChangesOfHostMemoryAreNotAboutThem) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(2));
  const Hfn other = OtherFrames(guest.memory());
  ASSERT_EQ(guest.vm().SetViewFrames(kBaseView, Gfn(5), kPage, other), absl::OkStatus());
  ASSERT_EQ(guest.vm().BeginHostInvalidation(ViewingGuest::kRam, MiB(2)), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x5000)), kDone);
  EXPECT_EQ(Hfn::Of(guest.last_hpa), other);
  guest.vm().EndHostInvalidation();
  EXPECT_FALSE(*guest.vm().TestAge(ViewingGuest::kRam, MiB(2))) << "its use is not the slot's";
}

TEST(ViewFrames, TheyHidePrivateMemory) {
  ViewingGuest guest({.vm = {.private_memory = true}});
  guest.AddSlot(Gpa(0), MiB(2));
  const Hfn other = OtherFrames(guest.memory());
  ASSERT_EQ(guest.vm().SetMemoryAttributes(Gpa(0x5000), 0x2000, kMemoryAttributePrivate),
            absl::OkStatus());
  ASSERT_EQ(guest.vm().SetViewFrames(kBaseView, Gfn(5), kPage, other), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x5000)), kDone);
  EXPECT_EQ(guest.Store(Gpa(0x6000)), FaultOutcome::kMemoryFault);
}

TEST(ViewFrames, ADestroyedViewShowsNothingWhenItsNumberComesBack) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(2));
  const Hfn other = OtherFrames(guest.memory());
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vm().SetViewFrames(view, Gfn(5), kPage, other), absl::OkStatus());
  ASSERT_EQ(guest.vm().DestroyView(view), absl::OkStatus());
  ASSERT_EQ(*guest.vm().CreateView(), view);
  ASSERT_EQ(guest.vcpu().SetView(view), absl::OkStatus());
  EXPECT_EQ(guest.Store(Gpa(0x5000)), kDone);
  EXPECT_NE(Hfn::Of(guest.last_hpa), other);
}

TEST(ViewFrames, WhatIsBadIsRefusedByNameAndValue) {
  ViewingGuest guest;
  guest.AddSlot(Gpa(0), MiB(2));
  const auto refusal = [&](Gfn first, PageCount count, Hfn frames) {
    const absl::Status status = guest.vm().SetViewFrames(kBaseView, first, count, frames);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(refusal(Gfn(0), PageCount(0), Hfn(5)), HasSubstr("count 0x0"));
  EXPECT_THAT(refusal(Gfn(0), kPage, Hfn(uint64_t{1} << 40)), HasSubstr("0x10000000000"));
  EXPECT_THAT(refusal(Gfn(0), PageCount(2), Hfn((uint64_t{1} << 34) - 1)), HasSubstr("MAXPHYADDR"));
  EXPECT_TRUE(absl::IsNotFound(guest.vm().SetViewFrames(9, Gfn(0), kPage, Hfn(5))));
  EXPECT_EQ(guest.Store(Gpa(0)), kDone);
}

// --- Logs

class ViewFramesOfLoggingSlots : public testing::TestWithParam<DirtyTracking> {};

// Page 5 is another frame in the view of vCPU 1; page 6 is not.
TEST_P(ViewFramesOfLoggingSlots, AWriteThereIsNoWriteOfTheSlotAndItsNeighboursAreShown) {
  LoggingGuest guest({.tracking = GetParam()});
  guest.AddSlot(0, Gpa(0), MiB(4), 9);
  const Hfn other = OtherFrames(guest.memory());
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vcpu(1).SetView(view), absl::OkStatus());
  ASSERT_EQ(guest.vm().SetViewFrames(view, Gfn(5), kPage, other), absl::OkStatus());
  for (const int page : {5, 6}) guest.Write(1, Gpa(page * kPageSize));
  guest.StartMigration(0);
  EXPECT_THAT(guest.Take(0), IsEmpty());
  for (int round = 0; round < 3; ++round) {
    guest.Write(1, Gpa(0x5000));
    EXPECT_THAT(guest.Take(0), IsEmpty()) << "round " << round;
    guest.Write(1, Gpa(0x6000));
    EXPECT_THAT(guest.Take(0), ElementsAre(6)) << "round " << round;
    guest.Write(0, Gpa(0x5000));
    guest.Write(1, Gpa(0x5000));
    EXPECT_THAT(guest.Take(0), ElementsAre(5)) << "by the base, round " << round;
  }
  ASSERT_EQ(guest.vm().PushDownDirtyLog(0), absl::OkStatus());
  guest.Write(1, Gpa(0x5000));
  EXPECT_THAT(guest.Take(0), IsEmpty()) << "after a push";
}

// Zaps hand D bits to the log, at once or as tables are reclaimed.
TEST_P(ViewFramesOfLoggingSlots, WhatIsTakenAwayLeavesNoMark) {
  LoggingGuest guest({.tracking = GetParam()});
  guest.AddSlot(0, Gpa(0), MiB(4), 9);
  const Hfn other = OtherFrames(guest.memory());
  const ViewId view = *guest.vm().CreateView();
  ASSERT_EQ(guest.vcpu(1).SetView(view), absl::OkStatus());
  guest.SetLogging(0, true);
  ASSERT_EQ(guest.vm().SetViewFrames(view, Gfn(5), kPage, other), absl::OkStatus());
  for (const PageCount count : {kPage, PageCount(1024)}) {
    guest.Write(1, Gpa(0x5000));
    guest.Write(1, Gpa(0x7000));
    auto zapped = guest.vm().ZapRange(count == kPage ? Gfn(5) : Gfn(0), count);
    ASSERT_TRUE(zapped.ok());
    guest.Settle(*std::move(zapped));
    EXPECT_THAT(guest.Take(0), ElementsAre(7)) << count.raw();
  }
}

TEST_P(ViewFramesOfLoggingSlots, AFrameThatIsTheSlotsAgainIsLoggedAgainAndTheOtherWayRound) {
  LoggingGuest guest({.tracking = GetParam()});
  guest.AddSlot(0, Gpa(0), MiB(4), 9);
  const Hfn other = OtherFrames(guest.memory());
  guest.StartMigration(0);
  for (int round = 0; round < 3; ++round) {
    guest.Write(0, Gpa(0x5000));
    ASSERT_EQ(guest.vm().SetViewFrames(kBaseView, Gfn(5), kPage, other), absl::OkStatus());
    EXPECT_THAT(guest.Take(0), ElementsAre(5)) << "it was the slot's when it was written";
    guest.Write(0, Gpa(0x5000));
    ASSERT_EQ(guest.vm().SetViewFrames(kBaseView, Gfn(5), kPage, std::nullopt), absl::OkStatus());
    EXPECT_THAT(guest.Take(0), IsEmpty()) << "it was not";
  }
}

INSTANTIATE_TEST_SUITE_P(Tracking, ViewFramesOfLoggingSlots, EachTracking(), NameOfTracking);

TEST(ViewFrames, ARingHasNoEntryForThem) {
  TestHost host;
  const auto vm = *Vm::Create(host, {.dirty_tracking = DirtyTracking::kWriteProtection});
  ASSERT_EQ(vm->EnableDirtyRing(1024), absl::OkStatus());
  ASSERT_EQ(vm->SetMemoryRegion(
                {.flags = kSlotLogDirtyPages, .gpa = Gpa(0), .size = MiB(2), .hva = Hva(TiB(1))}),
            absl::OkStatus());
  const auto vcpu = *vm->CreateVcpu();
  ASSERT_EQ(vm->SetViewFrames(kBaseView, Gfn(5), kPage, Hfn(0x1234)), absl::OkStatus());
  for (const int page : {5, 6}) {
    ASSERT_EQ(vcpu->HandleEptViolation(Gpa(page * kPageSize), kWriteFault).outcome, kDone);
  }
  EXPECT_EQ(vm->Translate(Gpa(0x5000))->entry.frame(), Hfn(0x1234));
  std::vector<uint64_t> pages;
  ASSERT_EQ(
      vm->HarvestDirtyRings([&](const DirtyRingEntry& entry) { pages.push_back(entry.index); }),
      absl::OkStatus());
  EXPECT_THAT(pages, ElementsAre(6));
}

}  // namespace
}  // namespace tdp
