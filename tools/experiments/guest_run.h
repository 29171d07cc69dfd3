// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest that an experiment lets run for some accesses at a time.

#ifndef TDP_TOOLS_EXPERIMENTS_GUEST_RUN_H_
#define TDP_TOOLS_EXPERIMENTS_GUEST_RUN_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/replay/cpu_runner.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/totals.h"

namespace tdp::tools {

class GuestRun {
 public:
  // Makes a machine under EPT with one CPU; InvalidArgument for another. `trace` outlives the run.
  static absl::StatusOr<std::unique_ptr<GuestRun>> Create(LoopingTrace& trace,
                                                          const ReplayOptions& options);

  // Makes `count` accesses. `seen`, if not null, gets those of each piece before they are made.
  using Seen = std::function<void(absl::Span<const TraceRecord>)>;
  absl::Status Advance(uint64_t count, const Seen& seen = nullptr);

  Machine& machine() { return *machine_; }
  CpuRunner& runner() { return *runner_; }
  // Returns what was counted since the beginning.
  Totals totals() const;

 private:
  GuestRun(LoopingTrace& trace, std::unique_ptr<Machine> machine);

  LoopingTrace& trace_;
  const std::unique_ptr<Machine> machine_;
  const std::unique_ptr<CpuRunner> runner_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_GUEST_RUN_H_
