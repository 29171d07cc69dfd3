// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Traces as processes: which runs when, and what the kernel does at each change.

#ifndef TDP_TOOLS_REPLAY_PROCESS_OPTIONS_H_
#define TDP_TOOLS_REPLAY_PROCESS_OPTIONS_H_

#include <cstdint>

#include "tdp/tools/options.h"

namespace tdp::tools {

// PCIDs are 12 bits wide, and 0 is what a CPU without them uses.
inline constexpr uint64_t kMostProcesses = 4095;

struct ProcessOptions {
  bool separate = false;          // each trace is a process, in place of a thread
  uint64_t timeslice = 100'000;   // accesses until the CPU goes to another process, on average
  bool pcid = true;               // the kernel gives each address space a PCID
  uint64_t kernel_accesses = 64;  // that the kernel makes at a context switch or a page fault
  uint64_t count = 0;             // of processes; set by the replay. 0: there are none
};

// Declares --as, --timeslice, --pcid and --kernel-accesses.
void AddProcessOptions(OptionParser& parser, ProcessOptions* options);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_PROCESS_OPTIONS_H_
