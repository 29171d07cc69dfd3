// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest's registers as far as they bear on address translation (SDM vol. 3A, chapter 5
// "Paging").

#ifndef TDP_BACKENDS_SIM_REGISTERS_H_
#define TDP_BACKENDS_SIM_REGISTERS_H_

#include <array>
#include <cstdint>

namespace tdp::sim {

inline constexpr uint64_t kCr0Pe = uint64_t{1} << 0;
inline constexpr uint64_t kCr0Wp = uint64_t{1} << 16;
inline constexpr uint64_t kCr0Nw = uint64_t{1} << 29;
inline constexpr uint64_t kCr0Cd = uint64_t{1} << 30;
inline constexpr uint64_t kCr0Pg = uint64_t{1} << 31;
inline constexpr uint64_t kCr4Pse = uint64_t{1} << 4;
inline constexpr uint64_t kCr4Pae = uint64_t{1} << 5;
inline constexpr uint64_t kCr4Pge = uint64_t{1} << 7;
inline constexpr uint64_t kCr4La57 = uint64_t{1} << 12;
inline constexpr uint64_t kCr4Pcide = uint64_t{1} << 17;
inline constexpr uint64_t kCr4Smep = uint64_t{1} << 20;
inline constexpr uint64_t kCr4Smap = uint64_t{1} << 21;
inline constexpr uint64_t kCr4Pke = uint64_t{1} << 22;
inline constexpr uint64_t kCr4Pks = uint64_t{1} << 24;
inline constexpr uint64_t kEferLme = uint64_t{1} << 8;
inline constexpr uint64_t kEferLma = uint64_t{1} << 10;
inline constexpr uint64_t kEferNxe = uint64_t{1} << 11;

// The PAT after reset: WB, WT, UC-, UC, twice.
inline constexpr uint64_t kResetPat = 0x0007040600070406;

struct Registers {
  uint64_t cr0 = kCr0Pe;
  uint64_t cr3 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;
  uint64_t pat = kResetPat;          // IA32_PAT
  uint32_t pkru = 0;                 // two bits a key for user pages: access disable, write disable
  uint32_t pkrs = 0;                 // the same for supervisor pages (IA32_PKRS)
  uint8_t cpl = 0;                   // current privilege level, 0 to 3
  bool ac = false;                   // RFLAGS.AC
  std::array<uint64_t, 4> pdptes{};  // PAE paging: loaded by `Cpu::LoadPdptes`

  friend bool operator==(const Registers&, const Registers&) = default;
};

// Says how the guest translates linear addresses.
enum class PagingMode : uint8_t { kNone, k32Bit, kPae, k4Level, k5Level };

constexpr PagingMode PagingModeOf(const Registers& r) {
  if ((r.cr0 & kCr0Pg) == 0) return PagingMode::kNone;
  if ((r.cr4 & kCr4Pae) == 0) return PagingMode::k32Bit;
  // LMA follows LME as soon as paging is on; either says 64-bit paging.
  if ((r.efer & (kEferLma | kEferLme)) == 0) return PagingMode::kPae;
  return (r.cr4 & kCr4La57) != 0 ? PagingMode::k5Level : PagingMode::k4Level;
}

// Returns how many levels a guest walk visits; PAE's four PDPTEs are registers, not a level.
constexpr int GuestLevels(PagingMode mode) {
  constexpr int kLevels[] = {0, 2, 2, 4, 5};
  return kLevels[static_cast<int>(mode)];
}

constexpr bool Is64Bit(PagingMode mode) { return mode >= PagingMode::k4Level; }

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_REGISTERS_H_
