// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run every schedule of small scenarios up to a bound of preemptions, and nothing by
// chance: an operation beside one access of a guest, in every kind of machine.

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "gtest/gtest.h"
#include "tests/explore/campaign.h"
#include "tests/explore/operations.h"
#include "tests/explore/scenario.h"
#include "tests/explore/world.h"

namespace tdp::explore {
namespace {

// Runs all schedules of `bound` preemptions at most, and says how many there were: `./run test`
// adds these lines up.
void ExpectNothingIn(const std::vector<Scenario>& scenarios, int bound, uint64_t seed) {
  // No scenario has so many: one that grows beyond this is to be taken out, not cut.
  constexpr uint64_t kMostRuns = 60000;
  const CampaignResult result = Explore(
      scenarios, {.most_runs = kMostRuns, .first_seed = seed, .most_findings = 3, .bound = bound});
  for (const Finding& finding : result.findings) {
    ADD_FAILURE() << finding.scenario << ": " << finding.what << "\n" << finding.ToCpp();
  }
  EXPECT_EQ(result.complete, scenarios.size()) << "with bound " << bound;
  EXPECT_GT(result.complete, 0u);
  std::printf("exhausted: bound %d, %llu scenarios, %llu schedules\n", bound,
              static_cast<unsigned long long>(result.complete),
              static_cast<unsigned long long>(result.runs));
}

class Bounded : public testing::TestWithParam<const char*> {};

TEST_P(Bounded, OnePreemptionBesideAnAccessFindsNothing) {
  std::vector<Scenario> scenarios;
  for (const Operation* operation : OperationsOf(KindOf(GetParam()))) {
    scenarios.push_back({.kind = &KindOf(GetParam()), .operations = {operation}, .small = true});
  }
  ExpectNothingIn(scenarios, 1, 1);
}

TEST_P(Bounded, TwoPreemptionsBesideAnAccessFindNothing) {
  std::vector<Scenario> scenarios;
  for (const Operation* operation : OperationsOf(KindOf(GetParam()))) {
    // The schedules of these operations are few.
    for (const std::string_view name : {"zap", "device"}) {
      if (operation->name != name) continue;
      scenarios.push_back({.kind = &KindOf(GetParam()), .operations = {operation}, .small = true});
    }
  }
  ExpectNothingIn(scenarios, 2, 1);
}

// No guest accesses anything between these pairs.
TEST(BoundedPairs, TwoPreemptionsFindNothing) {
  ExpectNothingIn({ScenarioOf("manual.small/get_and_clear+device"),
                   ScenarioOf("wp.small/zap+device"), ScenarioOf("wp.small/take+device")},
                  2, 1);
}

// Regression: a batch moved the sequence before its rules, so a fault that read both in between
// mapped, after all was over, what the view denies. The fault needs a page that the guest has not
// touched, as with this seed.
TEST(BoundedReplay, AFaultBesideABatchMapsNothingThatItDenies) {
  ExpectNothingIn({ScenarioOf("vmfunc.small/deny_at_once")}, 2, 43);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Bounded, testing::ValuesIn(NamesOfKinds()),
                         [](const auto& of) { return std::string(of.param); });

}  // namespace
}  // namespace tdp::explore
