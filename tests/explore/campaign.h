// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A campaign runs many scenarios under many schedules, for a given time of the CPU or a given
// number of runs.

#ifndef TDP_TESTS_EXPLORE_CAMPAIGN_H_
#define TDP_TESTS_EXPLORE_CAMPAIGN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/explore/scenario.h"
#include "tests/explore/schedule.h"

namespace tdp::explore {

struct Finding {
  std::string scenario;
  uint64_t seed = 0;
  bool weak_memory = false;
  Schedule schedule;
  std::string what;

  // Returns the finding as a test that replays it.
  std::string ToCpp() const;
};

struct CampaignOptions {
  double cpu_seconds = 60;
  // After so many random schedules of each scenario the campaign ends, whatever time that takes; 0:
  // no end.
  uint64_t most_runs = 0;
  uint64_t first_seed = 1;
  // After so many findings the campaign ends; one scenario has at most one.
  int most_findings = 1;
  // With a bound the campaign runs, instead of random schedules, every schedule of `seeds` seeds
  // with this many preemptions at most, as far as the time or, with `most_runs`, so many runs of a
  // scenario go. -1: random ones.
  int bound = -1;
  uint64_t seeds = 1;
};

struct CampaignResult {
  uint64_t runs = 0;
  uint64_t steps = 0;
  uint64_t switches = 0;
  uint64_t scenarios = 0;  // that had runs
  uint64_t complete = 0;   // with a bound: scenarios all of whose schedules were run
  double cpu_seconds = 0;
  std::vector<Finding> findings;
};

// Gives scenarios their turns, each in a process of its own: a failed check, which ends the
// process, is a finding too.
CampaignResult Explore(const std::vector<Scenario>& scenarios, const CampaignOptions& options);

// Runs what `finding` says. Returns what was found; empty for nothing.
std::string Replay(const Finding& finding);

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_CAMPAIGN_H_
