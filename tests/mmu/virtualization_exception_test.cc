// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Some violations the guest hears of itself, by #VE; these tests ask which.

#include <cstdint>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/mmu/viewing_guest.h"

namespace tdp {
namespace {

constexpr FaultOutcome kDone = FaultOutcome::kFixed;
constexpr FaultOutcome kDenied = FaultOutcome::kViewDenied;
constexpr PageCount kPage{1};

class Exceptions : public testing::Test {
 protected:
  explicit Exceptions(VmOptions options = {}) : guest_({.vm = WithVe(options)}) {
    // The information page lies in host memory that no slot uses.
    EXPECT_EQ(guest_.memory().Map(kInformation, kPageSize), absl::OkStatus());
    information_ = guest_.memory().Resolve(kInformation, Access::Write())->hfn.address();
    sim::Controls controls;
    controls.ve = true;
    controls.ve_information = information_;
    EXPECT_EQ(guest_.cpu().SetControls(controls), absl::OkStatus());
    guest_.AddSlot(Gpa(0), MiB(4), 9);
    view_ = *guest_.vm().CreateView();
    EXPECT_EQ(guest_.vm().SetViewRights(view_, Gfn(3), kPage, Access::ReadExecute()),
              absl::OkStatus());
    EXPECT_EQ(guest_.vcpu().SetView(view_), absl::OkStatus());
  }
  static VmOptions WithVe(VmOptions options) {
    options.virtualization_exceptions = Use::kRequire;
    return options;
  }
  absl::Status LetRaise(Gfn first, bool raises = true, ViewId view = 1) {
    return guest_.vm().SetRaisesVe(view, first, kPage, raises);
  }
  // Does what the guest's handler does at its end.
  void Ready() { guest_.memory().physical().Store<uint32_t>(information_.raw() + 4, 0); }
  // Makes the access and expects that it ends in #VE, after some exits or none.
  void ExpectRaises(Gpa gpa, sim::AccessKind kind) {
    const int before = guest_.exceptions;
    EXPECT_EQ(guest_.Access(gpa, kind), kDenied);
    EXPECT_EQ(guest_.exceptions, before + 1);
    Ready();
  }
  void ExpectExits(Gpa gpa, sim::AccessKind kind, FaultOutcome outcome = kDenied) {
    const int before = guest_.exceptions;
    EXPECT_EQ(guest_.Access(gpa, kind), outcome);
    EXPECT_EQ(guest_.exceptions, before);
  }

