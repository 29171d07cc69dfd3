// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The fields of a VMCS by their encodings, in the order of the SDM (vol. 3D, appendix B). A CPU has
// the fields of the features that it has.

#ifndef TDP_BACKENDS_VTX_VMCS_FIELD_H_
#define TDP_BACKENDS_VTX_VMCS_FIELD_H_

#include <cstddef>
#include <cstdint>

namespace tdp::vtx {

enum class VmcsField : uint32_t {
  // Control fields, 16 bits
  kVpid = 0x0000,
  kPostedInterruptVector = 0x0002,
  kEptpIndex = 0x0004,
  kHlatPrefixSize = 0x0006,
  kLastPidPointerIndex = 0x0008,
  // Guest state, 16 bits. Segment fields of one kind stand two apart in the order ES CS SS DS FS GS
  // LDTR TR.
  kGuestEsSelector = 0x0800,
  kGuestInterruptStatus = 0x0810,
  kPmlIndex = 0x0812,
  kGuestUinv = 0x0814,
  // Host state, 16 bits
  kHostEs = 0x0c00,
  kHostCs = 0x0c02,
  kHostSs = 0x0c04,
  kHostDs = 0x0c06,
  kHostFs = 0x0c08,
  kHostGs = 0x0c0a,
  kHostTr = 0x0c0c,
  // Control fields, 64 bits
  kIoBitmapA = 0x2000,
  kIoBitmapB = 0x2002,
  kMsrBitmap = 0x2004,
  kExitMsrStoreAddress = 0x2006,
  kExitMsrLoadAddress = 0x2008,
  kEntryMsrLoadAddress = 0x200a,
  kExecutiveVmcs = 0x200c,
  kPmlAddress = 0x200e,
  kTscOffset = 0x2010,
  kVirtualApicAddress = 0x2012,
  kApicAccessAddress = 0x2014,
  kPostedInterruptDescriptor = 0x2016,
  kVmFunctionControls = 0x2018,
  kEptPointer = 0x201a,
  kEoiExitBitmap0 = 0x201c,  // four, two apart
  kEptpList = 0x2024,
  kVmreadBitmap = 0x2026,
  kVmwriteBitmap = 0x2028,
  kVeInformation = 0x202a,
  kXssExitingBitmap = 0x202c,
  kEnclsExitingBitmap = 0x202e,
  kSppTablePointer = 0x2030,
  kTscMultiplier = 0x2032,
  kTertiaryControls = 0x2034,
  kEnclvExitingBitmap = 0x2036,
  kLowPasidDirectory = 0x2038,
  kHighPasidDirectory = 0x203a,
  kSharedEptPointer = 0x203c,
  kPconfigExitingBitmap = 0x203e,
  kHlatPointer = 0x2040,
  kPidPointerTable = 0x2042,
  kSecondaryExitControls = 0x2044,
  kSpecCtrlMask = 0x204a,
  kSpecCtrlShadow = 0x204c,
  // Fields in which an exit reports, 64 bits
  kGuestPhysicalAddress = 0x2400,
  // Guest state, 64 bits
  kVmcsLink = 0x2800,
  kGuestDebugControl = 0x2802,
  kGuestPat = 0x2804,
  kGuestEfer = 0x2806,
  kGuestPerfGlobalControl = 0x2808,
  kGuestPdpte0 = 0x280a,  // four, two apart
  kGuestBndcfgs = 0x2812,
  kGuestRtitControl = 0x2814,
  kGuestLbrControl = 0x2816,
  kGuestPkrs = 0x2818,
  // Host state, 64 bits
  kHostPat = 0x2c00,
  kHostEfer = 0x2c02,
  kHostPerfGlobalControl = 0x2c04,
  kHostPkrs = 0x2c06,
  // Control fields, 32 bits
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
  kTprThreshold = 0x401c,
  kSecondaryControls = 0x401e,
  kPleGap = 0x4020,
  kPleWindow = 0x4022,
  kInstructionTimeout = 0x4024,
  // Fields in which an exit reports, 32 bits
  kInstructionError = 0x4400,
  kExitReason = 0x4402,
  kExitInterruption = 0x4404,
  kExitErrorCode = 0x4406,
  kIdtVectoring = 0x4408,
  kIdtVectoringErrorCode = 0x440a,
  kExitInstructionLength = 0x440c,
  kExitInstructionInformation = 0x440e,
  // Guest state, 32 bits
  kGuestEsLimit = 0x4800,
  kGuestGdtrLimit = 0x4810,
  kGuestIdtrLimit = 0x4812,
  kGuestEsRights = 0x4814,
  kGuestInterruptibility = 0x4824,
  kGuestActivity = 0x4826,
  kGuestSmbase = 0x4828,
  kGuestSysenterCs = 0x482a,
  kPreemptionTimer = 0x482e,
  // Host state, 32 bits
  kHostSysenterCs = 0x4c00,
  // Control fields, natural width
  kCr0Mask = 0x6000,
  kCr4Mask = 0x6002,
  kCr0Shadow = 0x6004,
  kCr4Shadow = 0x6006,
  kCr3Target0 = 0x6008,  // four, two apart
  // Fields in which an exit reports, natural width
  kExitQualification = 0x6400,
  kIoRcx = 0x6402,
  kIoRsi = 0x6404,
  kIoRdi = 0x6406,
  kIoRip = 0x6408,
  kGuestLinearAddress = 0x640a,
  // Guest state, natural width
  kGuestCr0 = 0x6800,
  kGuestCr3 = 0x6802,
  kGuestCr4 = 0x6804,
  kGuestEsBase = 0x6806,
  kGuestGdtrBase = 0x6816,
  kGuestIdtrBase = 0x6818,
  kGuestDr7 = 0x681a,
  kGuestRsp = 0x681c,
  kGuestRip = 0x681e,
  kGuestRflags = 0x6820,
  kGuestPendingDebug = 0x6822,
  kGuestSysenterEsp = 0x6824,
  kGuestSysenterEip = 0x6826,
  kGuestSCet = 0x6828,
  kGuestSsp = 0x682a,
  kGuestInterruptSspTable = 0x682c,
  // Host state, natural width
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
  kHostSCet = 0x6c18,
  kHostSsp = 0x6c1a,
  kHostInterruptSspTable = 0x6c1c,
};

// Returns the field `n` places after `field` in a row of equal ones.
constexpr VmcsField FieldAfter(VmcsField field, size_t n) {
  return static_cast<VmcsField>(static_cast<uint32_t>(field) + 2 * static_cast<uint32_t>(n));
}

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VMCS_FIELD_H_
