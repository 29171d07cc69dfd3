// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Names the registers that the hardware gets while a guest runs on shadow tables.

#ifndef TDP_MMU_SHADOW_SHADOW_REGISTERS_H_
#define TDP_MMU_SHADOW_SHADOW_REGISTERS_H_

#include <array>
#include <cstdint>

#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"

namespace tdp {

// Holds what the VMM loads in place of the guest's own (with EPT off). The guest goes on seeing its
// own: reads of CR0, CR3, CR4 and EFER are answered with them. IA32_PAT is loaded with its value
// after reset, whatever the guest's.
struct ShadowRegisters {
  uint64_t cr0 = 0;   // the guest's with PE, PG and WP: a guest without WP is emulated
  uint64_t cr3 = 0;   // 4- and 5-level paging: of the root table
  uint64_t cr4 = 0;   // the guest's without PCIDE; with PAE; without paging also without SMEP, SMAP
  uint64_t efer = 0;  // the guest's with NXE; without LME and LMA where it is not in 64-bit paging
  // Guests in 32-bit or PAE paging, and without paging, run in PAE paging: the VMM stores these at
  // a CR3 of its own, 32-byte aligned and below 4 GiB, before the guest is entered.
  std::array<uint64_t, 4> pdptes{};

  friend bool operator==(const ShadowRegisters&, const ShadowRegisters&) = default;
};

// Returns the registers for a guest of these controls, but for CR3 and PDPTEs.
constexpr ShadowRegisters ShadowControls(const GuestControls& controls) {
  using namespace guest;
  ShadowRegisters load;
  load.cr0 = controls.cr0 | kCr0ProtectionEnable | kCr0Paging | kCr0WriteProtect;
  load.cr4 = (controls.cr4 | kCr4PhysicalAddressExtension) & ~kCr4ProcessContextIds;
  load.efer = controls.efer | kEferNoExecute;
  const PagingMode mode = controls.mode();
  if (mode == PagingMode::kNone) load.cr4 &= ~(kCr4Smep | kCr4Smap);
  if (mode < PagingMode::k4Level) load.efer &= ~(kEferLongModeActive | kEferLongModeEnable);
  return load;
}

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_SHADOW_REGISTERS_H_
