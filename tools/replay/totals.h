// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds what a replay has counted up to some moment, over all CPUs.

#ifndef TDP_TOOLS_REPLAY_TOTALS_H_
#define TDP_TOOLS_REPLAY_TOTALS_H_

#include <cstdint>

#include "tdp/backends/sim/mmu_counters.h"
#include "tdp/backends/sim/reference_counts.h"
#include "tdp/tools/replay/nested_counts.h"
#include "tdp/tools/replay/process_counts.h"
#include "tdp/tools/replay/shadow_counts.h"
#include "tdp/tools/replay/violation_counts.h"

namespace tdp::tools {

struct Totals {
  sim::CpuCounters cpu;  // under a machine: its MMU's, in the same terms
  sim::MmuCounters mmu;  // of the machine; all zero without one
  ViolationCounts violations;
  ShadowCounts shadow_exits;
  NestedCounts nested_exits;
  ProcessCounts processes;
  uint64_t page_faults = 0;

  uint64_t exits() const {
    return violations.total() + shadow_exits.total() + nested_exits.total();
  }
};

// Returns a machine's counters in the terms of the plain model. Cycles of a walk are all but those
// of a second-level TLB that had the translation.
sim::CpuCounters PlainCounters(const sim::MmuCounters& mmu);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_TOTALS_H_
