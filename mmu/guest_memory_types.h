// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds what a guest's registers say of how its memory is cached (SDM vol. 3A, 12.11).

#ifndef TDP_MMU_GUEST_MEMORY_TYPES_H_
#define TDP_MMU_GUEST_MEMORY_TYPES_H_

#include <array>
#include <cstdint>

#include "tdp/base/access.h"

namespace tdp {

// Holds the memory type range registers as the guest wrote them.
struct MtrrState {
  static constexpr int kFixedRegisters = 11;
  static constexpr int kVariableRanges = 10;
  struct Variable {
    uint64_t base = 0;  // IA32_MTRR_PHYSBASEn: type in bits 7:0
    uint64_t mask = 0;  // IA32_MTRR_PHYSMASKn: valid in bit 11
  };

  // Bits 7:0 are the type of memory that no range holds, bit 10 enables the fixed ranges, bit 11
  // all.
  uint64_t default_type = 0;  // IA32_MTRR_DEF_TYPE
  // 64K_00000, 16K_80000, 16K_A0000, 4K_C0000, 4K_C8000, … 4K_F8000; a byte for each eighth.
  std::array<uint64_t, kFixedRegisters> fixed = {};
  std::array<Variable, kVariableRanges> variable = {};
  // MAXPHYADDR as CPUID shows it to the guest, 32 to 52.
  int physical_address_bits = 46;
};

// Tells how guest memory is cached (KVM's vmx_get_mt_mask).
struct GuestMemoryTypes {
  // True if a device reads and writes memory past the caches: then the types that the guest asks
  // for count. Without one all memory is write-back whatever the guest says, which is as correct
  // and faster.
  bool non_coherent_dma = false;
  // True if the guest runs with CR0.CD set. It counts with `non_coherent_dma` only.
  bool caches_disabled = false;
  MtrrState mtrrs;
};

// Says how a range of a view is cached, whatever slot, host and the guest's MTRRs say.
struct ViewMemoryType {
  MemoryType type = MemoryType::kWriteBack;
  bool ignore_pat = true;  // else the guest's PAT has a say, too (SDM, "EPT and Memory Typing")
  friend bool operator==(const ViewMemoryType&, const ViewMemoryType&) = default;
};

}  // namespace tdp

#endif  // TDP_MMU_GUEST_MEMORY_TYPES_H_
