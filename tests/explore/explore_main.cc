// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// explore [SCENARIO [SECONDS [BOUND]]]: explores SCENARIO, or those whose names contain it, for
// SECONDS of CPU time, by chance or, with BOUND, all schedules of so many preemptions; with
// ".small" in SCENARIO, scenarios of two threads. Without arguments lists the kinds of machines and
// their operations. Ends with status 1 after a finding.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/match.h"
#include "tests/explore/campaign.h"
#include "tests/explore/operations.h"
#include "tests/explore/scenario.h"
#include "tests/explore/world.h"

namespace tdp::explore {
namespace {

int List() {
  for (const MachineKind& kind : MachineKinds()) {
    std::printf("%s/", kind.name);
    for (const Operation* operation : OperationsOf(kind)) std::printf(" %s", operation->name);
    std::printf("\n");
  }
  std::printf(
      "A scenario is KIND/OPERATION+OPERATION or KIND/OPERATION+OPERATION+OPERATION;\n"
      "a small one is KIND.small/OPERATION or KIND.small/OPERATION+OPERATION.\n");
  return 0;
}

int Run(std::string_view filter, double seconds, int bound) {
  constexpr int kTriples = 40;
  std::vector<Scenario> scenarios = absl::StrContains(filter, ".small")
                                        ? MakeSmallScenarios(filter)
                                        : MakeScenarios(filter, kTriples);
  const auto named = std::find_if(scenarios.begin(), scenarios.end(),
                                  [filter](const Scenario& each) { return each.Name() == filter; });
  if (named != scenarios.end()) scenarios = {*named};
  if (scenarios.empty()) {
    std::fprintf(stderr, "no scenario's name contains '%s'\n", std::string(filter).c_str());
    return 2;
  }
  CampaignOptions options;
  options.cpu_seconds = seconds;
  options.bound = bound;
  options.most_findings = 1000;
  const CampaignResult result = Explore(scenarios, options);
  for (const Finding& finding : result.findings) {
    std::printf("%s: %s\n%s\n", finding.scenario.c_str(), finding.what.c_str(),
                finding.ToCpp().c_str());
  }
  const double runs = static_cast<double>(result.runs);
  std::printf(
      "%llu of %zu scenarios, %llu runs in %.0f s (%.0f a second), %.0f steps and %.0f "
      "switches a run, %zu findings\n",
      static_cast<unsigned long long>(result.scenarios), scenarios.size(),
      static_cast<unsigned long long>(result.runs), result.cpu_seconds, runs / result.cpu_seconds,
      static_cast<double>(result.steps) / runs, static_cast<double>(result.switches) / runs,
      result.findings.size());
  if (bound >= 0) {
    std::printf("%llu scenarios were run under every schedule of at most %d preemptions\n",
                static_cast<unsigned long long>(result.complete), bound);
  }
  return result.findings.empty() ? 0 : 1;
}

}  // namespace
}  // namespace tdp::explore

int main(int argc, char** argv) {
  using namespace tdp::explore;  // the program is of this namespace alone
  if (argc < 2) return List();
  return Run(argv[1], argc > 2 ? std::atof(argv[2]) : 60, argc > 3 ? std::atoi(argv[3]) : -1);
}
