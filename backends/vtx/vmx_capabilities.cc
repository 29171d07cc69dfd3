// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/vmx_capabilities.h"

#include <cpuid.h>

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/mmu/format/ept_capabilities.h"

namespace tdp::vtx {
namespace {

constexpr uint32_t kMsrVmxBasic = 0x480;
constexpr uint32_t kMsrVmxPin = 0x481;
constexpr uint32_t kMsrVmxPrimary = 0x482;
constexpr uint32_t kMsrVmxExit = 0x483;
constexpr uint32_t kMsrVmxEntry = 0x484;
constexpr uint32_t kMsrVmxMisc = 0x485;
constexpr uint32_t kMsrVmxCr0Fixed0 = 0x486;
constexpr uint32_t kMsrVmxCr0Fixed1 = 0x487;
constexpr uint32_t kMsrVmxCr4Fixed0 = 0x488;
constexpr uint32_t kMsrVmxCr4Fixed1 = 0x489;
constexpr uint32_t kMsrVmxSecondary = 0x48b;
constexpr uint32_t kMsrVmxEptVpid = 0x48c;
constexpr uint32_t kTrueOffset = 0x48d - kMsrVmxPin;  // from 481..484 to their TRUE_ twins
constexpr uint32_t kMsrVmFunctions = 0x491;

constexpr uint64_t kBasicTrueControls = uint64_t{1} << 55;
constexpr uint64_t kFeatureLocked = 1;
constexpr uint64_t kFeatureVmx = 4;
constexpr uint32_t kCpuidVmx = 1u << 5;
constexpr uint64_t kEptpSwitching = 1;

struct ControlName {
  ControlWord word;
  uint32_t bit;
  std::string_view name;
};

constexpr ControlName kControlNames[] = {
    {ControlWord::kPin, pin::kExternalInterruptExiting, "external-interrupt exiting"},
    {ControlWord::kPin, pin::kNmiExiting, "NMI exiting"},
    {ControlWord::kPin, pin::kVirtualNmis, "virtual NMIs"},
    {ControlWord::kPin, pin::kPreemptionTimer, "activate VMX-preemption timer"},
    {ControlWord::kPrimary, primary::kInterruptWindowExiting, "interrupt-window exiting"},
    {ControlWord::kPrimary, primary::kNmiWindowExiting, "NMI-window exiting"},
    {ControlWord::kPrimary, primary::kHltExiting, "HLT exiting"},
    {ControlWord::kPrimary, primary::kInvlpgExiting, "INVLPG exiting"},
    {ControlWord::kPrimary, primary::kCr3LoadExiting, "CR3-load exiting"},
    {ControlWord::kPrimary, primary::kCr3StoreExiting, "CR3-store exiting"},
    {ControlWord::kPrimary, primary::kMovDrExiting, "MOV-DR exiting"},
    {ControlWord::kPrimary, primary::kUnconditionalIoExiting, "unconditional I/O exiting"},
    {ControlWord::kPrimary, primary::kIoBitmaps, "use I/O bitmaps"},
    {ControlWord::kPrimary, primary::kMsrBitmaps, "use MSR bitmaps"},
    {ControlWord::kPrimary, primary::kSecondaryControls, "activate secondary controls"},
    {ControlWord::kSecondary, secondary::kEpt, "enable EPT"},
    {ControlWord::kSecondary, secondary::kRdtscp, "enable RDTSCP"},
    {ControlWord::kSecondary, secondary::kInvpcid, "enable INVPCID"},
    {ControlWord::kSecondary, secondary::kXsaves, "enable XSAVES/XRSTORS"},
    {ControlWord::kSecondary, secondary::kVpid, "enable VPID"},
    {ControlWord::kSecondary, secondary::kUnrestrictedGuest, "unrestricted guest"},
    {ControlWord::kSecondary, secondary::kVmFunctions, "enable VM functions"},
    {ControlWord::kSecondary, secondary::kPml, "enable PML"},
    {ControlWord::kSecondary, secondary::kEptViolationVe, "EPT-violation #VE"},
    {ControlWord::kSecondary, secondary::kMbec, "mode-based execute control for EPT"},
    {ControlWord::kSecondary, secondary::kSpp, "sub-page write permissions for EPT"},
    {ControlWord::kExit, exit_control::kSaveDebugControls, "save debug controls"},
    {ControlWord::kExit, exit_control::kSavePreemptionTimer, "save VMX-preemption timer value"},
    {ControlWord::kExit, exit_control::kHost64, "host address-space size"},
    {ControlWord::kExit, exit_control::kSavePat, "save IA32_PAT"},
    {ControlWord::kExit, exit_control::kLoadPat, "load IA32_PAT at exit"},
    {ControlWord::kExit, exit_control::kSaveEfer, "save IA32_EFER"},
    {ControlWord::kExit, exit_control::kLoadEfer, "load IA32_EFER at exit"},
    {ControlWord::kEntry, entry_control::kLoadDebugControls, "load debug controls"},
    {ControlWord::kEntry, entry_control::kGuest64, "IA-32e mode guest"},
    {ControlWord::kEntry, entry_control::kLoadPat, "load IA32_PAT at entry"},
    {ControlWord::kEntry, entry_control::kLoadEfer, "load IA32_EFER at entry"},
};

std::string_view WordName(ControlWord word) {
  switch (word) {
    case ControlWord::kPin:
      return "pin-based";
    case ControlWord::kPrimary:
      return "primary processor-based";
    case ControlWord::kSecondary:
      return "secondary processor-based";
    case ControlWord::kExit:
      return "VM-exit";
    case ControlWord::kEntry:
      return "VM-entry";
  }
  return "unknown";
}

// Returns the lowest of `bits`, by name where it has one.
std::string NameOf(ControlWord word, uint32_t bits) {
  const uint32_t lowest = bits & (0 - bits);
  for (const ControlName& control : kControlNames) {
    if (control.word == word && control.bit == lowest) {
      return absl::StrFormat("%s control \"%s\"", WordName(word), control.name);
    }
  }
  return absl::StrFormat("%s control bit %d", WordName(word), std::countr_zero(lowest));
}

bool HasVmx() {
  uint32_t eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & kCpuidVmx) != 0;
}

int PhysicalAddressBits() {
  uint32_t eax, ebx, ecx, edx;
  return __get_cpuid(0x80000008, &eax, &ebx, &ecx, &edx) != 0 ? static_cast<int>(eax & 0xff) : 36;
}

// The secondary controls and what hangs on them, for a CPU that has them.
void ReadSecondary(VmxMsrs& msrs) {
  if (!msrs.Offers(ControlWord::kPrimary, primary::kSecondaryControls)) return;
  msrs.secondary = tdp_rdmsr(kMsrVmxSecondary);
  if (msrs.Offers(ControlWord::kSecondary, secondary::kEpt) ||
      msrs.Offers(ControlWord::kSecondary, secondary::kVpid)) {
    msrs.ept_vpid = tdp_rdmsr(kMsrVmxEptVpid);
  }
  if (msrs.Offers(ControlWord::kSecondary, secondary::kVmFunctions)) {
    msrs.vm_functions = tdp_rdmsr(kMsrVmFunctions);
  }
}

}  // namespace

