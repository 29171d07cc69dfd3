// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/guest_policy.h"

#include <cpuid.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/base/status_macros.h"

namespace tdp::linux_example {
namespace {

constexpr uint8_t kGeneralProtectionVector = 13;
constexpr uint64_t kXcr0 = 7;  // x87, SSE, AVX: what the driver keeps apart

constexpr uint32_t Bit(int number) { return 1u << number; }

// Leaf 1: what is the host's (VMX, SMX), what the machine has no MSRs or no clock for.
constexpr uint32_t kHidden1Ecx =
    Bit(3) | Bit(5) | Bit(6) | Bit(15) | Bit(21) | Bit(24);  // MONITOR VMX SMX PDCM x2APIC deadline
constexpr uint32_t kHidden1Edx = Bit(7) | Bit(14);           // MCE MCA
constexpr uint32_t kOsXsave = Bit(27);
constexpr uint32_t kHypervisor = Bit(31);
// Leaf 7: state beyond `kXcr0` (AVX-512, PKU, CET), and what the emulator offers by halves.
constexpr uint32_t kHidden7Ebx =
    Bit(14) | Bit(16) | Bit(17) | Bit(21) | Bit(26) | Bit(27) | Bit(28) | Bit(30) | Bit(31);
constexpr uint32_t kHidden7Ecx =
    Bit(1) | Bit(3) | Bit(4) | Bit(6) | Bit(7) | Bit(11) | Bit(12) | Bit(14) | Bit(16);
// FSRM without the MSR that says whether fast strings are on makes Linux copy wrongly.
constexpr uint32_t kHidden7Edx = Bit(2) | Bit(3) | Bit(4) | Bit(8) | Bit(20);

// MSRs of hardware that is not there, which Linux reads before it could take a fault; they read 0.
constexpr uint32_t kAbsentMsrs[] = {0x8b,    // the microcode's revision
                                    0x19b,   // thermal interrupt
                                    0x1a0};  // IA32_MISC_ENABLE

constexpr uint16_t kSerialData = 0x3f8;
constexpr uint16_t kSerialInterruptEnable = 0x3f9;
constexpr uint16_t kSerialLineControl = 0x3fb;

struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Where the guest's answer is not the CPU's own.
CpuidLeaf Filter(uint32_t leaf, uint32_t subleaf, CpuidLeaf own, uint64_t hz, uint64_t cr4) {
  constexpr uint32_t kMostLeaf = 0x16, kHypervisorLeaf = 0x40000000;
  constexpr uint64_t kCr4OsXsave = 1 << 18;
  switch (leaf) {
    case 0:
      own.eax = kMostLeaf;
      return own;
    case 1:
      own.ecx = (own.ecx & ~(kHidden1Ecx | kOsXsave)) | kHypervisor;
      if ((cr4 & kCr4OsXsave) != 0) own.ecx |= kOsXsave;
      own.edx &= ~kHidden1Edx;
      return own;
    case 7:
      if (subleaf != 0) return {};
      return {0, own.ebx & ~kHidden7Ebx, own.ecx & ~kHidden7Ecx, own.edx & ~kHidden7Edx};
    case 0xd:
      if (subleaf == 0) return {static_cast<uint32_t>(kXcr0), 0x340, 0x340, 0};
      if (subleaf == 1) return {own.eax & 1, 0, 0, 0};  // XSAVEOPT, not XSAVES
      return subleaf == 2 ? own : CpuidLeaf{};
    case 6:
    case 0xa:
    case 0x14:
      return {};
    case 0x15:  // the ratio of the counter to a crystal, and the crystal's frequency
      return {1, 1, static_cast<uint32_t>(hz), 0};
    case 0x16:
      return {static_cast<uint32_t>(hz / 1000000), static_cast<uint32_t>(hz / 1000000), 0, 0};
    case kHypervisorLeaf:
      return {kHypervisorLeaf, 0x7462696c, 0x00007064, 0};
    default:
      return leaf > kMostLeaf && leaf < 0x80000000 ? CpuidLeaf{} : own;
  }
}

}  // namespace

absl::Status GuestPolicy::Arm() {
  TDP_RETURN_IF_ERROR(vcpu_.SetIoExits(kSerialData, 1, true));
  for (const uint32_t msr : kAbsentMsrs) {
    TDP_RETURN_IF_ERROR(vcpu_.SetMsrExits(msr, true, true));
  }
  constexpr uint32_t kXsave = Bit(26);
  CpuidLeaf own;
  __cpuid(1, own.eax, own.ebx, own.ecx, own.edx);
  return (own.ecx & kXsave) != 0 ? vcpu_.SetXcr0(kXcr0) : absl::OkStatus();
}

absl::Status GuestPolicy::OnCpuid(const vtx::VmExit& exit) {
  vtx::GuestRegisters& r = vcpu_.registers();
  const auto leaf = static_cast<uint32_t>(r.rax);
  const auto subleaf = static_cast<uint32_t>(r.rcx);
  CpuidLeaf own;
  __cpuid_count(leaf, subleaf, own.eax, own.ebx, own.ecx, own.edx);
  TDP_ASSIGN_OR_RETURN(const uint64_t cr4, vcpu_.Read(vtx::VmcsField::kGuestCr4));
  const CpuidLeaf shown = Filter(leaf, subleaf, own, hz_, cr4);
  r.rax = shown.eax;
  r.rbx = shown.ebx;
  r.rcx = shown.ecx;
  r.rdx = shown.edx;
  return Finish(exit);
}

absl::Status GuestPolicy::OnMsr(const vtx::VmExit& exit) {
  vtx::GuestRegisters& r = vcpu_.registers();
  for (const uint32_t msr : kAbsentMsrs) {
    if (static_cast<uint32_t>(r.rcx) != msr) continue;
    if (exit.reason == vtx::ExitReason::kMsrRead) r.rax = r.rdx = 0;
    return Finish(exit);
  }
  return GeneralProtection();  // no bit in the bitmap: no such MSR
}

absl::Status GuestPolicy::OnXsetbv(const vtx::VmExit& exit) {
  const vtx::GuestRegisters& r = vcpu_.registers();
  const uint64_t value = (r.rdx & 0xffffffff) << 32 | (r.rax & 0xffffffff);
  if (static_cast<uint32_t>(r.rcx) != 0 || !vcpu_.SetXcr0(value).ok()) return GeneralProtection();
  return Finish(exit);
}

absl::Status GuestPolicy::GeneralProtection() {
  vcpu_.InjectException(kGeneralProtectionVector, 0);
  return absl::OkStatus();
}

// While the kernel polls, nothing has to reach the real port: it always says that it is empty. With
// the port's interrupt on, the byte is what makes the next interrupt.
absl::Status GuestPolicy::OnSerial(const vtx::VmExit& exit,
                                   absl::FunctionRef<void(const std::string&)> line) {
  constexpr uint8_t kDivisorLatch = 0x80, kInterruptWhenEmpty = 2;
  vtx::GuestRegisters& r = vcpu_.registers();
  const vtx::IoAccess access(exit.qualification);
  if (access.bytes != 1 || access.is_string) {
    return absl::UnimplementedError("the guest uses its serial port other than by bytes");
  }
  if (access.is_read) {
    r.rax = (r.rax & ~uint64_t{0xff}) | vtx::tdp_in8(kSerialData);
    return Finish(exit);
  }
  const auto byte = static_cast<uint8_t>(r.rax);
  const bool is_divisor = (vtx::tdp_in8(kSerialLineControl) & kDivisorLatch) != 0;
  if (is_divisor || (vtx::tdp_in8(kSerialInterruptEnable) & kInterruptWhenEmpty) != 0) {
    vtx::tdp_out8(kSerialData, byte);
  }
  if (!is_divisor && byte == '\n') {
    line(console_line_);
    console_line_.clear();
  } else if (!is_divisor && byte != '\r') {
    console_line_ += static_cast<char>(byte);
  }
  return Finish(exit);
}

}  // namespace tdp::linux_example
