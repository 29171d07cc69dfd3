// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run a fixed part of what the scheduler can explore: every scenario of each kind of
// machine under the same few schedules each time, so that a failure comes again.

#include <cstdint>
#include <cstdio>
#include <string>

#include "gtest/gtest.h"
#include "tests/explore/campaign.h"
#include "tests/explore/scenario.h"
#include "tests/explore/world.h"

namespace tdp::explore {
namespace {

class Campaign : public testing::TestWithParam<const char*> {};

TEST_P(Campaign, FindsNothing) {
  constexpr int kTriples = 40;
  constexpr uint32_t kRuns = 48;
  const std::string kind = std::string(GetParam()) + "/";
  const CampaignResult result =
      Explore(MakeScenarios(kind, kTriples), {.most_runs = kRuns, .most_findings = 3});
  for (const Finding& finding : result.findings) {
    ADD_FAILURE() << finding.scenario << ": " << finding.what << "\n" << finding.ToCpp();
  }
  // `./run test` adds these lines up.
  std::printf("explored: %llu scenarios, %llu runs, %llu steps\n",
              static_cast<unsigned long long>(result.scenarios),
              static_cast<unsigned long long>(result.runs),
              static_cast<unsigned long long>(result.steps));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Campaign, testing::ValuesIn(NamesOfKinds()),
                         [](const auto& of) { return std::string(of.param); });

}  // namespace
}  // namespace tdp::explore
