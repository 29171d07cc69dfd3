// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/guest_run.h"

#include <utility>

#include "tdp/base/status_macros.h"

namespace tdp::tools {

absl::StatusOr<std::unique_ptr<GuestRun>> GuestRun::Create(LoopingTrace& trace,
                                                           const ReplayOptions& options) {
  if (options.paging != Paging::kEpt || options.cpus != 1) {
    return absl::InvalidArgumentError("the experiment is of one CPU, and with --paging ept");
  }
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<Machine> machine, Machine::Create(options));
  return std::unique_ptr<GuestRun>(new GuestRun(trace, std::move(machine)));
}

GuestRun::GuestRun(LoopingTrace& trace, std::unique_ptr<Machine> machine)
    : trace_(trace),
      machine_(std::move(machine)),
      runner_(std::make_unique<CpuRunner>(*machine_, 0)) {}

absl::Status GuestRun::Advance(uint64_t count, const Seen& seen) {
  while (count != 0) {
    TDP_ASSIGN_OR_RETURN(const absl::Span<const TraceRecord> records, trace_.Next(count));
    if (seen != nullptr) seen(records);
    TDP_RETURN_IF_ERROR(runner_->Run(records));
    count -= records.size();
  }
  return absl::OkStatus();
}

Totals GuestRun::totals() const {
  Totals totals;
  totals.violations = runner_->violations();
  totals.page_faults = runner_->page_faults();
  if (runner_->mmu() != nullptr) {
    totals.mmu = runner_->mmu()->counters();
    totals.cpu = PlainCounters(totals.mmu);
  } else {
    totals.cpu = machine_->cpu(0).counters();
  }
  return totals;
}

}  // namespace tdp::tools
