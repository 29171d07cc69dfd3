// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A hypervisor's run loop for one vCPU.

#ifndef TDP_TOOLS_REPLAY_CPU_RUNNER_H_
#define TDP_TOOLS_REPLAY_CPU_RUNNER_H_

#include <cstdint>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/exit.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/replay/nested_counts.h"
#include "tdp/tools/replay/shadow_counts.h"
#include "tdp/tools/replay/violation_counts.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Used by one thread at a time; runners of different CPUs run at the same time.
class CpuRunner {
 public:
  CpuRunner(Machine& machine, int cpu)
      : machine_(machine),
        index_(cpu),
        cpu_(machine.cpu(cpu)),
        churn_(machine.options().table_churn),
        until_churn_(churn_),
        random_(machine.options().seed) {}

  // Makes the accesses one by one; what the tables lack is added on the way, by the guest kernel or
  // by the engine. ResourceExhausted without guest or host memory; Internal if an access gets
  // nowhere.
  absl::Status Run(absl::Span<const TraceRecord> records);

  const ViolationCounts& violations() const { return violations_; }
  uint64_t page_faults() const { return page_faults_; }
  const ShadowCounts& shadow_exits() const { return shadow_exits_; }
  const NestedCounts& nested_exits() const { return nested_exits_; }

  // The guest's kernel maps the page of `gva` if it is not mapped.
  absl::Status MapInGuest(Gva gva);

 private:
  // The same without a change of tables.
  absl::Status RunStretch(absl::Span<const TraceRecord> records);
  // The guest's kernel takes a page away.
  absl::Status Churn();
  // Runs until the first VM exit; the accesses done.
  absl::StatusOr<size_t> RunGuest(absl::Span<const TraceRecord> records);
  // The same, already in the guest. Page faults are handled in there.
  absl::StatusOr<size_t> RunUntilExit(absl::Span<const TraceRecord> records);
  absl::Status HandleExit();
  absl::Status AnswerShadowFault();
  absl::Status AnswerNested();
  absl::Status AnswerViolation(Gpa gpa, ExitQualification qualification);
  absl::Status MapAround(Gpa gpa, ExitQualification qualification);
  absl::Status Stuck() const;

  Machine& machine_;
  const int index_;
  sim::Cpu& cpu_;
  const uint64_t churn_;
  uint64_t until_churn_;
  std::mt19937_64 random_;
  std::vector<Gpa> written_;  // table entries, by the kernel
  ViolationCounts violations_;
  ShadowCounts shadow_exits_;
  NestedCounts nested_exits_;
  uint64_t page_faults_ = 0;
  int events_without_progress_ = 0;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_CPU_RUNNER_H_
