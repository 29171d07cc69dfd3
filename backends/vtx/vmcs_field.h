// SPDX-License-Identifier: Apache-2.0
//
// The fields of a VMCS that this backend uses, by their encodings (SDM vol. 3D, appendix B).

#ifndef TDP_BACKENDS_VTX_VMCS_FIELD_H_
#define TDP_BACKENDS_VTX_VMCS_FIELD_H_

#include <cstdint>

namespace tdp::vtx {

enum class VmcsField : uint32_t {
  // Controls
  kVpid = 0x0000,
  kEptpIndex = 0x0004,
  kMsrBitmap = 0x2004,
  kPmlAddress = 0x200e,
  kVmFunctionControls = 0x2018,
  kEptPointer = 0x201a,
  kEptpList = 0x2024,
  kVeInformation = 0x202a,
  kSppTablePointer = 0x2030,
  kPinControls = 0x4000,
  kPrimaryControls = 0x4002,
  kExceptionBitmap = 0x4004,
  kPageFaultMask = 0x4006,
  kPageFaultMatch = 0x4008,
  kCr3TargetCount = 0x400a,
  kExitControls = 0x400c,
  kExitMsrStoreCount = 0x400e,
  kExitMsrLoadCount = 0x4010,
  kEntryControls = 0x4012,
  kEntryMsrLoadCount = 0x4014,
  kEntryInterruption = 0x4016,
  kEntryErrorCode = 0x4018,
  kEntryInstructionLength = 0x401a,
  kSecondaryControls = 0x401e,
  kCr0Mask = 0x6000,
  kCr4Mask = 0x6002,
  kCr0Shadow = 0x6004,
  kCr4Shadow = 0x6006,
  // What an exit reports
  kGuestPhysicalAddress = 0x2400,
  kInstructionError = 0x4400,
  kExitReason = 0x4402,
  kExitInterruption = 0x4404,
  kExitErrorCode = 0x4406,
  kIdtVectoring = 0x4408,
  kIdtVectoringErrorCode = 0x440a,
  kExitInstructionLength = 0x440c,
  kExitQualification = 0x6400,
  kGuestLinearAddress = 0x640a,
  // Guest state. Segment fields of one kind stand two apart in the order ES CS SS DS FS GS LDTR TR.
  kGuestEsSelector = 0x0800,
  kGuestEsLimit = 0x4800,
  kGuestEsRights = 0x4814,
  kGuestEsBase = 0x6806,
  kPmlIndex = 0x0812,
  kVmcsLink = 0x2800,
  kGuestDebugControl = 0x2802,
  kGuestPat = 0x2804,
  kGuestEfer = 0x2806,
  kGuestPdpte0 = 0x280a,  // four, two apart
  kGuestGdtrLimit = 0x4810,
  kGuestIdtrLimit = 0x4812,
  kGuestInterruptibility = 0x4824,
  kGuestActivity = 0x4826,
  kGuestSysenterCs = 0x482a,
  kGuestCr0 = 0x6800,
  kGuestCr3 = 0x6802,
  kGuestCr4 = 0x6804,
  kGuestGdtrBase = 0x6816,
  kGuestIdtrBase = 0x6818,
  kGuestDr7 = 0x681a,
  kGuestRsp = 0x681c,
  kGuestRip = 0x681e,
  kGuestRflags = 0x6820,
  kGuestPendingDebug = 0x6822,
  kGuestSysenterEsp = 0x6824,
  kGuestSysenterEip = 0x6826,
  // Host state
  kHostEs = 0x0c00,
  kHostCs = 0x0c02,
  kHostSs = 0x0c04,
  kHostDs = 0x0c06,
  kHostFs = 0x0c08,
  kHostGs = 0x0c0a,
  kHostTr = 0x0c0c,
  kHostPat = 0x2c00,
  kHostEfer = 0x2c02,
  kHostSysenterCs = 0x4c00,
  kHostCr0 = 0x6c00,
  kHostCr3 = 0x6c02,
  kHostCr4 = 0x6c04,
  kHostFsBase = 0x6c06,
  kHostGsBase = 0x6c08,
  kHostTrBase = 0x6c0a,
  kHostGdtrBase = 0x6c0c,
  kHostIdtrBase = 0x6c0e,
  kHostSysenterEsp = 0x6c10,
  kHostSysenterEip = 0x6c12,
  kHostRsp = 0x6c14,  // written by the entry path itself (vmx_asm.S)
  kHostRip = 0x6c16,
};

// The field `n` places after `field` in a row of equal ones.
constexpr VmcsField FieldAfter(VmcsField field, int n) {
  return static_cast<VmcsField>(static_cast<uint32_t>(field) + 2 * static_cast<uint32_t>(n));
}

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VMCS_FIELD_H_
