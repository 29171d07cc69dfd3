// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What Linux is told of its CPU, where that is not what the CPU says, and its serial console.

#ifndef TDP_EXAMPLES_LINUX_GUEST_POLICY_H_
#define TDP_EXAMPLES_LINUX_GUEST_POLICY_H_

#include <cstdint>
#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/backends/vtx/vtx_vcpu.h"

namespace tdp::linux_example {

// Exits that a pass-through guest makes beside those of its memory. Each `On…` does what the
// instruction asks for and skips it, or makes it fault as the CPU would.
class GuestPolicy {
 public:
  // `hz`: ticks of the time-stamp counter in a second. `console_line`: what has come of a line of
  // the console that is not complete; all of a guest's CPUs write the same one.
  GuestPolicy(vtx::VtxVcpu& vcpu, uint64_t hz, std::string& console_line)
      : vcpu_(vcpu), hz_(hz), console_line_(console_line) {}

  // Says which ports and MSRs exit. Once, before the guest runs.
  absl::Status Arm();

  absl::Status OnCpuid(const vtx::VmExit& exit);
  absl::Status OnMsr(const vtx::VmExit& exit);
  absl::Status OnXsetbv(const vtx::VmExit& exit);
  // The data register of the first serial port. `line` gets each complete line.
  absl::Status OnSerial(const vtx::VmExit& exit, absl::FunctionRef<void(const std::string&)> line);

 private:
  absl::Status Finish(const vtx::VmExit& exit) { return vcpu_.SkipInstruction(exit); }
  absl::Status GeneralProtection();

  vtx::VtxVcpu& vcpu_;
  const uint64_t hz_;
  std::string& console_line_;
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_GUEST_POLICY_H_