absl::StatusOr<VmxMsrs> VmxMsrs::Read() {
  if (!HasVmx()) return absl::UnimplementedError("this CPU has no VMX (CPUID.1:ECX bit 5 is 0)");
  const uint64_t feature_control = tdp_rdmsr(kMsrFeatureControl);
  if ((feature_control & kFeatureLocked) != 0 && (feature_control & kFeatureVmx) == 0) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "IA32_FEATURE_CONTROL is 0x%x: the firmware has locked VMX off", feature_control));
  }
  VmxMsrs msrs;
  msrs.basic = tdp_rdmsr(kMsrVmxBasic);
  msrs.misc = tdp_rdmsr(kMsrVmxMisc);
  const uint32_t twin = (msrs.basic & kBasicTrueControls) != 0 ? kTrueOffset : 0;
  msrs.pin = tdp_rdmsr(kMsrVmxPin + twin);
  msrs.primary = tdp_rdmsr(kMsrVmxPrimary + twin);
  msrs.exit = tdp_rdmsr(kMsrVmxExit + twin);
  msrs.entry = tdp_rdmsr(kMsrVmxEntry + twin);
  msrs.cr0_must_be_one = tdp_rdmsr(kMsrVmxCr0Fixed0);
  msrs.cr0_may_be_one = tdp_rdmsr(kMsrVmxCr0Fixed1);
  msrs.cr4_must_be_one = tdp_rdmsr(kMsrVmxCr4Fixed0);
  msrs.cr4_may_be_one = tdp_rdmsr(kMsrVmxCr4Fixed1);
  msrs.physical_address_bits = PhysicalAddressBits();
  ReadSecondary(msrs);
  return msrs;
}

uint64_t VmxMsrs::RangeOf(ControlWord word) const {
  switch (word) {
    case ControlWord::kPin:
      return pin;
    case ControlWord::kPrimary:
      return primary;
    case ControlWord::kSecondary:
      return secondary;
    case ControlWord::kExit:
      return exit;
    case ControlWord::kEntry:
      return entry;
  }
  return 0;
}

// Returns whether the control is offered: the high half has the bits that may be 1, the low half
// those that must be.
bool VmxMsrs::Offers(ControlWord word, uint32_t bits) const {
  return (static_cast<uint32_t>(RangeOf(word) >> 32) & bits) == bits;
}

absl::StatusOr<uint32_t> ChooseControls(const VmxMsrs& msrs, ControlWord word, uint32_t required,
                                        uint32_t optional, uint32_t forbidden) {
  const uint64_t range = msrs.RangeOf(word);
  const auto may_be_one = static_cast<uint32_t>(range >> 32);
  const auto must_be_one = static_cast<uint32_t>(range);
  if (const uint32_t missing = required & ~may_be_one; missing != 0) {
    return absl::UnimplementedError(absl::StrFormat("this CPU has no %s", NameOf(word, missing)));
  }
  if (const uint32_t unwanted = must_be_one & forbidden; unwanted != 0) {
    return absl::UnimplementedError(
        absl::StrFormat("this CPU cannot do without %s", NameOf(word, unwanted)));
  }
  return must_be_one | required | (optional & may_be_one);
}

absl::StatusOr<Capabilities> DecodeCapabilities(const VmxMsrs& msrs, uintptr_t direct_map_offset) {
  if (!msrs.Offers(ControlWord::kSecondary, secondary::kEpt)) {
    return absl::UnimplementedError("this CPU has no EPT");
  }
  const auto has = [&msrs](uint32_t bit) { return msrs.Offers(ControlWord::kSecondary, bit); };
  Capabilities capabilities;
  capabilities.ept = EptCapabilities(msrs.ept_vpid);
  capabilities.physical_address_bits = msrs.physical_address_bits;
  capabilities.mbec = has(secondary::kMbec);
  capabilities.pml = has(secondary::kPml);
  capabilities.spp = has(secondary::kSpp);
  capabilities.ve = has(secondary::kEptViolationVe);
  capabilities.eptp_switching = (msrs.vm_functions & kEptpSwitching) != 0;
  capabilities.shadow_paging = true;
  capabilities.direct_map_offset = direct_map_offset;
  return capabilities;
}

}  // namespace tdp::vtx
