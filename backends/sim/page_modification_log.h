// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Page-modification logging (SDM vol. 3C, 29.3.6).

#ifndef TDP_BACKENDS_SIM_PAGE_MODIFICATION_LOG_H_
#define TDP_BACKENDS_SIM_PAGE_MODIFICATION_LOG_H_

#include <cstdint>

#include "tdp/backends/sim/machine_state.h"

namespace tdp::sim {

inline constexpr int kPmlEntries = 512;

// Returns whether the log is full: the index counts down from 511 and wraps to 65535 after the last
// entry.
inline bool IsLogFull(const MachineState& state) { return state.pml_index >= kPmlEntries; }

// Writes the page of `gpa` to the log, which is not full.
inline void LogDirtyPage(MachineState& state, uint64_t gpa) {
  state.memory.Store<uint64_t>(state.controls.pml_address.raw() + uint64_t{8} * state.pml_index,
                               gpa & ~kPageOffsetMask);
  --state.pml_index;
}

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_PAGE_MODIFICATION_LOG_H_
