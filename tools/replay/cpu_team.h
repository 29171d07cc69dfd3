// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The CPUs of a replay, one after the other on one thread, in an order that a seed decides.

#ifndef TDP_TOOLS_REPLAY_CPU_TEAM_H_
#define TDP_TOOLS_REPLAY_CPU_TEAM_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/tools/replay/batch_channel.h"
#include "tdp/tools/replay/cpu_runner.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/replay/observations.h"
#include "tdp/tools/replay/observe_options.h"
#include "tdp/tools/replay/process_counts.h"
#include "tdp/tools/replay/process_schedule.h"
#include "tdp/tools/replay/totals.h"
#include "tdp/tools/trace/physical_trace.h"

namespace tdp::tools {

// Used by one thread at a time. The same rounds, options and seed give the same counts every time:
// what one CPU does to the tables of all happens at the same place in the run of every other.
class CpuTeam {
 public:
  // `machine` outlives the team.
  explicit CpuTeam(Machine& machine);

  // Makes all accesses of `round`. A CPU that is chosen makes 1 to 2 * quantum - 1 of them, less at
  // the end of its batch; with one CPU there is nothing to choose. Errors are those of
  // `CpuRunner::Run`.
  absl::Status Run(const Round& round);

  // Every access of every CPU is written there from now on.
  void RecordPhysical(PhysicalTrace* trace) {
    for (auto& runner : runners_) runner->RecordPhysical(trace);
  }

  // Returns what each process has done; empty if there are none.
  const std::vector<ProcessReport>& processes() const { return processes_; }

  // Returns, after the last round, what was counted, and what was recorded.
  Totals totals() const;
  Observations TakeObservations();
  // Walks of the machines' MMUs by number of the 4 KiB page, if pages were asked for.
  absl::flat_hash_map<uint64_t, uint64_t> page_walks() const;
  // Accesses made before counting began, by kind.
  const std::array<uint64_t, 4>& warmup_records() const { return warmup_records_; }

  int size() const { return static_cast<int>(runners_.size()); }
  const CpuRunner& runner(int cpu) const { return *runners_[static_cast<size_t>(cpu)]; }

 private:
  absl::Status RunInTurns(const Round& round);
  // Runs a round of processes, which take turns on the CPUs.
  absl::Status RunProcesses(const Round& round);
  absl::Status RunProcess(const ProcessSchedule::Turn& turn, absl::Span<const TraceRecord> records);
  // Returns what CPU `cpu` has counted so far, but for its accesses.
  ProcessReport ReportOf(size_t cpu) const;
  // CPU `from` has taken the page of `gva` away from the program that it runs: the others hear of
  // it.
  absl::Status Shootdown(size_t from, Gva gva);
  // Accesses of one CPU, in pieces that end where something is to be recorded.
  absl::Status RunOn(size_t cpu, absl::Span<const TraceRecord> records);
  void CountWarmup(absl::Span<const TraceRecord> records);
  void ReachMark();

  Machine& machine_;
  const ObserveOptions observe_;
  const uint64_t quantum_;
  std::mt19937_64 random_;
  std::vector<std::unique_ptr<CpuRunner>> runners_;
  std::optional<ProcessSchedule> schedule_;  // if there are processes
  std::vector<ProcessReport> processes_;
  Observations observations_;
  Interval last_sample_;
  std::array<uint64_t, 4> warmup_records_{};
  uint64_t accesses_ = 0;   // made so far, since the warm-up's end once that is over
  uint64_t next_mark_ = 0;  // the number of accesses at which `ReachMark` is due
  bool warm_ = true;        // the warm-up is over
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_CPU_TEAM_H_
