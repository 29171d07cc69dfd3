// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The part of a guest's state that the VMCS holds, and what it is at the start in each mode.

#ifndef TDP_BACKENDS_VTX_GUEST_STATE_H_
#define TDP_BACKENDS_VTX_GUEST_STATE_H_

#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "tdp/backends/vtx/vmx_capabilities.h"

namespace tdp::vtx {

struct GuestSegment {
  uint16_t selector = 0;
  uint64_t base = 0;
  uint32_t limit = 0;
  uint32_t rights = 0x10000;  // as in the VMCS: bit 16 says unusable
};

struct GuestTable {
  uint64_t base = 0;
  uint32_t limit = 0;
};

// The order is that of the VMCS's segment fields.
enum GuestSegmentIndex { kEs, kCs, kSs, kDs, kFs, kGs, kLdtr, kTr, kGuestSegments };

// Says what a guest's CPU does, as the VMCS has it (SDM 25.4.2).
enum class ActivityState : uint8_t { kActive, kHlt, kShutdown, kWaitForSipi };

struct GuestState {
  // Executes at linear address `rip` with all segments at 0: real mode, flat 32-bit
  // mode without paging, 32-bit PAE paging with the four `pdptes`, or 64-bit mode with 4-level
  // paging. Interrupts are off; descriptor tables are empty.
  static GuestState RealMode(uint16_t rip, uint16_t rsp);
  // Real mode at the start of page `vector`, where a start-up IPI makes a CPU begin.
  static GuestState StartUp(uint8_t vector);
  static GuestState Flat32(uint32_t rip, uint32_t rsp);
  static GuestState Pae32(uint32_t rip, uint32_t rsp, uint32_t cr3,
                          const std::array<uint64_t, 4>& pdptes);
  static GuestState Long64(uint64_t rip, uint64_t rsp, uint64_t cr3);

  uint64_t rip = 0;
  uint64_t rsp = 0;
  uint64_t rflags = 2;
  uint64_t cr0 = 0;
  uint64_t cr3 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;
  std::array<uint64_t, 4> pdptes = {};  // read by the CPU only at an entry with PAE paging
  std::array<GuestSegment, kGuestSegments> segments;
  GuestTable gdtr;
  GuestTable idtr;
};

// Writes `state` to the current VMCS, with the control-register bits that VMX demands set but
// hidden from the guest. Unimplemented if paging or protection is off and the CPU has no
// unrestricted guest.
absl::Status WriteGuestState(const GuestState& state, const VmxMsrs& msrs, bool unrestricted_guest);

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_GUEST_STATE_H_
