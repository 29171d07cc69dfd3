// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/pass_through_cpu.h"

#include <cpuid.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint8_t kInvalidOpcodeVector = 6;
constexpr uint8_t kGeneralProtectionVector = 13;

CpuidLeaf OwnCpuid(uint32_t leaf, uint32_t subleaf) {
  CpuidLeaf own;
  __cpuid_count(leaf, subleaf, own.eax, own.ebx, own.ecx, own.edx);
  return own;
}

// Returns what of `kGuestXcr0` the machine's CPU has; 0 without XSAVE.
uint64_t AvailableXcr0() {
  constexpr uint32_t kXsave = 1u << 26;
  if ((OwnCpuid(1, 0).ecx & kXsave) == 0) return 0;
  return kGuestXcr0 & OwnCpuid(0xd, 0).eax;
}

// Returns whether it is one of VMX's, or GETSEC of SMX's, which the guest's CPU lacks.
bool IsVmxInstruction(ExitReason reason) {
  return (reason >= ExitReason::kVmcall && reason <= ExitReason::kVmxon) ||
         reason == ExitReason::kInvept || reason == ExitReason::kInvvpid ||
         reason == ExitReason::kGetsec;
}

}  // namespace

PassThroughCpu::PassThroughCpu(VtxVcpu& vcpu, PassThroughCpuOptions options)
    : vcpu_(vcpu), absent_msrs_(std::move(options.absent_msrs)) {
  cpuid_.highest_basic_leaf = OwnCpuid(0, 0).eax;
  cpuid_.xcr0 = AvailableXcr0();
  cpuid_.tsc_hz = options.tsc_hz;
  cpuid_.hidden = options.hidden;
}

absl::Status PassThroughCpu::Arm() {
  for (const uint32_t msr : absent_msrs_) {
    TDP_RETURN_IF_ERROR(vcpu_.SetMsrExits(msr, true, true));
  }
  return cpuid_.xcr0 == 0 ? absl::OkStatus() : vcpu_.SetXcr0(cpuid_.xcr0);
}

absl::StatusOr<bool> PassThroughCpu::Handle(const VmExit& exit) {
  absl::Status status;
  if (exit.reason == ExitReason::kCpuid) {
    status = OnCpuid(exit);
  } else if (exit.reason == ExitReason::kMsrRead || exit.reason == ExitReason::kMsrWrite) {
    status = OnMsr(exit);
  } else if (exit.reason == ExitReason::kXsetbv) {
    status = OnXsetbv(exit);
  } else if (exit.reason == ExitReason::kInvd) {
    status = vcpu_.SkipInstruction(exit);
  } else if (IsVmxInstruction(exit.reason)) {
    vcpu_.InjectException(kInvalidOpcodeVector);
  } else {
    return false;
  }
  if (!status.ok()) return status;
  return true;
}

absl::Status PassThroughCpu::OnCpuid(const VmExit& exit) {
  GuestRegisters& r = vcpu_.registers();
  const auto leaf = static_cast<uint32_t>(r.rax);
  const auto subleaf = static_cast<uint32_t>(r.rcx);
  TDP_ASSIGN_OR_RETURN(cpuid_.guest_cr4, vcpu_.Read(VmcsField::kGuestCr4));
  const CpuidLeaf shown = ShownCpuid(leaf, subleaf, OwnCpuid(leaf, subleaf), cpuid_);
  r.rax = shown.eax;
  r.rbx = shown.ebx;
  r.rcx = shown.ecx;
  r.rdx = shown.edx;
  return vcpu_.SkipInstruction(exit);
}

absl::Status PassThroughCpu::OnMsr(const VmExit& exit) {
  GuestRegisters& r = vcpu_.registers();
  const auto msr = static_cast<uint32_t>(r.rcx);
  if (std::find(absent_msrs_.begin(), absent_msrs_.end(), msr) == absent_msrs_.end()) {
    return GeneralProtection();
  }
  if (exit.reason == ExitReason::kMsrRead) r.rax = r.rdx = 0;
  return vcpu_.SkipInstruction(exit);
}

absl::Status PassThroughCpu::OnXsetbv(const VmExit& exit) {
  const GuestRegisters& r = vcpu_.registers();
  const uint64_t value = (r.rdx & 0xffffffff) << 32 | (r.rax & 0xffffffff);
  const bool is_xcr0 = static_cast<uint32_t>(r.rcx) == 0;
  if (!is_xcr0 || !vcpu_.SetXcr0(value).ok()) return GeneralProtection();
  return vcpu_.SkipInstruction(exit);
}

absl::Status PassThroughCpu::GeneralProtection() {
  vcpu_.InjectException(kGeneralProtectionVector, 0);
  return absl::OkStatus();
}

}  // namespace tdp::vtx
