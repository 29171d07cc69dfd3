// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A scenario is a kind of machine, vCPUs in the guest, and operations beside them.

#ifndef TDP_TESTS_EXPLORE_SCENARIO_H_
#define TDP_TESTS_EXPLORE_SCENARIO_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tests/explore/operations.h"
#include "tests/explore/search.h"
#include "tests/explore/world.h"

namespace tdp::explore {

// Each operation runs on a thread of its own beside the vCPUs.
struct Scenario {
  const MachineKind* kind;
  std::vector<const Operation*> operations;
  // Small scenarios have two threads: an operation beside a vCPU that makes one access, or two
  // operations beside a vCPU that is out of the guest. Their steps are few enough for every
  // schedule of a bound to be run. Below a GiB the vCPU makes its access beside two as well.
  bool small = false;

  // Returns "wp/zap_held+invalidate", or of a small one "wp.small/zap".
  std::string Name() const;
  // Returns how many threads a run has; the vCPUs come first.
  int Threads() const { return Guests() + static_cast<int>(operations.size()); }
  // Returns how many vCPUs run: two beside a pair of operations where there is room for them, else
  // one.
  int Guests() const {
    if (small) return operations.size() == 1 || kind->gib ? 1 : 0;
    return operations.size() <= 2 ? 2 : 1;
  }
  // Return how many accesses each vCPU makes, and has made before. Where it has made few the next
  // is often a fault.
  int Accesses() const { return small ? 1 : 24; }
  int AccessesBefore() const { return small ? 3 : 12; }
};

// Makes every pair of operations of every kind of machine, an operation beside itself included, and
// `triples` sampled triples of each kind, of those whose name contains `filter`.
std::vector<Scenario> MakeScenarios(std::string_view filter, int triples);

// Makes the small ones whose name contains `filter`: every operation of every kind of machine
// beside a vCPU, then every pair of operations.
std::vector<Scenario> MakeSmallScenarios(std::string_view filter);

// Returns the scenario of that name. Dies if there is none.
Scenario ScenarioOf(std::string_view name);

// Returns what makes a run of it: the world varies by `seed`.
MakeProgram ProgramOf(const Scenario& scenario, uint64_t seed);

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_SCENARIO_H_
