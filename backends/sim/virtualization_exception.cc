// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/virtualization_exception.h"

namespace tdp::sim {

Event DeliverVirtualizationException(MachineState& state) {
  const PhysicalMemory& memory = state.memory;
  const uint64_t page = state.controls.ve_information.raw();
  const bool convertible = state.controls.ve && !state.violation_suppresses_ve &&
                           (state.registers.cr0 & kCr0Pe) != 0 &&
                           memory.Load<uint32_t>(page + kVeBusy) == 0;
  if (!convertible) return Event::kEptViolation;
  memory.Store<uint32_t>(page + kVeReason, kEptViolationReason);
  memory.Store<uint32_t>(page + kVeBusy, ~uint32_t{0});
  memory.Store<uint64_t>(page + kVeQualification, state.exit.qualification.raw());
  memory.Store<uint64_t>(page + kVeGva, state.exit.gva.raw());
  memory.Store<uint64_t>(page + kVeGpa, state.exit.gpa.raw());
  // Two bytes of a word whose rest is not defined.
  memory.Store<uint32_t>(page + kVeEptpIndex, state.eptp_index);
  state.exit.event = Event::kVirtualizationException;
  return Event::kVirtualizationException;
}

}  // namespace tdp::sim
