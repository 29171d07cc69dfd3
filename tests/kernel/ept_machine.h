// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest under EPT: its page tables are the CPU's first dimension, the engine sees violations.

#ifndef TDP_TESTS_KERNEL_EPT_MACHINE_H_
#define TDP_TESTS_KERNEL_EPT_MACHINE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/kernel/guest_machine.h"
#include "tests/kernel/sim_host.h"

namespace tdp::kernel {

class EptMachine : public GuestMachine {
 public:
  explicit EptMachine(const HostOptions& options) : host_(options) {}

  SimHost& host() { return host_; }

  int cpus() const override { return host_.options().cpus; }
  void Poke(Gpa gpa, unsigned bytes, uint64_t value) override { host_.Poke(gpa, bytes, value); }
  absl::Status Start(int cpu, const sim::Registers& registers) override;

  absl::StatusOr<AccessOutcome> Access(int cpu, const MachineAccess& access) override;
  absl::Status WriteCr0(int cpu, uint64_t value) override;
  absl::Status WriteCr3(int cpu, uint64_t value) override;
  absl::Status WriteCr4(int cpu, uint64_t value) override;
  absl::Status Invlpg(int cpu, uint64_t gva) override;
  absl::Status Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) override;

  uint64_t Peek(Gpa gpa, unsigned bytes) override { return host_.Peek(gpa, bytes); }
  absl::Status Disturb(unsigned what, uint64_t where) override {
    return host_.Disturb(what, where);
  }
  absl::Status Check() override { return host_.Check(); }

 private:
  // Enters the guest and makes `attempt`, until it does not exit any more.
  template <typename Attempt>
  absl::Status RunUntilDone(int cpu, Attempt attempt);
  absl::Status HandleExit(int cpu);

  SimHost host_;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_EPT_MACHINE_H_
