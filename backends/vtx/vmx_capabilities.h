// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a CPU's VMX offers: its capability MSRs (SDM vol. 3D, appendix A), and how they limit
// the control words of a VMCS and become the `Capabilities` of the engine. Pure functions of
// values, but for `VmxMsrs::Read`.

#ifndef TDP_BACKENDS_VTX_VMX_CAPABILITIES_H_
#define TDP_BACKENDS_VTX_VMX_CAPABILITIES_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/mmu/backend.h"

namespace tdp::vtx {

// Bits of the control words, as the SDM numbers and names them (25.6 to 25.8).
namespace pin {
inline constexpr uint32_t kExternalInterruptExiting = 1u << 0;
inline constexpr uint32_t kNmiExiting = 1u << 3;
inline constexpr uint32_t kVirtualNmis = 1u << 5;
inline constexpr uint32_t kPreemptionTimer = 1u << 6;
}  // namespace pin
namespace primary {
inline constexpr uint32_t kInterruptWindowExiting = 1u << 2;
inline constexpr uint32_t kHltExiting = 1u << 7;
inline constexpr uint32_t kInvlpgExiting = 1u << 9;
inline constexpr uint32_t kCr3LoadExiting = 1u << 15;
inline constexpr uint32_t kCr3StoreExiting = 1u << 16;
inline constexpr uint32_t kNmiWindowExiting = 1u << 22;
inline constexpr uint32_t kMovDrExiting = 1u << 23;
inline constexpr uint32_t kUnconditionalIoExiting = 1u << 24;
inline constexpr uint32_t kIoBitmaps = 1u << 25;
inline constexpr uint32_t kMsrBitmaps = 1u << 28;
inline constexpr uint32_t kSecondaryControls = 1u << 31;
}  // namespace primary
namespace secondary {
inline constexpr uint32_t kEpt = 1u << 1;
inline constexpr uint32_t kRdtscp = 1u << 3;
inline constexpr uint32_t kVpid = 1u << 5;
inline constexpr uint32_t kUnrestrictedGuest = 1u << 7;
inline constexpr uint32_t kInvpcid = 1u << 12;
inline constexpr uint32_t kVmFunctions = 1u << 13;
inline constexpr uint32_t kPml = 1u << 17;
inline constexpr uint32_t kEptViolationVe = 1u << 18;
inline constexpr uint32_t kXsaves = 1u << 20;
inline constexpr uint32_t kMbec = 1u << 22;
inline constexpr uint32_t kSpp = 1u << 23;
}  // namespace secondary
namespace exit_control {
inline constexpr uint32_t kSaveDebugControls = 1u << 2;
inline constexpr uint32_t kHost64 = 1u << 9;
inline constexpr uint32_t kSavePat = 1u << 18;
inline constexpr uint32_t kLoadPat = 1u << 19;
inline constexpr uint32_t kSaveEfer = 1u << 20;
inline constexpr uint32_t kLoadEfer = 1u << 21;
inline constexpr uint32_t kSavePreemptionTimer = 1u << 22;
}  // namespace exit_control
namespace entry_control {
inline constexpr uint32_t kLoadDebugControls = 1u << 2;
inline constexpr uint32_t kGuest64 = 1u << 9;
inline constexpr uint32_t kLoadPat = 1u << 14;
inline constexpr uint32_t kLoadEfer = 1u << 15;
}  // namespace entry_control

enum class ControlWord : uint8_t { kPin, kPrimary, kSecondary, kExit, kEntry };

// The capability MSRs as read. The control words' are the TRUE_ ones where the CPU has them.
struct VmxMsrs {
  uint64_t basic = 0;
  uint64_t misc = 0;
  uint64_t pin = 0;
  uint64_t primary = 0;
  uint64_t secondary = 0;
  uint64_t exit = 0;
  uint64_t entry = 0;
  uint64_t cr0_must_be_one = 0;
  uint64_t cr0_may_be_one = ~uint64_t{0};
  uint64_t cr4_must_be_one = 0;
  uint64_t cr4_may_be_one = ~uint64_t{0};
  uint64_t ept_vpid = 0;      // 0 without EPT and VPID
  uint64_t vm_functions = 0;  // 0 without VM functions
  int physical_address_bits = 36;

  // Reads those of the CPU that this runs on, in ring 0. Unimplemented if it has no VMX;
  // PermissionDenied if its firmware has locked VMX off (IA32_FEATURE_CONTROL).
  static absl::StatusOr<VmxMsrs> Read();

  // Returns what the first 31 bits of a VMXON region or VMCS must hold.
  uint32_t revision() const { return static_cast<uint32_t>(basic) & 0x7fffffff; }
  // The preemption timer counts once in 2^this ticks of the TSC.
  int preemption_timer_shift() const { return static_cast<int>(misc & 0x1f); }
  uint64_t RangeOf(ControlWord word) const;
  bool Offers(ControlWord word, uint32_t bits) const;
};

// Returns the value for a control word: all of `required`, of `optional` what the CPU has, and what
// the CPU demands. Unimplemented, naming the control, if a required one is not there; so for one
// that must be on but is in `forbidden`.
absl::StatusOr<uint32_t> ChooseControls(const VmxMsrs& msrs, ControlWord word, uint32_t required,
                                        uint32_t optional = 0, uint32_t forbidden = 0);

// Returns the CPU as the engine sees it, for tables reachable at their physical address plus
// `direct_map_offset`. Unimplemented if it has no EPT.
absl::StatusOr<Capabilities> DecodeCapabilities(const VmxMsrs& msrs, uintptr_t direct_map_offset);

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VMX_CAPABILITIES_H_
