// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One of Linux's CPUs: what enters the guest and answers its exits.

#ifndef TDP_EXAMPLES_LINUX_LINUX_CPU_H_
#define TDP_EXAMPLES_LINUX_LINUX_CPU_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/pass_through_cpu.h"
#include "tdp/backends/vtx/serial_tap.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/examples/linux/linux_image.h"
#include "tdp/examples/linux/scenario.h"
#include "tdp/examples/linux/shadow_paging.h"
#include "tdp/mmu/vm.h"

namespace tdp::linux_example {

class LinuxCpu {
 public:
  // Made, used and destroyed on `cpu`. `mmu` is a vCPU of the guest's `Vm`.
  static absl::StatusOr<std::unique_ptr<LinuxCpu>> Create(LinuxGuest& guest, vtx::VmxCpu& cpu,
                                                          Vcpu& mmu);
  ~LinuxCpu();

  // Linux begins here.
  absl::Status Start(const LinuxStart& start);
  // Lets the CPU do nothing until Linux sends it a start-up IPI.
  absl::Status AwaitStartUp();
  // Until Linux ends, by a reset or for the worse, or this CPU fails.
  absl::Status Run(Scenario& scenario);
  // Runs on the `Vm` of `mmu` from now on. Outside the guest.
  absl::Status Adopt(Vcpu& mmu);

  // Says that Linux has sent this CPU an INIT; any thread may. Returns true if the CPU has to be
  // kicked to take it.
  bool RequestInit() {
    if (is_asleep_) return false;
    init_is_pending_ = true;
    return true;
  }

  vtx::VtxVcpu& vcpu() { return *vcpu_; }

 private:
  LinuxCpu(LinuxGuest& guest, vtx::VmxCpu& cpu, Vcpu& mmu)
      : guest_(guest), cpu_(cpu), mmu_(&mmu), number_(mmu.id()) {}

  absl::StatusOr<vtx::VmExit> Enter();
  absl::StatusOr<vtx::VmExit> EnterAsleep();
  absl::Status Handle(const vtx::VmExit& exit, Scenario& scenario);
  absl::Status HandleMemory(const vtx::VmExit& exit, Scenario& scenario);
  absl::Status StartUp(uint64_t vector);
  absl::Status OnPeriod(Scenario& scenario);

  LinuxGuest& guest_;
  vtx::VmxCpu& cpu_;
  Vcpu* mmu_;
  const VcpuId number_;  // Linux's first CPU is 0
  std::unique_ptr<vtx::VtxVcpu> vcpu_;
  std::optional<vtx::PassThroughCpu> told_;
  std::optional<vtx::SerialTap> console_;
  std::unique_ptr<ShadowPaging> shadow_;  // where EPT is off
  std::atomic<bool> is_asleep_ = false;   // until the start-up IPI
  std::atomic<bool> init_is_pending_ = false;
  uint64_t pml_buffers_ = 0;
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_LINUX_CPU_H_
