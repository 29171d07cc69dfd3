// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tells the host what to do while Linux runs.

#ifndef TDP_EXAMPLES_LINUX_SCENARIO_H_
#define TDP_EXAMPLES_LINUX_SCENARIO_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "tdp/backends/vtx/vm_exit.h"

namespace tdp::linux_example {

class LinuxGuest;

// Every call is made on a CPU of Linux's, outside the guest.
class Scenario {
 public:
  virtual ~Scenario() = default;
  // Linux is about to run for the first time.
  virtual absl::Status OnStart(LinuxGuest&) { return absl::OkStatus(); }
  // Linux's first CPU has run for another period of `GuestOptions::period`.
  virtual absl::Status OnTimer(LinuxGuest&) { return absl::OkStatus(); }
  // Linux has written a line to its console.
  virtual void OnLine(const std::string& /*line*/) {}
  // Empties the vCPU's dirty ring, which takes no more.
  virtual absl::Status OnRingFull(LinuxGuest&) { return absl::OkStatus(); }
  // Linux, at `rip`, wants more of a page than the view that it runs on allows.
  virtual absl::Status OnViewDenied(LinuxGuest&, const vtx::VmExit&, uint64_t /*rip*/) {
    return absl::InternalError("no view denies anything");
  }
  // Linux has come to its end; the host's own checks.
  virtual absl::Status OnEnd(LinuxGuest&) { return absl::OkStatus(); }
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_SCENARIO_H_
