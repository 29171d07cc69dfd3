// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/guest/guest_walk.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"

#include <optional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/mmu/viewing_guest.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr FaultOutcome kDone = FaultOutcome::kFixed;
constexpr FaultOutcome kMemoryFault = FaultOutcome::kMemoryFault;
constexpr Hva kPrivate{0x7f8000000000};
constexpr auto kRead = ExitQualification::Make(Access::Read(), Access::None(), false, false);

class PrivateMemory : public testing::Test {
 protected:
  PrivateMemory() : guest_({.vm = {.private_memory = true}}) {
    const Hva shared = ViewingGuest::kRam;
    EXPECT_EQ(guest_.memory().Map(shared, MiB(8), {.order = 9}), absl::OkStatus());
    EXPECT_EQ(guest_.memory().Map(kPrivate, MiB(4), {.order = 9}), absl::OkStatus());
    EXPECT_EQ(guest_.vm().SetMemoryRegion({.slot = 0,
                                           .flags = kSlotPrivateMemory,
                                           .gpa = Gpa(0),
                                           .size = MiB(4),
                                           .hva = shared,
                                           .private_hva = kPrivate}),
              absl::OkStatus());
    EXPECT_EQ(guest_.vm().SetMemoryRegion(
                  {.slot = 1, .gpa = Gpa(MiB(4)), .size = MiB(4), .hva = shared + MiB(4)}),
              absl::OkStatus());
  }
  absl::Status Make(bool is_private, Gpa gpa, ByteCount size) {
    return guest_.vm().SetMemoryAttributes(gpa, size, is_private ? kMemoryAttributePrivate : 0);
  }
  // Returns which host address the guest reaches at `gpa`.
  Hpa Reach(Gpa gpa) {
    EXPECT_EQ(guest_.Store(gpa), kDone);
    return guest_.last_hpa;
  }
  Hpa Host(Hva hva) { return guest_.memory().Resolve(hva, Access::Read())->hfn.address(); }

  ViewingGuest guest_;
};

TEST_F(PrivateMemory, AFrameReachesTheMemoryThatItsAttributeSays) {
  EXPECT_EQ(Reach(Gpa(0x3000)), Host(ViewingGuest::kRam + 0x3000));
  ASSERT_EQ(Make(true, Gpa(0x3000), 0x1000), absl::OkStatus());
  EXPECT_EQ(Reach(Gpa(0x3000)), Host(kPrivate + 0x3000));
  EXPECT_EQ(Reach(Gpa(0x4000)), Host(ViewingGuest::kRam + 0x4000));
  ASSERT_EQ(Make(false, Gpa(0), MiB(4)), absl::OkStatus());
  EXPECT_EQ(Reach(Gpa(0x3000)), Host(ViewingGuest::kRam + 0x3000));
}

TEST_F(PrivateMemory, ABatchMakesSeveralRangesPrivate) {
  for (const uint64_t gpa : {0x3000, 0x9000}) Reach(Gpa(gpa));
  ASSERT_EQ(guest_.vm().Apply({Change::Attributes(Gpa(0x3000), 0x1000, kMemoryAttributePrivate),
                               Change::Attributes(Gpa(0x9000), 0x2000, kMemoryAttributePrivate)}),
            absl::OkStatus());
  for (const uint64_t gpa : {0x3000, 0x9000, 0xa000}) {
    EXPECT_EQ(Reach(Gpa(gpa)), Host(kPrivate + gpa)) << gpa;
  }
  for (const uint64_t gpa : {0x2000, 0x4000, 0x8000, 0xb000}) {
    EXPECT_EQ(Reach(Gpa(gpa)), Host(ViewingGuest::kRam + gpa)) << gpa;
  }
}

