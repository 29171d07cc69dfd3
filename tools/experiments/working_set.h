// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The working set that a host sees by A bits, beside the true one.

#ifndef TDP_TOOLS_EXPERIMENTS_WORKING_SET_H_
#define TDP_TOOLS_EXPERIMENTS_WORKING_SET_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

struct WorkingSetOptions {
  uint64_t every = 1'000'000;  // accesses from one scan of the A bits to the next
  uint64_t samples = 10;
  bool flush = false;  // each scan drops the CPU's translations, so that A bits are set again
};

// Says what the accesses between two scans used. Pages are of 4 KiB, whatever maps them.
struct WorkingSetSample {
  uint64_t true_pages = 0;    // that the program touched
  uint64_t young_pages = 0;   // of the program, whose A bit says so
  uint64_t missed_pages = 0;  // touched, and not young: the CPU had them cached
  uint64_t idle_pages = 0;    // young, and not touched: they share a large page with one that was
  uint64_t young_tables = 0;  // pages of the guest's tables, whose A bit says so
  uint64_t walks = 0;         // of the CPU
};

// InvalidArgument for options that do not go together; the errors of trace, machine and engine.
absl::StatusOr<std::vector<WorkingSetSample>> MeasureWorkingSet(LoopingTrace& trace,
                                                                const ReplayOptions& machine,
                                                                const WorkingSetOptions& options);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_WORKING_SET_H_
