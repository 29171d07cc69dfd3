// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Scenarios: a kind of machine, vCPUs in the guest, and operations beside them.

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

  // "wp/zap_held+invalidate".
  std::string Name() const;
  // Threads of a run; the vCPUs come first.
  int Threads() const { return Guests() + static_cast<int>(operations.size()); }
  // Two vCPUs beside a pair of operations where there is room for them, else one.
  int Guests() const { return operations.size() <= 2 ? 2 : 1; }
};

// Every pair of operations of every kind of machine, an operation beside itself included, and
// `triples` sampled triples of each kind, of those whose name contains `filter`.
std::vector<Scenario> MakeScenarios(std::string_view filter, int triples);

// The scenario of that name. Dies if there is none.
Scenario ScenarioOf(std::string_view name);

// What makes a run of it: the world varies by `seed`.
MakeProgram ProgramOf(const Scenario& scenario, uint64_t seed);

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_SCENARIO_H_
