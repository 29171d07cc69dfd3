// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The check after a replay: every mapping is walked again by a CPU with empty caches, and compared
// with what the guest kernel and the slots say.

#ifndef TDP_TOOLS_REPLAY_COLD_CHECK_H_
#define TDP_TOOLS_REPLAY_COLD_CHECK_H_

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

struct ColdCheck {
  uint64_t left_out = 0;         // pages of 4 KiB that were not looked at
  uint64_t pages = 0;            // of 4 KiB, walked and found mapped
  uint64_t untouched = 0;        // parts of larger guest pages that no EPT entry maps yet, rightly
  uint64_t device_accesses = 0;  // to ROM and MMIO windows
  uint64_t mismatches = 0;
  std::string first_mismatch;  // in words; empty if there is none
};

// Walks all of `machine`, or some of it, whose CPUs are idle; their counters change, and CPU 0 has
// no caches any more. Errors are those of the machine.
absl::StatusOr<ColdCheck> CheckFromCold(Machine& machine, ColdCheckMode mode, Progress& progress);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_COLD_CHECK_H_
