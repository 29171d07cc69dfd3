// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Sub-page write permissions: the SPP table, which says for each 128-byte piece of a 4 KiB page
// whether it may be written although the EPT leaf says no (SDM vol. 3C, 29.3.4).

#ifndef TDP_BACKENDS_SIM_SUB_PAGE_H_
#define TDP_BACKENDS_SIM_SUB_PAGE_H_

#include <cstdint>

#include "tdp/backends/sim/machine_state.h"

namespace tdp::sim {

enum class SubPageAnswer : uint8_t {
  kWritable,
  kProtected,         // an ordinary EPT violation follows
  kMiss,              // no entry: SPP event
  kMisconfiguration,  // a reserved bit is set: SPP event
};

// Asks the table at `state.controls.sppt_root` about a write of `size` bytes, 1 to 4096 and within
// its page, at `gpa`. The loads are not counted as references of the walk.
SubPageAnswer LookUpSubPages(const MachineState& state, uint64_t gpa, unsigned size);

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_SUB_PAGE_H_
