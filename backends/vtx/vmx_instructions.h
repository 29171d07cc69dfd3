// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The VMX instructions with their failures in words. Each runs on the CPU it is called on, in ring
// 0 and, but for VMXON, in VMX operation.

#ifndef TDP_BACKENDS_VTX_VMX_INSTRUCTIONS_H_
#define TDP_BACKENDS_VTX_VMX_INSTRUCTIONS_H_

#include <cstdint>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::vtx {

// Returns the meaning of a VM-instruction error number (SDM table 31-1).
std::string_view VmInstructionErrorName(uint64_t number);

// Returns OK, or FailedPrecondition with the name of the instruction and, for VMfailValid, the
// number and meaning of the current VMCS's error field. `instruction` is "VMPTRLD" and the like.
absl::Status VmxStatus(VmxResult result, std::string_view instruction);

// Regions are 4 KiB aligned; that of VMXON and each VMCS begins with the revision identifier.
absl::Status VmxOn(Hpa region);
absl::Status VmxOff();
absl::Status VmClear(Hpa vmcs);
absl::Status VmPtrLoad(Hpa vmcs);

// Reads a field of the current VMCS.
absl::StatusOr<uint64_t> VmRead(VmcsField field);
absl::Status VmWrite(VmcsField field, uint64_t value);

enum class InveptType : uint64_t { kSingleContext = 1, kAllContexts = 2 };

// Drops guest-physical and combined mappings: of `eptp`'s root, or all. A type that the CPU does
// not have, or an EPTP that it would not enter with, fails.
absl::Status Invept(InveptType type, Eptp eptp);

enum class InvvpidType : uint64_t {
  kAddress = 0,            // `address` of `vpid`
  kSingleContext = 1,      // all of `vpid`
  kAllContexts = 2,        // all VPIDs but 0
  kSingleKeepGlobals = 3,  // all of `vpid` but global pages
};

// Drops linear and combined mappings. VPID 0 fails except for kAllContexts; so does an address that
// is not canonical.
absl::Status Invvpid(InvvpidType type, uint16_t vpid, Gva address);

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VMX_INSTRUCTIONS_H_
