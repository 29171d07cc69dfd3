// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest whose page tables are shadowed: the CPU runs on tables of the engine's, and the guest's
// faults, invalidations and loads of control registers come to the engine.

#ifndef TDP_TESTS_KERNEL_SHADOW_MACHINE_H_
#define TDP_TESTS_KERNEL_SHADOW_MACHINE_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tests/kernel/guest_machine.h"

namespace tdp::kernel {

class ShadowMachine : public GuestMachine {
 public:
  explicit ShadowMachine(const MachineOptions& options);

  absl::Status Start(int cpu, const sim::Registers& registers) override;

  absl::StatusOr<AccessOutcome> Access(int cpu, const MachineAccess& access) override;
  absl::Status WriteCr0(int cpu, uint64_t value) override;
  absl::Status WriteCr3(int cpu, uint64_t value) override;
  absl::Status WriteCr4(int cpu, uint64_t value) override;
  absl::Status Invlpg(int cpu, uint64_t gva) override;
  absl::Status Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) override;

 private:
  // The registers as the guest sees them.
  sim::Registers& guest(int cpu) { return guests_[static_cast<size_t>(cpu)]; }
  ShadowVcpu& shadow(int cpu) { return *vcpu(cpu).shadow(); }
  // Whether the access is done by it, or is the guest's fault.
  absl::StatusOr<bool> HandleFault(int cpu, const sim::Exit& exit, const MachineAccess& access,
                                   AccessOutcome& outcome);
  absl::Status SetPaging(int cpu, const sim::Registers& registers);

  std::vector<sim::Registers> guests_;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_SHADOW_MACHINE_H_
