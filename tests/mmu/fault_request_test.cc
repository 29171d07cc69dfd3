// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/fault/fault_request.h"

#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp {
namespace {

constexpr Gpa kPage{0x5000};

TEST(FaultRequest, AnExitSaysWhatWasTriedAndWhatWasAllowed) {
  const auto request = FaultRequest::FromExit(
      kPage, ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true));
  EXPECT_EQ(request.gpa, kPage);
  EXPECT_EQ(request.access, Access::Write());
  EXPECT_TRUE(request.reached_leaf());
  EXPECT_EQ(request.mode, FaultRequest::Mode::kSupervisor);
}

TEST(FaultRequest, TheModeIsUnknownWhereTheExitIsNotOfTheFinalAddress) {
  const auto fetch = ExitQualification::Make(Access::Execute(), Access::None(), true, false);
  EXPECT_EQ(FaultRequest::FromExit(kPage, fetch).mode, FaultRequest::Mode::kUnknown);
}

TEST(FaultRequest, ByModeItAgreesWithTheExitForEveryPossibleOne) {
  for (uint64_t raw = 0; raw < 0x400; ++raw) {
    const ExitQualification exit(raw);
    if (!exit.is_possible()) continue;
    const auto request = FaultRequest::FromExit(kPage, exit);
    for (const bool advanced : {false, true}) {
      EXPECT_EQ(request.AccessByMode(advanced), exit.access_by_mode(advanced)) << raw;
    }
  }
}

TEST(FaultRequest, AFetchThatIsStillToComeIsOneOfItsMode) {
  const auto user = FaultRequest::Ahead(kPage, Access::UserExecute());
  EXPECT_EQ(user.access, Access::Execute());
  EXPECT_EQ(user.AccessByMode(true), Access::UserExecute());
  const auto supervisor = FaultRequest::Ahead(kPage, Access::Execute());
  EXPECT_EQ(supervisor.AccessByMode(true), Access::Execute());
  EXPECT_EQ(FaultRequest::Ahead(kPage, Access::ReadWrite()).access, Access::ReadWrite());
}

TEST(ExitQualification, WhatFoundNothingIsPossibleAndHasNoRights) {
  for (uint64_t raw = 0; raw < 0x20000; ++raw) {
    const ExitQualification exit(raw);
    if (!exit.found_nothing()) continue;
    EXPECT_TRUE(exit.is_possible() && !exit.reached_leaf()) << raw;
  }
}

TEST(FaultAnswer, OneWordKeepsOutcomeLevelAndDeniedAccess) {
  const FaultAnswer denied(FaultOutcome::kViewDenied, kLevel2M, Access::Write());
  EXPECT_EQ(denied.outcome(), FaultOutcome::kViewDenied);
  EXPECT_EQ(denied.level(), kLevel2M);
  EXPECT_EQ(denied.denied(), Access::Write());
  const FaultAnswer spurious(MapResult(MapOutcome::kSpurious, kLevel1G));
  EXPECT_EQ(spurious.outcome(), FaultOutcome::kSpurious);
  EXPECT_EQ(spurious.level(), kLevel1G);
}

}  // namespace
}  // namespace tdp
