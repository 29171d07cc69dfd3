// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/exit_cost.h"

#include "tdp/base/status_macros.h"
#include "tdp/tools/mmu/machine_file.h"

namespace tdp::tools {

void AddExitCostOptions(OptionParser& parser, ExitCost* cost) {
  parser.AddInteger("exit-cycles",
                    "cycles of a VM exit with its handling; 0: what the file of --machine says, or "
                    "else skylake's",
                    &cost->cycles, 0, 1'000'000'000);
  parser.AddNumber("clock", "of the CPU, gigahertz", &cost->gigahertz, 0.001, 1000);
}

absl::StatusOr<uint64_t> ExitCycles(const ExitCost& cost, const ReplayOptions& options) {
  if (cost.cycles != 0) return cost.cycles;
  const std::string machine = options.cache.machine.empty() ? "skylake" : options.cache.machine;
  TDP_ASSIGN_OR_RETURN(const sim::MmuConfig config, LoadMachine(machine));
  return config.vm_exit_cycles;
}

absl::StatusOr<double> ExitSeconds(const ExitCost& cost, const ReplayOptions& options) {
  TDP_ASSIGN_OR_RETURN(const uint64_t cycles, ExitCycles(cost, options));
  return static_cast<double>(cycles) / (cost.gigahertz * 1e9);
}

}  // namespace tdp::tools