TEST_F(PrivateMemory, ALeafIsOfOneAttribute) {
  ASSERT_EQ(Make(true, Gpa(MiB(2) + 0x5000), MiB(2) - 0x5000), absl::OkStatus());
  Reach(Gpa(0));
  EXPECT_EQ(guest_.LevelOf(Gpa(0)), 2);
  Reach(Gpa(MiB(2)));
  EXPECT_EQ(guest_.LevelOf(Gpa(MiB(2))), 1);
  ASSERT_EQ(Make(true, Gpa(MiB(2)), MiB(2)), absl::OkStatus());
  EXPECT_EQ(Reach(Gpa(MiB(2))), Host(kPrivate + MiB(2)));
  EXPECT_EQ(guest_.LevelOf(Gpa(MiB(2))), 2);
  guest_.Settle(guest_.vm().SplitRange(Gfn(0), PageCount(1024)));
  EXPECT_EQ(*guest_.vm().CollapseRange(Gfn(0), PageCount(1024)), 2u);
  EXPECT_EQ(Reach(Gpa(0)), Host(ViewingGuest::kRam));
  EXPECT_EQ(Reach(Gpa(MiB(2))), Host(kPrivate + MiB(2)));
}

TEST_F(PrivateMemory, APrivateFrameOfASlotWithoutPrivateMemoryIsAMemoryFault) {
  EXPECT_EQ(guest_.Store(Gpa(MiB(5))), kDone);
  ASSERT_EQ(Make(true, Gpa(MiB(5)), MiB(1)), absl::OkStatus());
  EXPECT_EQ(guest_.Store(Gpa(MiB(5))), kMemoryFault);
  EXPECT_TRUE(absl::IsFailedPrecondition(guest_.vcpu().Prefault(Gpa(MiB(5)), MiB(1)).status()));
  ASSERT_EQ(Make(false, Gpa(MiB(5)), MiB(1)), absl::OkStatus());
  EXPECT_EQ(guest_.Store(Gpa(MiB(5))), kDone);
  EXPECT_EQ(guest_.vm().Stats().faults.memory_faults, 2u);
}

TEST_F(PrivateMemory, AnAccessThatWantsTheOtherKindIsAMemoryFaultAndMapsNothing) {
  Vcpu& vcpu = guest_.vcpu();
  EXPECT_EQ(vcpu.HandleEptViolation(Gpa(0x3000), kRead, Privacy::kPrivate).outcome, kMemoryFault);
  EXPECT_EQ(guest_.LevelOf(Gpa(0x3000)), 0);
  EXPECT_EQ(vcpu.HandleEptViolation(Gpa(0x3000), kRead, Privacy::kShared).outcome, kDone);
  ASSERT_EQ(Make(true, Gpa(0x3000), 0x1000), absl::OkStatus());
  EXPECT_EQ(vcpu.HandleEptViolation(Gpa(0x3000), kRead, Privacy::kShared).outcome, kMemoryFault);
  EXPECT_EQ(vcpu.HandleEptViolation(Gpa(0x3000), kRead, Privacy::kPrivate).outcome, kDone);
  EXPECT_EQ(vcpu.HandleEptViolation(Gpa(0x3000), kRead).outcome, FaultOutcome::kSpurious)
      << "an access that does not say takes what there is";
}

TEST_F(PrivateMemory, APrivateAccessWithoutASlotIsAMemoryFaultAndNothingIsRemembered) {
  const Gpa hole(MiB(16));
  Vcpu& vcpu = guest_.vcpu();
  ASSERT_EQ(Make(true, hole + 0x1000, 0x1000), absl::OkStatus());
  EXPECT_EQ(vcpu.HandleEptViolation(hole, kRead, Privacy::kPrivate).outcome, kMemoryFault)
      << "the attribute says shared, and it is asked before the slot";
  EXPECT_EQ(vcpu.HandleEptViolation(hole + 0x1000, kRead, Privacy::kPrivate).outcome, kMemoryFault)
      << "the attribute agrees, but private memory is never emulated";
  EXPECT_EQ(vcpu.HandleEptViolation(hole + 0x1000, kRead, Privacy::kShared).outcome, kMemoryFault);
  EXPECT_EQ(vcpu.HandleEptViolation(hole + 0x1000, kRead).outcome, kMemoryFault);
  for (const Gpa gpa : {hole, hole + 0x1000}) {
    EXPECT_FALSE(guest_.vm().Translate(gpa).ok());
    EXPECT_EQ(guest_.Load(gpa), gpa == hole ? FaultOutcome::kMmio : kMemoryFault);
    EXPECT_EQ(guest_.cpu().exit().event, sim::Event::kEptViolation) << "no MMIO entry was left";
  }
}

