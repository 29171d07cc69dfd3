// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest under EPT: its page tables are the CPU's first dimension, the engine sees violations.

#ifndef TDP_TESTS_KERNEL_EPT_MACHINE_H_
#define TDP_TESTS_KERNEL_EPT_MACHINE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/kernel/guest_machine.h"

namespace tdp::kernel {

class EptMachine : public GuestMachine {
 public:
  using GuestMachine::GuestMachine;

  absl::Status Start(int cpu, const sim::Registers& registers) override;

  absl::StatusOr<AccessOutcome> Access(int cpu, const MachineAccess& access) override;
  absl::Status WriteCr0(int cpu, uint64_t value) override;
  absl::Status WriteCr3(int cpu, uint64_t value) override;
  absl::Status WriteCr4(int cpu, uint64_t value) override;
  absl::Status Invlpg(int cpu, uint64_t gva) override;
  absl::Status Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) override;

 private:
  // Makes `attempt` on the CPU in the guest, until it does not exit any more.
  template <typename Attempt>
  absl::Status Execute(int cpu, Attempt attempt);
  absl::Status HandleExit(int cpu, const sim::Exit& exit);
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_EPT_MACHINE_H_