  static constexpr Hva kInformation{0x7f8000000000};
  static constexpr auto kLoad = sim::AccessKind::kLoad;
  static constexpr auto kStore = sim::AccessKind::kStore;
  static constexpr auto kFetch = sim::AccessKind::kFetch;
  ViewingGuest guest_;
  Hpa information_;
  ViewId view_;
};

TEST_F(Exceptions, EveryEntrySuppressesThemUnlessARangeIsLetRaise) {
  ExpectExits(Gpa(0x2000), kStore, kDone);
  ExpectExits(Gpa(0x3000), kStore);
  ExpectExits(Gpa(0x3000), kLoad, kDone);
  ExpectExits(Gpa(0x3000), kStore);
  ExpectExits(Gpa(MiB(64)), kStore, FaultOutcome::kMmio);
  guest_.Settle(guest_.vm().ZapRange(Gfn(0), PageCount(1024)));
  ExpectExits(Gpa(0x2000), kLoad, kDone);
}

TEST_F(Exceptions, WhatTheViewDeniesBecomesOne) {
  ASSERT_EQ(LetRaise(Gfn(3)), absl::OkStatus());
  EXPECT_EQ(guest_.Load(Gpa(0x3000)), kDone);
  const int exits = guest_.exits;
  ExpectRaises(Gpa(0x3000), kStore);
  EXPECT_EQ(guest_.exits, exits) << "the hypervisor hears nothing";
  EXPECT_EQ(guest_.memory().physical().Load(information_.raw() + 24) & ~uint64_t{0xfff}, 0x3000u);
  ExpectExits(Gpa(0x2000), kStore, kDone);
}

TEST_F(Exceptions, TheFirstTouchOfAPageBecomesOneAfterThePageIsThere) {
  ASSERT_EQ(LetRaise(Gfn(3)), absl::OkStatus());
  ExpectRaises(Gpa(0x3000), kStore);
  ASSERT_EQ(guest_.vm().SetViewRights(view_, Gfn(3), kPage, Access::None()), absl::OkStatus());
  ExpectRaises(Gpa(0x3000), kLoad);
  ExpectRaises(Gpa(0x3000), kFetch);
}

TEST_F(Exceptions, AGuestThatIsNotReadyGetsAnExit) {
  ASSERT_EQ(LetRaise(Gfn(3)), absl::OkStatus());
  EXPECT_EQ(guest_.Store(Gpa(0x3000)), kDenied);
  EXPECT_EQ(guest_.exceptions, 1);
  ExpectExits(Gpa(0x3000), kStore);
}

TEST_F(Exceptions, TheyCanBeSwitchedOffAgain) {
  ASSERT_EQ(LetRaise(Gfn(3)), absl::OkStatus());
  ExpectRaises(Gpa(0x3000), kStore);
  ASSERT_EQ(LetRaise(Gfn(3), false), absl::OkStatus());
  ExpectExits(Gpa(0x3000), kStore);
  EXPECT_EQ(guest_.Load(Gpa(0x3000)), kDone);
  ExpectExits(Gpa(0x3000), kStore);
}

// The guest must not hear of the rights that the log takes.
TEST_F(Exceptions, NoneIsRaisedWhileTheSlotLogs) {
  ASSERT_EQ(guest_.vm().SetRaisesVe(view_, Gfn(0), PageCount(1024), true), absl::OkStatus());
  for (Gpa gpa : {Gpa(0x2000), Gpa(0x8000)}) EXPECT_EQ(guest_.Store(gpa), kDone);
  ExpectRaises(Gpa(0x3000), kStore);
  guest_.SetSlot(Gpa(0), MiB(4), kSlotLogDirtyPages);
  ExpectExits(Gpa(0x2000), kStore, kDone);
  ExpectExits(Gpa(0x8000), kLoad, kDone);
  ExpectExits(Gpa(0x8000), kStore, kDone);
  ExpectExits(Gpa(0x3000), kStore);
  ExpectExits(Gpa(0x3000), kLoad, kDone);
  ExpectExits(Gpa(0x3000), kStore);
  int dirty = 0;
  EXPECT_EQ(guest_.vm().TakeDirtyLog(
                0, [&](uint64_t, uint64_t mask) { dirty += __builtin_popcountll(mask); }),
            absl::OkStatus());
  EXPECT_EQ(dirty, 2);
  guest_.SetSlot(Gpa(0), MiB(4), 0);
  ExpectExits(Gpa(0x2000), kStore, kDone);
  ExpectRaises(Gpa(0x3000), kStore);
}

TEST_F(Exceptions, NoneIsRaisedInAnyViewWhileTheSlotLogs) {
  const ViewId second = *guest_.vm().CreateView();
  ASSERT_EQ(guest_.vm().SetViewRights(second, Gfn(3), kPage, Access::ReadExecute()),
            absl::OkStatus());
  for (const ViewId view : {view_, second}) {
    ASSERT_EQ(LetRaise(Gfn(3), true, view), absl::OkStatus());
    ASSERT_EQ(guest_.vcpu().SetView(view), absl::OkStatus());
    ExpectRaises(Gpa(0x3000), kStore);
  }
  guest_.SetSlot(Gpa(0), MiB(4), kSlotLogDirtyPages);
  for (const ViewId view : {view_, second}) {
    ASSERT_EQ(guest_.vcpu().SetView(view), absl::OkStatus());
    ExpectExits(Gpa(0x3000), kStore);
  }
}

TEST_F(Exceptions, NoneIsRaisedByAWriteThatATakeOfTheLogWaitsFor) {
  ASSERT_EQ(guest_.vm().SetRaisesVe(view_, Gfn(0), PageCount(1024), true), absl::OkStatus());
  guest_.SetSlot(Gpa(0), MiB(4), kSlotLogDirtyPages);
  for (int round = 0; round < 2; ++round) {
    ExpectExits(Gpa(0x9000), kStore, kDone);
    int dirty = 0;
    EXPECT_EQ(guest_.vm().TakeDirtyLog(
                  0, [&](uint64_t, uint64_t mask) { dirty += __builtin_popcountll(mask); }),
              absl::OkStatus());
    EXPECT_EQ(dirty, 1);
  }
}

// Nor does the guest hear of what the host denies, as it breaks copy on write.
TEST_F(Exceptions, NoneIsRaisedWhereTheHostHasAnotherPageToGive) {
  ASSERT_EQ(guest_.vm().SetViewRights(view_, Gfn(5), kPage, Access::ReadWrite()), absl::OkStatus());
  ASSERT_EQ(LetRaise(Gfn(5)), absl::OkStatus());
  const Hva hva = ViewingGuest::kRam + 0x5000;
  ASSERT_EQ(guest_.memory().Protect(hva, kPageSize, false), absl::OkStatus());
  EXPECT_EQ(guest_.Load(Gpa(0x5000)), kDone);
  ExpectExits(Gpa(0x5000), kStore, FaultOutcome::kError);
  ASSERT_EQ(guest_.memory().Protect(hva, kPageSize, true), absl::OkStatus());
  EXPECT_EQ(guest_.Store(Gpa(0x5000)), kDone);
  ExpectRaises(Gpa(0x5000), kFetch);
}

TEST_F(Exceptions, TheBaseDeniesNothingSoItRaisesNone) {
  ASSERT_EQ(LetRaise(Gfn(3), true, kBaseView), absl::OkStatus());
  ASSERT_EQ(guest_.vcpu().SetView(kBaseView), absl::OkStatus());
  EXPECT_EQ(guest_.Store(Gpa(0x3000)), kDone);
  EXPECT_EQ(guest_.exceptions, 0);
}

class ExceptionsOfSmallCode : public Exceptions {
 protected:
  ExceptionsOfSmallCode() : Exceptions({.execute_4k_only = true}) {}
};

TEST_F(ExceptionsOfSmallCode, AMissingXOfALargePageIsNotTheGuestsToHearOf) {
  ASSERT_EQ(guest_.vm().SetRaisesVe(view_, Gfn(512), PageCount(512), true), absl::OkStatus());
  EXPECT_EQ(guest_.Store(Gpa(MiB(2))), kDone);
  ExpectExits(Gpa(MiB(2)), kFetch, kDone);
  EXPECT_EQ(guest_.Store(Gpa(MiB(1))), kDone);
  ExpectExits(Gpa(MiB(1)), kFetch, kDone);
}

TEST(ExceptionsOption, NeedsTheCapabilityAndABits) {
  ViewingGuestOptions options;
  options.features.ve = false;
  ViewingGuest guest(options);
  const auto vm = Vm::Create(guest.backend(), {.virtualization_exceptions = Use::kRequire});
  EXPECT_TRUE(absl::IsFailedPrecondition(vm.status()));
  EXPECT_THAT(vm.status().message(), testing::HasSubstr("virtualization_exceptions"));
  ViewingGuest aging(
      {.vm = {.accessed_dirty = Use::kNever, .virtualization_exceptions = Use::kRequire}});
  EXPECT_TRUE(absl::IsFailedPrecondition(aging.vm().SetRaisesVe(0, Gfn(0), kPage, true)));
}

TEST(ExceptionsWithReverseMap, TablesStaySuppressed) {
  ViewingGuest guest({.vm = {.reverse_map = true, .virtualization_exceptions = Use::kRequire}});
  guest.AddSlot(Gpa(0), MiB(4));
  EXPECT_EQ(guest.Store(Gpa(0x3000)), kDone);
  guest.Settle(guest.vm().ZapRange(Gfn(3), kPage));
  EXPECT_EQ(guest.vm().CheckInvariants(), absl::OkStatus());
  EXPECT_TRUE(absl::IsFailedPrecondition(guest.vm().SetRaisesVe(0, Gfn(0), kPage, true)));
  EXPECT_EQ(guest.Store(Gpa(0x3000)), kDone);
}

}  // namespace
}  // namespace tdp
