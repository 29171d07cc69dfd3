// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a VM exit costs, so that counts of them become time.

#ifndef TDP_TOOLS_EXPERIMENTS_EXIT_COST_H_
#define TDP_TOOLS_EXPERIMENTS_EXIT_COST_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "tdp/tools/options.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

struct ExitCost {
  uint64_t cycles = 0;     // of one exit with its handling; 0: what the machine file says
  double gigahertz = 3.0;  // of the CPU's clock
};

// Declares --exit-cycles and --clock.
void AddExitCostOptions(OptionParser& parser, ExitCost* cost);

// Cycles of an exit: those given, else those of the replay's machine, else Skylake's. The errors of
// `LoadMachine`.
absl::StatusOr<uint64_t> ExitCycles(const ExitCost& cost, const ReplayOptions& options);
absl::StatusOr<double> ExitSeconds(const ExitCost& cost, const ReplayOptions& options);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_EXIT_COST_H_
