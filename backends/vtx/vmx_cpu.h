// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A CPU in VMX operation.

#ifndef TDP_BACKENDS_VTX_VMX_CPU_H_
#define TDP_BACKENDS_VTX_VMX_CPU_H_

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/local_apic.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/backends/vtx/vmx_capabilities.h"
#include "tdp/base/address.h"

namespace tdp::vtx {

// Made, used and destroyed on one CPU, whose IA32_GS_BASE it takes for itself in between: the entry
// path finds `VmxCpuLocal` there. Before it can be kicked, the CPU's NMI gate leads to
// `tdp_vmx_nmi_entry` or to a handler that does the same.
class VmxCpu {
 public:
  // VMXON. The errors of `VmxMsrs::Read`, ResourceExhausted, and those of VMXON itself.
  static absl::StatusOr<std::unique_ptr<VmxCpu>> Enable(FrameArena& arena);
  // VMXOFF; no VMCS is current any more.
  ~VmxCpu();

  VmxCpu(const VmxCpu&) = delete;
  VmxCpu& operator=(const VmxCpu&) = delete;

  const VmxMsrs& msrs() const { return msrs_; }
  ApicId apic_id() const { return apic_id_; }

  // Returns whether a kick has come since the last call; forgets it.
  bool TakeKick();

 private:
  VmxCpu(FrameArena& arena, const VmxMsrs& msrs, Hpa region);

  VmxCpuLocal local_;
  FrameArena& arena_;
  const VmxMsrs msrs_;
  const Hpa region_;
  const ApicId apic_id_;
  uint64_t gs_base_before_;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VMX_CPU_H_