TEST_F(PrivateMemory, WhatIsRememberedAsMmioIsSharedAndGoesWithTheAttribute) {
  const Gpa hole(MiB(16));
  Vcpu& vcpu = guest_.vcpu();
  EXPECT_EQ(guest_.Load(hole), FaultOutcome::kMmio);
  EXPECT_EQ(guest_.Load(hole), FaultOutcome::kMmio);
  EXPECT_EQ(guest_.cpu().exit().event, sim::Event::kEptMisconfiguration);
  EXPECT_EQ(vcpu.HandleEptMisconfiguration(hole, Privacy::kShared).outcome, FaultOutcome::kMmio);
  EXPECT_EQ(vcpu.HandleEptMisconfiguration(hole, Privacy::kPrivate).outcome, kMemoryFault);
  ASSERT_EQ(Make(true, hole, 0x1000), absl::OkStatus());
  EXPECT_EQ(guest_.Load(hole), kMemoryFault);
  EXPECT_EQ(guest_.cpu().exit().event, sim::Event::kEptViolation);
}

TEST_F(PrivateMemory, AStaleMmioEntryIsAnsweredByTheAttributeFirst) {
  const Gpa hole(MiB(16));
  EXPECT_EQ(guest_.Load(hole), FaultOutcome::kMmio);
  guest_.AddSlot(Gpa(MiB(32)), MiB(1), 0, 0, 7);  // the slots change, elsewhere
  Vcpu& vcpu = guest_.vcpu();
  EXPECT_EQ(vcpu.HandleEptMisconfiguration(hole, Privacy::kPrivate).outcome, kMemoryFault);
  EXPECT_EQ(vcpu.HandleEptMisconfiguration(hole, Privacy::kShared).outcome, FaultOutcome::kMmio);
}

TEST_F(PrivateMemory, APrivateWriteToAReadOnlySlotIsAMemoryFault) {
  const Gpa rom(MiB(16));
  constexpr auto kWrite = ExitQualification::Make(Access::Write(), Access::None(), false, false);
  guest_.AddSlot(rom, MiB(1), 0, kSlotReadOnly, 7);
  Vcpu& vcpu = guest_.vcpu();
  EXPECT_EQ(vcpu.HandleEptViolation(rom, kWrite, Privacy::kPrivate).outcome, kMemoryFault);
  EXPECT_EQ(vcpu.HandleEptViolation(rom, kWrite, Privacy::kShared).outcome, FaultOutcome::kMmio);
  ASSERT_EQ(Make(true, rom, 0x1000), absl::OkStatus());
  for (const Privacy wanted : {Privacy::kAsSet, Privacy::kPrivate, Privacy::kShared}) {
    EXPECT_EQ(vcpu.HandleEptViolation(rom, kWrite, wanted).outcome, kMemoryFault);
    EXPECT_EQ(vcpu.HandleEptViolation(rom, kRead, wanted).outcome, kMemoryFault);
  }
  EXPECT_FALSE(guest_.vm().Translate(rom).ok());
}

TEST_F(PrivateMemory, WithoutTheOptionAnAccessCannotSayWhichMemoryItWants) {
  ViewingGuest plain;
  const FaultResult result = plain.vcpu().HandleEptMisconfiguration(Gpa(0x3000), Privacy::kShared);
  EXPECT_TRUE(absl::IsFailedPrecondition(result.status)) << result.status;
}

