// SPDX-License-Identifier: Apache-2.0
//
// A hypervisor's run loop for one vCPU.

#ifndef TDP_TOOLS_REPLAY_CPU_RUNNER_H_
#define TDP_TOOLS_REPLAY_CPU_RUNNER_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/exit.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/replay/violation_counts.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Used by one thread at a time; runners of different CPUs run at the same time.
class CpuRunner {
 public:
  CpuRunner(Machine& machine, int cpu) : machine_(machine), index_(cpu), cpu_(machine.cpu(cpu)) {}

  // Makes the accesses one by one; what the tables lack is added on the way, by the guest kernel or
  // by the engine. ResourceExhausted without guest or host memory; Internal if an access gets
  // nowhere.
  absl::Status Run(absl::Span<const TraceRecord> records);

  const ViolationCounts& violations() const { return violations_; }
  uint64_t page_faults() const { return page_faults_; }

 private:
  // Runs until the first VM exit; the accesses done.
  absl::StatusOr<size_t> RunGuest(absl::Span<const TraceRecord> records);
  // The same, already in the guest. Page faults are handled in there.
  absl::StatusOr<size_t> RunUntilExit(absl::Span<const TraceRecord> records);
  absl::Status HandleExit();
  absl::Status AnswerViolation(Gpa gpa, ExitQualification qualification);
  absl::Status MapAround(Gpa gpa, ExitQualification qualification);
  absl::Status Stuck() const;

  Machine& machine_;
  const int index_;
  sim::Cpu& cpu_;
  ViolationCounts violations_;
  uint64_t page_faults_ = 0;
  int events_without_progress_ = 0;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_CPU_RUNNER_H_
