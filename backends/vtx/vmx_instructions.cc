// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/vmx_instructions.h"

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"

namespace tdp::vtx {
namespace {

constexpr std::array<std::string_view, 29> kErrorNames = {
    "no error",
    "VMCALL executed in VMX root operation",
    "VMCLEAR with invalid physical address",
    "VMCLEAR with VMXON pointer",
    "VMLAUNCH with non-clear VMCS",
    "VMRESUME with non-launched VMCS",
    "VMRESUME after VMXOFF",
    "VM entry with invalid control field",
    "VM entry with invalid host-state field",
    "VMPTRLD with invalid physical address",
    "VMPTRLD with VMXON pointer",
    "VMPTRLD with incorrect VMCS revision identifier",
    "VMREAD or VMWRITE from or to unsupported VMCS component",
    "VMWRITE to read-only VMCS component",
    "reserved",
    "VMXON executed in VMX root operation",
    "VM entry with invalid executive-VMCS pointer",
    "VM entry with non-launched executive VMCS",
    "VM entry with executive-VMCS pointer not VMXON pointer",
    "VMCALL with non-clear VMCS",
    "VMCALL with invalid VM-exit control fields",
    "reserved",
    "VMCALL with incorrect MSEG revision identifier",
    "VMXOFF under dual-monitor treatment of SMIs and SMM",
    "VMCALL with invalid SMM-monitor features",
    "VM entry with invalid VM-execution control fields in executive VMCS",
    "VM entry with events blocked by MOV SS",
    "reserved",
    "invalid operand to INVEPT or INVVPID",
};

// Returns the error number of the current VMCS; VMfailValid says that there is one.
uint64_t InstructionError() {
  uint64_t number = 0;
  tdp_vmread(static_cast<uint64_t>(VmcsField::kInstructionError), &number);
  return number;
}

}  // namespace

std::string_view VmInstructionErrorName(uint64_t number) {
  return number < kErrorNames.size() ? kErrorNames[number] : "unknown error";
}

absl::Status VmxStatus(VmxResult result, std::string_view instruction) {
  switch (result) {
    case VmxResult::kSucceed:
      return absl::OkStatus();
    case VmxResult::kFailInvalid:
      return absl::FailedPreconditionError(
          absl::StrFormat("%s failed, and no VMCS is current to say why", instruction));
    case VmxResult::kFailValid:
      break;
  }
  const uint64_t number = InstructionError();
  return absl::FailedPreconditionError(absl::StrFormat("%s failed with error %d: %s", instruction,
                                                       number, VmInstructionErrorName(number)));
}

absl::Status VmxOn(Hpa region) {
  const uint64_t address = region.raw();
  return VmxStatus(tdp_vmxon(&address), "VMXON");
}

absl::Status VmxOff() { return VmxStatus(tdp_vmxoff(), "VMXOFF"); }

absl::Status VmClear(Hpa vmcs) {
  const uint64_t address = vmcs.raw();
  return VmxStatus(tdp_vmclear(&address), "VMCLEAR");
}

absl::Status VmPtrLoad(Hpa vmcs) {
  const uint64_t address = vmcs.raw();
  return VmxStatus(tdp_vmptrld(&address), "VMPTRLD");
}

absl::StatusOr<uint64_t> VmRead(VmcsField field) {
  uint64_t value = 0;
  const VmxResult result = tdp_vmread(static_cast<uint64_t>(field), &value);
  if (result == VmxResult::kSucceed) return value;
  return VmxStatus(result, absl::StrFormat("VMREAD of field 0x%x", static_cast<uint32_t>(field)));
}

absl::Status VmWrite(VmcsField field, uint64_t value) {
  const VmxResult result = tdp_vmwrite(static_cast<uint64_t>(field), value);
  if (result == VmxResult::kSucceed) return absl::OkStatus();
  return VmxStatus(result, absl::StrFormat("VMWRITE of 0x%x to field 0x%x", value,
                                           static_cast<uint32_t>(field)));
}

absl::Status Invept(InveptType type, Eptp eptp) {
  const InveptDescriptor descriptor = {.eptp = eptp.raw()};
  const VmxResult result = tdp_invept(static_cast<uint64_t>(type), &descriptor);
  if (result == VmxResult::kSucceed) return absl::OkStatus();
  return VmxStatus(result, absl::StrFormat("INVEPT type %d of EPTP 0x%x",
                                           static_cast<uint64_t>(type), eptp.raw()));
}

absl::Status Invvpid(InvvpidType type, uint16_t vpid, Gva address) {
  const InvvpidDescriptor descriptor = {.vpid = vpid, .linear_address = address.raw()};
  const VmxResult result = tdp_invvpid(static_cast<uint64_t>(type), &descriptor);
  if (result == VmxResult::kSucceed) return absl::OkStatus();
  return VmxStatus(result, absl::StrFormat("INVVPID type %d of VPID %d, address 0x%x",
                                           static_cast<uint64_t>(type), vpid, address.raw()));
}

}  // namespace tdp::vtx
