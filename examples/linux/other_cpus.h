// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Linux's CPUs beside the first: a processor of the host for each, which waits in the guest until
// Linux starts it.

#ifndef TDP_EXAMPLES_LINUX_OTHER_CPUS_H_
#define TDP_EXAMPLES_LINUX_OTHER_CPUS_H_

#include <atomic>
#include <deque>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/boot/bare.h"
#include "tdp/backends/vtx/local_apic.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/examples/linux/host.h"
#include "tdp/examples/linux/linux_cpu.h"
#include "tdp/examples/linux/scenario.h"
#include "tdp/mmu/vm.h"

namespace tdp::linux_example {

class OtherCpus {
 public:
  OtherCpus(LinuxGuest& guest, Scenario& scenario);
  // They leave VMX operation. Nobody kicks them any more.
  ~OtherCpus();

  // Starts `count` of them, and returns when each is about to wait for Linux. What comes in the way
  // ends Linux, and `End` says it.
  void Start(int count);
  // `LinuxGuest::has_ended`: gets every CPU out of the guest. The first one's failure, if one has
  // failed.
  absl::Status End();
  // Linux's first CPU has sent that one an INIT.
  void Init(vtx::ApicId to);

 private:
  struct Cpu {
    explicit Cpu(OtherCpus& all) : others(all) {}

    OtherCpus& others;
    std::atomic<bool> is_ready = false;
    std::atomic<bool> is_out = false;  // of the guest, for good
    vtx::ApicId apic_id = 0;
    LinuxCpu* linux = nullptr;  // while the processor runs
    absl::Status status;
    std::optional<vtx::Processor> processor;  // which uses the rest
  };

  // Holds what a processor needs to be one of Linux's CPUs.
  struct Parts {
    std::unique_ptr<vtx::VmxCpu> vmx;
    std::unique_ptr<Vcpu> mmu;
    std::unique_ptr<LinuxCpu> cpu;
  };

  absl::StatusOr<Parts> MakeParts();
  void Live(Cpu& cpu);

  LinuxGuest& guest_;
  Scenario& scenario_;
  const vtx::LocalApic apic_;
  std::atomic<bool> may_leave_ = false;
  std::deque<Cpu> cpus_;
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_OTHER_CPUS_H_
