// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests ask who may execute what: large pages lose X, and execution depends on the mode.

#include "tdp/mmu/policy/leaf_policy.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/mmu/viewing_guest.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr FaultOutcome kDone = FaultOutcome::kFixed;
constexpr FaultOutcome kDenied = FaultOutcome::kViewDenied;
constexpr PageCount kPage{1};

// --- Executable only as 4 KiB (iTLB multihit) ---

class Execute4KOnly : public testing::Test {
 protected:
  Execute4KOnly() : guest_({.vm = {.execute_4k_only = true}}) { guest_.AddSlot(Gpa(0), MiB(8), 9); }
  bool IsExecutable(Gpa gpa) { return guest_.vm().Translate(gpa)->access.can_execute(); }

  ViewingGuest guest_;
};

TEST_F(Execute4KOnly, ALargeLeafLacksX) {
  EXPECT_EQ(guest_.Store(Gpa(0)), kDone);
  EXPECT_EQ(guest_.LevelOf(Gpa(0)), 2);
  EXPECT_FALSE(IsExecutable(Gpa(0)));
}

TEST_F(Execute4KOnly, AFetchSplitsItAndThePageThatRunsGetsX) {
  EXPECT_EQ(guest_.Store(Gpa(0x3000)), kDone);
  EXPECT_EQ(guest_.Fetch(Gpa(0x5000)), kDone);
  EXPECT_EQ(guest_.LevelOf(Gpa(0x5000)), 1);
  EXPECT_TRUE(IsExecutable(Gpa(0x5000)));
  EXPECT_EQ(guest_.LevelOf(Gpa(0x3000)), 1);
  EXPECT_FALSE(IsExecutable(Gpa(0x3000))) << "nobody has run it";
  EXPECT_TRUE(guest_.vm().Translate(Gpa(0x3000))->entry.dirty()) << "the split keeps D";
  EXPECT_EQ(guest_.Fetch(Gpa(0x3000)), kDone);
}

TEST_F(Execute4KOnly, AFetchWhereNothingIsMapsOnePage) {
  EXPECT_EQ(guest_.Fetch(Gpa(MiB(2))), kDone);
  EXPECT_EQ(guest_.LevelOf(Gpa(MiB(2))), 1);
  EXPECT_EQ(guest_.LevelOf(Gpa(MiB(2) + 0x1000)), 0);
  EXPECT_EQ(guest_.Store(Gpa(MiB(2) + 0x1000)), kDone);
  EXPECT_EQ(guest_.LevelOf(Gpa(MiB(2) + 0x1000)), 1) << "a small page stands beside it";
}

TEST_F(Execute4KOnly, CollapsingRecoversLargeLeavesWithoutX) {
  for (uint64_t page = 0; page < 512; ++page) {
    EXPECT_EQ(guest_.Fetch(Gpa(page * kPageSize)), kDone);
  }
  EXPECT_EQ(guest_.Store(Gpa(0x7000)), kDone);
  EXPECT_EQ(*guest_.vm().CollapseRange(Gfn(0), PageCount(2048)), 1u);
  EXPECT_EQ(guest_.LevelOf(Gpa(0)), 2);
  EXPECT_FALSE(IsExecutable(Gpa(0)));
  EXPECT_TRUE(guest_.vm().Translate(Gpa(0))->entry.dirty());
  EXPECT_EQ(guest_.Fetch(Gpa(0)), kDone) << "and is split again";
  EXPECT_EQ(guest_.LevelOf(Gpa(0)), 1);
}

TEST_F(Execute4KOnly, PrefaultForFetchesMapsSmallPages) {
  EXPECT_EQ(*guest_.vcpu().Prefault(Gpa(0), MiB(2), Access::Execute()), MiB(2));
  EXPECT_EQ(guest_.LevelOf(Gpa(0)), 1);
  EXPECT_EQ(*guest_.vcpu().Prefault(Gpa(MiB(2)), MiB(2)), MiB(2));
  EXPECT_EQ(guest_.LevelOf(Gpa(MiB(2))), 2);
  EXPECT_FALSE(IsExecutable(Gpa(MiB(2))));
}

