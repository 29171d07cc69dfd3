// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Counts what several address spaces cost.

#ifndef TDP_TOOLS_REPLAY_PROCESS_COUNTS_H_
#define TDP_TOOLS_REPLAY_PROCESS_COUNTS_H_

#include <cstdint>

namespace tdp::tools {

struct ProcessCounts {
  uint64_t switches = 0;         // a CPU went to another process, the first one too
  uint64_t flushes = 0;          // at which it dropped translations: all without PCIDs
  uint64_t shootdowns = 0;       // changes of a table that another CPU had to hear of
  uint64_t ipis = 0;             // to CPUs that ran the process
  uint64_t deferred = 0;         // CPUs that ran another one, and will drop when they come back
  uint64_t kernel_accesses = 0;  // by the kernel at switches and page faults

  ProcessCounts& operator+=(const ProcessCounts& other) {
    switches += other.switches;
    flushes += other.flushes;
    shootdowns += other.shootdowns;
    ipis += other.ipis;
    deferred += other.deferred;
    kernel_accesses += other.kernel_accesses;
    return *this;
  }
};

// Says what one process did.
struct ProcessReport {
  uint64_t accesses = 0;
  uint64_t tlb_misses = 0;  // those of the kernel on its behalf too
  uint64_t walks = 0;
  uint64_t page_faults = 0;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_PROCESS_COUNTS_H_
