// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what CPUID tells a guest that has the machine's CPU for its own, but for what is its host's.

#ifndef TDP_BACKENDS_VTX_GUEST_CPUID_H_
#define TDP_BACKENDS_VTX_GUEST_CPUID_H_

#include <cstdint>

namespace tdp::vtx {

// One answer of CPUID.
struct CpuidLeaf {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// The bits that the guest is not shown, beside those that `ShownCpuid` hides of itself.
struct HiddenFeatures {
  uint32_t leaf1_ecx = 0, leaf1_edx = 0;
  uint32_t leaf7_ebx = 0, leaf7_ecx = 0, leaf7_edx = 0;
};

// Holds what the answer depends on.
struct CpuidContext {
  uint32_t highest_basic_leaf = 0;  // of the machine's CPU: EAX of leaf 0
  uint64_t xcr0 = 0;                // what the guest may set; without XSAVE 0
  uint64_t guest_cr4 = 0;
  // Ticks of the time-stamp counter in a second, which the guest is told in leaves 0x15 and 0x16.
  // 0: it is told whatever the machine's CPU says.
  uint64_t tsc_hz = 0;
  HiddenFeatures hidden;
};

// The components of XSAVE's that a guest may have: x87, SSE and AVX, which `VtxVcpu` keeps apart.
inline constexpr uint64_t kGuestXcr0 = 7;

// Returns the guest's answer where the machine's own is `own`. Not shown are VMX and SMX; state
// that `VtxVcpu` does not switch (MPX, AVX-512, AMX, keys of user and supervisor pages, CET, user
// interrupts, Key Locker, PASIDs); MONITOR, UMWAIT, TPAUSE and PCONFIG; x2APIC mode and the APIC's
// TSC deadline; processor trace, branch records, the debug store and performance monitoring; SGX;
// 5-level paging, so that linear addresses have 48 bits; and leaves that the CPU does not have.
// Shown are OSXSAVE as the guest's own CR4 has it, the bit that says "hypervisor", and at leaf
// 0x40000000 this library's name.
CpuidLeaf ShownCpuid(uint32_t leaf, uint32_t subleaf, CpuidLeaf own, const CpuidContext& context);

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_GUEST_CPUID_H_
