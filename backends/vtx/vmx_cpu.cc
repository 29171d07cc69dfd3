// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/vmx_cpu.h"

#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/backends/vtx/vmx_instructions.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint64_t kFeatureLockedWithVmx = 5;
constexpr uint64_t kCr4Vmxe = 1 << 13;

// Sets the control registers as VMXON asks (SDM 24.7, 24.8).
void PrepareControlRegisters(const VmxMsrs& msrs) {
  constexpr uint64_t kLocked = 1;
  if ((tdp_rdmsr(kMsrFeatureControl) & kLocked) == 0) {
    tdp_wrmsr(kMsrFeatureControl, kFeatureLockedWithVmx);
  }
  tdp_write_cr0((tdp_read_cr0() | msrs.cr0_must_be_one) & msrs.cr0_may_be_one);
  tdp_write_cr4((tdp_read_cr4() | msrs.cr4_must_be_one | kCr4Vmxe) & msrs.cr4_may_be_one);
}

}  // namespace

absl::StatusOr<std::unique_ptr<VmxCpu>> VmxCpu::Enable(FrameArena& arena) {
  TDP_ASSIGN_OR_RETURN(const VmxMsrs msrs, VmxMsrs::Read());
  TDP_ASSIGN_OR_RETURN(const Hpa region, arena.AllocateZeroed(kPageSize, kPageSize));
  *arena.PointerTo<uint32_t>(region) = msrs.revision();
  PrepareControlRegisters(msrs);
  if (absl::Status status = VmxOn(region); !status.ok()) {
    arena.Free(region, kPageSize);
    return status;
  }
  return absl::WrapUnique(new VmxCpu(arena, msrs, region));
}

VmxCpu::VmxCpu(FrameArena& arena, const VmxMsrs& msrs, Hpa region)
    : arena_(arena),
      msrs_(msrs),
      region_(region),
      apic_id_(LocalApic(arena.direct_map_offset()).CurrentId()),
      gs_base_before_(tdp_rdmsr(kMsrGsBase)) {
  tdp_wrmsr(kMsrGsBase, reinterpret_cast<uint64_t>(&local_));
}

VmxCpu::~VmxCpu() {
  tdp_wrmsr(kMsrGsBase, gs_base_before_);
  TDP_CHECK(VmxOff().ok());
  tdp_write_cr4(tdp_read_cr4() & ~kCr4Vmxe);
  arena_.Free(region_, kPageSize);
}

bool VmxCpu::TakeKick() {
  return std::atomic_ref<uint8_t>(local_.kick_pending).exchange(0, std::memory_order_relaxed) != 0;
}

}  // namespace tdp::vtx
