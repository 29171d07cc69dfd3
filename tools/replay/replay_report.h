// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds what a replay found, and shows it.

#ifndef TDP_TOOLS_REPLAY_REPLAY_REPORT_H_
#define TDP_TOOLS_REPLAY_REPLAY_REPORT_H_

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "tdp/backends/sim/mmu_config.h"
#include "tdp/backends/sim/mmu_counters.h"
#include "tdp/backends/sim/reference_counts.h"
#include "tdp/base/address.h"
#include "tdp/tools/replay/cold_check.h"
#include "tdp/tools/replay/ept_census.h"
#include "tdp/tools/replay/nested_counts.h"
#include "tdp/tools/replay/observations.h"
#include "tdp/tools/replay/process_counts.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/shadow_counts.h"
#include "tdp/tools/replay/violation_counts.h"
#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {

// Says what one CPU did.
struct CpuReport {
  sim::CpuCounters counters;
  uint64_t page_faults = 0;  // of the guest's kernel, answered on this CPU
  uint64_t exits = 0;        // VM exits to the host
};

struct ReplayReport {
  std::string command;  // a command line that makes the same run; may be empty
  std::string trace;
  ReplayOptions options;
  // Records by kind: fetches, loads, stores, modifies.
  std::array<uint64_t, 4> records{};
  SkipCounts skipped;    // by the readers of all traces
  sim::CpuCounters cpu;  // summed over the CPUs; under a machine, its MMU's in the same terms
  std::vector<CpuReport> per_cpu;
  sim::MmuConfig machine;  // the part whose MMU timed the accesses; without a name if there is none
  sim::MmuCounters mmu;    // what it counted
  ViolationCounts violations;
  ShadowCounts shadow_exits;
  NestedCounts nested_exits;
  ProcessCounts processes;                 // all zero without processes
  std::vector<ProcessReport> per_process;  // in the order of the traces; empty without processes
  uint64_t page_faults = 0;                // the guest kernel's
  std::array<uint64_t, 3> guest_leaves{};  // of 4 KiB, 2 MiB and 1 GiB
  PageCount guest_tables;
  EptCensus ept;                           // that the CPUs walk; all zero without EPT
  std::array<uint64_t, 2> ept12_leaves{};  // of a hypervisor in the guest: 4 KiB and 2 MiB
  PageCount ept12_tables;
  Observations observations;
  absl::Duration run_time;
  ColdCheck check;
  absl::Duration check_time;

  uint64_t accesses() const { return records[0] + records[1] + records[2] + records[3]; }
  uint64_t accesses_per_second() const;
  // VM exits to the host: violations, or those of the shadow, or of L2.
  uint64_t exits() const {
    return violations.total() + shadow_exits.total() + nested_exits.total();
  }
  // 0 if there was no walk, or no violation.
  double references_per_walk() const;
  double cycles_per_walk() const;
  double nanoseconds_per_violation() const;
  // TLB misses for each thousand instructions (MPKI), of which there are as many as fetches. 0 for
  // a trace without fetches.
  double misses_per_thousand_instructions() const;
};

// Returns a page of text.
std::string ReportText(const ReplayReport& report);

// "8,000,000".
std::string WithCommas(uint64_t n);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_REPLAY_REPORT_H_
