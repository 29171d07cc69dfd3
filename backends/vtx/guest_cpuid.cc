// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/guest_cpuid.h"

#include <algorithm>
#include <cstdint>

namespace tdp::vtx {
namespace {

constexpr uint32_t Bit(int number) { return 1u << number; }

// Leaf 1: the debug store with its forms (DTES64 and DS-CPL, and in EDX DS itself), MONITOR, VMX,
// SMX, PDCM, x2APIC and the deadline.
constexpr uint32_t kHidden1Ecx =
    Bit(2) | Bit(3) | Bit(4) | Bit(5) | Bit(6) | Bit(15) | Bit(21) | Bit(24);
constexpr uint32_t kHidden1Edx = Bit(21);
constexpr uint32_t kOsXsave = Bit(27);
constexpr uint32_t kHypervisor = Bit(31);
// Leaf 7: SGX, whose memory nobody gives the guest, with its launch control and attestation keys;
// MPX and processor trace; AVX-512 with all that came after it; AMX; keys of user and supervisor
// pages, CET, user interrupts, Key Locker, branch records, and ENQCMD with its PASID; UMWAIT,
// TPAUSE and PCONFIG, which raise #UD in a guest without a control of their own; and 5-level
// paging.
constexpr uint32_t kHidden7Ebx = Bit(2) | Bit(14) | Bit(16) | Bit(17) | Bit(21) | Bit(25) |
                                 Bit(26) | Bit(27) | Bit(28) | Bit(30) | Bit(31);
constexpr uint32_t kHidden7Ecx = Bit(1) | Bit(3) | Bit(4) | Bit(5) | Bit(6) | Bit(7) | Bit(11) |
                                 Bit(12) | Bit(14) | Bit(16) | Bit(23) | Bit(29) | Bit(30) |
                                 Bit(31);
constexpr uint32_t kHidden7Edx = Bit(1) | Bit(2) | Bit(3) | Bit(5) | Bit(8) | Bit(18) | Bit(19) |
                                 Bit(20) | Bit(22) | Bit(23) | Bit(24) | Bit(25);

constexpr uint32_t kCrystalLeaf = 0x15;
constexpr uint32_t kFrequencyLeaf = 0x16;
constexpr uint32_t kHypervisorLeaf = 0x40000000;
constexpr uint32_t kExtendedLeaves = 0x80000000;
constexpr uint32_t kWidthsLeaf = 0x80000008;

// Returns the last leaf that the guest is told of.
uint32_t HighestLeaf(const CpuidContext& context) {
  return context.tsc_hz != 0 ? kFrequencyLeaf
                             : std::min(context.highest_basic_leaf, kFrequencyLeaf);
}

CpuidLeaf Features(CpuidLeaf own, const CpuidContext& context) {
  constexpr uint64_t kCr4OsXsave = 1 << 18;
  own.ecx &= ~(kHidden1Ecx | kOsXsave | context.hidden.leaf1_ecx);
  own.ecx |= kHypervisor;
  if ((context.guest_cr4 & kCr4OsXsave) != 0) own.ecx |= kOsXsave;
  own.edx &= ~(kHidden1Edx | context.hidden.leaf1_edx);
  return own;
}

CpuidLeaf MoreFeatures(uint32_t subleaf, CpuidLeaf own, const HiddenFeatures& hidden) {
  if (subleaf != 0) return {};
  return {0, own.ebx & ~(kHidden7Ebx | hidden.leaf7_ebx),
          own.ecx & ~(kHidden7Ecx | hidden.leaf7_ecx), own.edx & ~(kHidden7Edx | hidden.leaf7_edx)};
}

// SDM volume 1, 13.2: the components, the bytes that they take in the standard format, and what
// there is beside XSAVE itself: XSAVEOPT, but none of the instructions for supervisor state.
CpuidLeaf SavedState(uint32_t subleaf, CpuidLeaf own, uint64_t xcr0) {
  constexpr uint64_t kAvx = 4;
  constexpr uint32_t kAvxSubleaf = 2, kLegacyBytes = 0x240, kBytesWithAvx = 0x340;
  const uint32_t bytes = (xcr0 & kAvx) != 0 ? kBytesWithAvx : kLegacyBytes;
  if (xcr0 == 0) return {};
  if (subleaf == 0) return {static_cast<uint32_t>(xcr0), bytes, bytes, 0};
  if (subleaf == 1) return {own.eax & 1, 0, 0, 0};
  return subleaf == kAvxSubleaf && (xcr0 & kAvx) != 0 ? own : CpuidLeaf{};
}

// Linear addresses have 48 bits where there is no 5-level paging.
CpuidLeaf AddressWidths(CpuidLeaf own) {
  constexpr uint32_t kLinear = 0xff00, kOfFourLevels = 48 << 8;
  own.eax = (own.eax & ~kLinear) | std::min(own.eax & kLinear, kOfFourLevels);
  return own;
}

}  // namespace

CpuidLeaf ShownCpuid(uint32_t leaf, uint32_t subleaf, CpuidLeaf own, const CpuidContext& context) {
  const auto mhz = static_cast<uint32_t>(context.tsc_hz / 1000000);
  if (leaf == kCrystalLeaf && context.tsc_hz != 0) {
    // A crystal as fast as the counter, or as slow as it must be for 32 bits.
    const auto times = static_cast<uint32_t>((context.tsc_hz >> 32) + 1);
    return {1, times, static_cast<uint32_t>(context.tsc_hz / times), 0};
  }
  if (leaf == kFrequencyLeaf && context.tsc_hz != 0) return {mhz, mhz, 0, 0};
  if (leaf == kHypervisorLeaf) return {kHypervisorLeaf, 0x7462696c, 0x00007064, 0};  // "libtdp"
  if (leaf == kWidthsLeaf) return AddressWidths(own);
  if (leaf >= kExtendedLeaves) return own;
  // A CPU answers a leaf beyond its last one with that of the last one.
  if (leaf > std::min(context.highest_basic_leaf, kFrequencyLeaf)) return {};
  switch (leaf) {
    case 0:
      own.eax = HighestLeaf(context);
      return own;
    case 1:
      return Features(own, context);
    case 7:
      return MoreFeatures(subleaf, own, context.hidden);
    case 0xd:
      return SavedState(subleaf, own, context.xcr0);
    case 6:     // thermal and power management
    case 0xa:   // performance monitoring
    case 0x12:  // SGX
    case 0x14:  // processor trace
      return {};
    default:
      return own;
  }
}

}  // namespace tdp::vtx