TEST_F(PrivateMemory, InvalidatingTheHostRangeOfEitherMemoryTakesItsMappings) {
  ASSERT_EQ(Make(true, Gpa(0), MiB(1)), absl::OkStatus());
  for (const Hva start : {kPrivate, ViewingGuest::kRam}) {
    Reach(Gpa(0x3000));
    Reach(Gpa(MiB(1)));
    ASSERT_EQ(guest_.vm().BeginHostInvalidation(start, MiB(2)), absl::OkStatus());
    EXPECT_EQ(guest_.LevelOf(Gpa(0x3000)), 0);
    const bool is_private = start == kPrivate;
    const auto outcome = guest_.vcpu().HandleEptViolation(Gpa(0x3000), kRead).outcome;
    EXPECT_EQ(outcome, is_private ? FaultOutcome::kRetry : kDone)
        << "only the memory that is being taken away has to wait";
    ASSERT_EQ(guest_.memory().Migrate(start, MiB(2)), absl::OkStatus());
    guest_.vm().EndHostInvalidation();
  }
  EXPECT_EQ(Reach(Gpa(0x3000)), Host(kPrivate + 0x3000));
}

TEST_F(PrivateMemory, TheUseOfAPrivateFrameSaysNothingOfTheAgeOfSharedMemory) {
  ASSERT_EQ(Make(true, Gpa(0x3000), 0x1000), absl::OkStatus());
  Reach(Gpa(0x3000));
  EXPECT_FALSE(*guest_.vm().TestAge(ViewingGuest::kRam, MiB(4)));
  AgeResult aged = *guest_.vm().AgeHostRange(ViewingGuest::kRam, MiB(4));
  aged.flush.Settle();
  EXPECT_FALSE(aged.young);
  Reach(Gpa(0x4000));
  EXPECT_TRUE(*guest_.vm().TestAge(ViewingGuest::kRam, MiB(4)));
  EXPECT_FALSE(*guest_.vm().TestAge(kPrivate, MiB(4))) << "private memory does not age";
}

TEST_F(PrivateMemory, EveryViewAndPrefaultObeyTheAttributes) {
  const ViewId view = *guest_.vm().CreateView();
  ASSERT_EQ(Make(true, Gpa(0), MiB(1)), absl::OkStatus());
  const ViewId later = *guest_.vm().CreateView();
  for (ViewId id : {view, later}) {
    ASSERT_EQ(guest_.vcpu().SetView(id), absl::OkStatus());
    EXPECT_EQ(*guest_.vcpu().Prefault(Gpa(0), MiB(2)), MiB(2));
    EXPECT_EQ(guest_.vm().Translate(Gpa(0x3000), 0, id)->FrameOf(Gfn(3)),
              Hfn::Of(Host(kPrivate + 0x3000)));
    EXPECT_EQ(guest_.vm().Translate(Gpa(MiB(1)), 0, id)->FrameOf(Gfn(256)),
              Hfn::Of(Host(ViewingGuest::kRam + MiB(1))));
  }
}

// The guest's own tables may be private, too.
TEST_F(PrivateMemory, AWalkOfGuestTablesReadsThePrivateMemory) {
  ASSERT_EQ(Make(true, Gpa(0x10000), 0x1000), absl::OkStatus());
  const Hpa table = Reach(Gpa(0x10000));
  EXPECT_EQ(table, Host(kPrivate + 0x10000));
  // This 32-bit directory's first entry maps 4 MiB at 0x400000.
  guest_.memory().physical().Store(table.raw(), uint64_t{0x4000e7});
  GuestControls controls;
  controls.cr0 = guest::kCr0Paging;
  controls.cr4 = guest::kCr4PageSizeExtensions;
  GuestRoots roots;
  roots.cr3 = 0x10000;
  GuestWalk walk;
  ASSERT_EQ(
      guest_.vcpu().WalkGuest(GuestPaging(controls), roots, Gva(0x1234), GuestAccess::Read(), walk),
      absl::OkStatus());
  EXPECT_EQ(walk.outcome, GuestWalkOutcome::kMapped);
  EXPECT_EQ(walk.gpa, Gpa(0x401234));
}

