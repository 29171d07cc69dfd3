// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// EPT violations that the guest handles itself as #VE (SDM vol. 3C, 26.5.7).

#ifndef TDP_BACKENDS_SIM_VIRTUALIZATION_EXCEPTION_H_
#define TDP_BACKENDS_SIM_VIRTUALIZATION_EXCEPTION_H_

#include <cstdint>

#include "tdp/backends/sim/machine_state.h"

namespace tdp::sim {

// Offsets in the virtualization-exception information page (SDM table 26-2).
inline constexpr uint64_t kVeReason = 0;  // 32 bits: the exit reason, 48
inline constexpr uint64_t kVeBusy = 4;    // 32 bits: not 0 while the guest is not ready for another
inline constexpr uint64_t kVeQualification = 8;
inline constexpr uint64_t kVeGva = 16;
inline constexpr uint64_t kVeGpa = 24;
inline constexpr uint64_t kVeEptpIndex = 32;  // 16 bits

inline constexpr uint32_t kEptViolationReason = 48;

// Turns the violation in `state.exit` into #VE if the control is on, the entry that ended the walk
// does not suppress it, the guest is in protected mode and the page is not busy: fills the page and
// returns kVirtualizationException. Otherwise it returns kEptViolation, and nothing changes.
Event DeliverVirtualizationException(MachineState& state);

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_VIRTUALIZATION_EXCEPTION_H_
