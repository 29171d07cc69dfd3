// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Answers the exits by which a guest of `VtxVcpuOptions::PassThrough` finds out about its CPU.

#ifndef TDP_BACKENDS_VTX_PASS_THROUGH_CPU_H_
#define TDP_BACKENDS_VTX_PASS_THROUGH_CPU_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/guest_cpuid.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/backends/vtx/vtx_vcpu.h"

namespace tdp::vtx {

struct PassThroughCpuOptions {
  uint64_t tsc_hz = 0;  // `CpuidContext::tsc_hz`
  HiddenFeatures hidden;
  // MSRs of hardware that the machine lacks though its guest takes it for granted: reads give 0,
  // writes are lost. All others are the machine's own.
  std::vector<uint32_t> absent_msrs;
};

// Belongs to the thread of its vCPU.
class PassThroughCpu {
 public:
  // `vcpu` outlives it, and was made with `msr_bitmap`.
  PassThroughCpu(VtxVcpu& vcpu, PassThroughCpuOptions options);

  // Has the absent MSRs exit, and gives the guest an XCR0 of its own if there is XSAVE. Once, when
  // the vCPU is loaded and before it runs. InvalidArgument for an MSR that no bitmap has.
  absl::Status Arm();

  // Answers CPUID (`ShownCpuid`), RDMSR and WRMSR, XSETBV, INVD, and the instructions of VMX and
  // GETSEC, which raise #UD: the instruction has its effect and the guest is past it, or it gets
  // the exception that the CPU would raise. False, with nothing done, for any other exit. #GP for
  // an MSR that exits and is none of `absent_msrs`, and for an XCR0 that `VtxVcpu::SetXcr0`
  // refuses. INVD writes nothing back: caches are coherent.
  absl::StatusOr<bool> Handle(const VmExit& exit);

 private:
  absl::Status OnCpuid(const VmExit& exit);
  absl::Status OnMsr(const VmExit& exit);
  absl::Status OnXsetbv(const VmExit& exit);
  absl::Status GeneralProtection();

  VtxVcpu& vcpu_;
  const std::vector<uint32_t> absent_msrs_;
  CpuidContext cpuid_;  // but for `guest_cr4`, which each exit brings
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_PASS_THROUGH_CPU_H_