TEST_F(PrivateMemory, SlotsWithPrivateMemoryNeitherLogNorChange) {
  MemoryRegion region = {.slot = 2,
                         .flags = kSlotPrivateMemory,
                         .gpa = Gpa(MiB(16)),
                         .size = MiB(1),
                         .hva = Hva(MiB(1)),
                         .private_hva = Hva(0x123)};
  Vm& vm = guest_.vm();
  EXPECT_THAT(vm.SetMemoryRegion(region).message(), HasSubstr("private_hva = 0x123"));
  region.private_hva = kPrivate;
  region.flags = kSlotPrivateMemory | kSlotLogDirtyPages;
  EXPECT_THAT(vm.SetMemoryRegion(region).message(), HasSubstr("flags = 0x5"));
  region.flags = kSlotPrivateMemory | kSlotReadOnly;
  EXPECT_TRUE(absl::IsInvalidArgument(vm.SetMemoryRegion(region)));
  region.flags = kSlotPrivateMemory;
  ASSERT_EQ(vm.SetMemoryRegion(region), absl::OkStatus());
  region.gpa = Gpa(MiB(32));
  EXPECT_TRUE(absl::IsInvalidArgument(vm.SetMemoryRegion(region))) << "it does not move";
  region.flags = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(vm.SetMemoryRegion(region)));
  ASSERT_EQ(vm.SetMemoryRegion({.slot = 2, .size = 0}), absl::OkStatus());
  EXPECT_EQ(vm.InvalidateHostRange(kPrivate, MiB(1)), absl::OkStatus());
}

TEST_F(PrivateMemory, MisuseIsAWordedError) {
  Vm& vm = guest_.vm();
  EXPECT_THAT(vm.SetMemoryAttributes(Gpa(0), 0x1000, 1).message(), HasSubstr("attributes 0x1"));
  EXPECT_TRUE(absl::IsInvalidArgument(Make(true, Gpa(0x123), 0x1000)));
  EXPECT_TRUE(absl::IsInvalidArgument(Make(true, Gpa(0), 0)));
  EXPECT_TRUE(absl::IsInvalidArgument(Make(true, Gpa(0x1000), uint64_t{1} << 48)));
  ViewingGuest without;
  EXPECT_TRUE(absl::IsFailedPrecondition(without.vm().SetMemoryAttributes(Gpa(0), 0x1000, 8)));
  EXPECT_TRUE(absl::IsFailedPrecondition(
      without.vcpu().HandleEptViolation(Gpa(0), kRead, Privacy::kShared).status));
  EXPECT_TRUE(absl::IsInvalidArgument(without.vm().SetMemoryRegion({.slot = 0,
                                                                    .flags = kSlotPrivateMemory,
                                                                    .gpa = Gpa(0),
                                                                    .size = MiB(1),
                                                                    .hva = kPrivate,
                                                                    .private_hva = kPrivate})));
}

TEST_F(PrivateMemory, PrivateMemoryThatIsNotAlignedLikeItsFramesIsMappedBySmallLeaves) {
  const Gpa gpa(GiB(1));
  const Hva elsewhere = kPrivate + GiB(1);
  ASSERT_EQ(guest_.memory().Map(elsewhere, MiB(8), {.order = 9}), absl::OkStatus());
  ASSERT_EQ(guest_.memory().Map(ViewingGuest::kRam + GiB(1), MiB(4), {.order = 9}),
            absl::OkStatus());
  ASSERT_EQ(guest_.vm().SetMemoryRegion({.slot = 5,
                                         .flags = kSlotPrivateMemory,
                                         .gpa = gpa,
                                         .size = MiB(4),
                                         .hva = ViewingGuest::kRam + GiB(1),
                                         .private_hva = elsewhere + 0x3000}),
            absl::OkStatus());
  ASSERT_EQ(Make(true, gpa, MiB(4)), absl::OkStatus());
  for (const uint64_t at : {uint64_t{0}, uint64_t{0x1000}, MiB(2) - 0x1000, MiB(2) + 0x5000}) {
    EXPECT_EQ(Reach(gpa + at), Host(elsewhere + 0x3000 + at));
    EXPECT_EQ(guest_.LevelOf(gpa + at), 1);
  }
}

}  // namespace
}  // namespace tdp