TEST(Execute4KOnlyIn1G, AFetchSplitsTwice) {
  ViewingGuest guest({.vm = {.execute_4k_only = true}});
  // Host memory is contiguous by 2 MiB only, so the 1 GiB leaf is collapsed from nothing larger.
  guest.AddSlot(Gpa(0), MiB(512), 9);
  EXPECT_EQ(guest.Load(Gpa(0)), kDone);
  EXPECT_EQ(guest.Fetch(Gpa(0)), kDone);
  EXPECT_EQ(guest.LevelOf(Gpa(MiB(2) - 1)), 1);
  EXPECT_EQ(guest.vm().Stats().faults.splits, 1u);
}

TEST(Execute4KOnlyWithReverseMap, ALargeLeafIsDroppedForAFetch) {
  ViewingGuest guest({.vm = {.reverse_map = true, .execute_4k_only = true}});
  guest.AddSlot(Gpa(0), MiB(4), 9);
  EXPECT_EQ(guest.Load(Gpa(0)), kDone);
  EXPECT_EQ(guest.LevelOf(Gpa(0)), 2);
  EXPECT_EQ(guest.Fetch(Gpa(0x1000)), kDone);
  EXPECT_EQ(guest.LevelOf(Gpa(0x1000)), 1);
}

// --- Mode-based execute control ---

class ExecuteByMode : public testing::TestWithParam<bool> {
 protected:
  static ViewingGuestOptions Options() {
    ViewingGuestOptions options;
    options.vm.execute_by_mode = Use::kRequire;
    options.controls.mbec = true;
    if (!GetParam()) {
      options.features.ept = options.features.ept.Without(ept::kCapAdvancedExitInformation);
    }
    return options;
  }
  ExecuteByMode() : guest_(Options()) {
    guest_.AddSlot(Gpa(0), MiB(4), 9);
    view_ = *guest_.vm().CreateView();
    EXPECT_EQ(guest_.vcpu().SetView(view_), absl::OkStatus());
  }
  FaultOutcome UserFetch(Gpa gpa) { return guest_.AccessLinear(gpa, sim::AccessKind::kFetch); }
  FaultOutcome SupervisorFetch(Gpa gpa) { return guest_.Access(gpa, sim::AccessKind::kFetch); }

  ViewingGuest guest_;
  ViewId view_;
};

TEST_P(ExecuteByMode, ALeafRunsInBothModesWhereNoViewSaysOtherwise) {
  EXPECT_EQ(UserFetch(Gpa(0x3000)), kDone);
  EXPECT_EQ(SupervisorFetch(Gpa(0x3000)), kDone);
  EXPECT_EQ(guest_.exits, 1);
  EXPECT_EQ(guest_.vm().Translate(Gpa(0x3000), 0, view_)->access, Access::All());
}

TEST_P(ExecuteByMode, AViewDeniesTheOneModeAndAllowsTheOther) {
  const Access user = Access::Read() | Access::UserExecute();
  const Access supervisor = Access::ReadWrite() | Access::Execute();
  ASSERT_EQ(guest_.vm().SetViewRights(view_, Gfn(3), kPage, user), absl::OkStatus());
  ASSERT_EQ(guest_.vm().SetViewRights(view_, Gfn(4), kPage, supervisor), absl::OkStatus());
  EXPECT_EQ(UserFetch(Gpa(0x3000)), kDone);
  EXPECT_EQ(SupervisorFetch(Gpa(0x3000)), kDenied);
  EXPECT_EQ(guest_.last.denied, Access::Execute());
  EXPECT_EQ(SupervisorFetch(Gpa(0x4000)), kDone);
  EXPECT_EQ(UserFetch(Gpa(0x4000)), kDenied);
  EXPECT_EQ(guest_.last.denied, Access::UserExecute());
  EXPECT_EQ(guest_.Store(Gpa(0x4000)), kDone);
}

TEST_P(ExecuteByMode, TheFirstFetchOfAPageIsDeniedToo) {
  ASSERT_EQ(guest_.vm().SetViewRights(view_, Gfn(3), kPage, Access::Read() | Access::Execute()),
            absl::OkStatus());
  EXPECT_EQ(UserFetch(Gpa(0x3000)), kDenied);
  EXPECT_EQ(SupervisorFetch(Gpa(0x3000)), kDone);
}

TEST_P(ExecuteByMode, PagesThatRunInOneModeOnlyNeedNotBeReadable) {
  ASSERT_EQ(guest_.vm().SetViewRights(view_, Gfn(3), kPage, Access::UserExecute()),
            absl::OkStatus());
  EXPECT_EQ(UserFetch(Gpa(0x3000)), kDone);
  EXPECT_EQ(guest_.Load(Gpa(0x3000)), kDenied);
  EXPECT_EQ(SupervisorFetch(Gpa(0x3000)), kDenied);
}

TEST_P(ExecuteByMode, PrefaultTellsTheModesApartWhereTheCpuDoes) {
  ASSERT_EQ(guest_.vm().SetViewRights(view_, Gfn(3), kPage, Access::Read() | Access::Execute()),
            absl::OkStatus());
  EXPECT_EQ(*guest_.vcpu().Prefault(Gpa(0x3000), kPageSize, Access::Execute()), kPageSize);
  const auto user = guest_.vcpu().Prefault(Gpa(0x3000), kPageSize, Access::UserExecute());
  EXPECT_EQ(absl::IsPermissionDenied(user.status()), GetParam()) << user.status();
}

INSTANTIATE_TEST_SUITE_P(AdvancedExitInformation, ExecuteByMode, testing::Bool(),
                         [](const auto& param) { return param.param ? "With" : "Without"; });

TEST(ExecuteByModeOption, WithoutTheCapabilityItIsAWordedErrorOrOff) {
  ViewingGuestOptions options;
  options.features.mbec = false;
  options.vm.execute_by_mode = Use::kIfOffered;
  ViewingGuest guest(options);
  const ViewId view = *guest.vm().CreateView();
  EXPECT_TRUE(absl::IsFailedPrecondition(
      guest.vm().SetViewRights(view, Gfn(0), kPage, Access::UserExecute())));
  const auto vm = Vm::Create(guest.backend(), {.execute_by_mode = Use::kRequire});
  EXPECT_TRUE(absl::IsFailedPrecondition(vm.status()));
  EXPECT_THAT(vm.status().message(), HasSubstr("execute_by_mode"));
}

TEST(ExitQualification, AFetchIsOfTheModeThatBit9OrTheRightsTell) {
  const Access both = Access::Execute() | Access::UserExecute();
  const auto fetch = [](Access allowed, uint64_t more = 0) {
    return ExitQualification(ExitQualification::Make(Access::Execute(), allowed, true, true).raw() |
                             more);
  };
  EXPECT_EQ(fetch(Access::None(), ept::kQualUserAddress).access_by_mode(true),
            Access::UserExecute());
  EXPECT_EQ(fetch(Access::None()).access_by_mode(true), Access::Execute());
  EXPECT_EQ(fetch(Access::None(), ept::kQualUserAddress).access_by_mode(false), both);
  EXPECT_EQ(fetch(Access::Execute()).access_by_mode(false), Access::UserExecute());
  EXPECT_EQ(fetch(Access::UserExecute()).access_by_mode(false), Access::Execute());
  EXPECT_EQ(fetch(both).access_by_mode(false), both) << "a translation that was stale";
  EXPECT_EQ(
      ExitQualification::Make(Access::Write(), Access::None(), true, true).access_by_mode(false),
      Access::Write());
}

}  // namespace
}  // namespace tdp
