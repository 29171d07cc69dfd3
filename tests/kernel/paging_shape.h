// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Paging modes have these shapes for a guest kernel: where an address's indexes stand, what an
// entry says and whom it lets in. This is written from the SDM (vol. 3A, chapter 5) a third time,
// so that neither the engine nor the software CPU is judged by its own rules.

#ifndef TDP_TESTS_KERNEL_PAGING_SHAPE_H_
#define TDP_TESTS_KERNEL_PAGING_SHAPE_H_

#include <cstdint>

#include "tdp/backends/sim/guest_rights.h"
#include "tdp/backends/sim/registers.h"

namespace tdp::kernel {

// --- bits of an entry ---
inline constexpr uint64_t kPresent = 1 << 0;
inline constexpr uint64_t kWritable = 1 << 1;
inline constexpr uint64_t kUser = 1 << 2;
inline constexpr uint64_t kAccessed = 1 << 5;
inline constexpr uint64_t kDirty = 1 << 6;
inline constexpr uint64_t kLarge = 1 << 7;
inline constexpr uint64_t kGlobal = 1 << 8;
inline constexpr uint64_t kCopyOnWrite = 1 << 9;  // the kernel's own: writable once it is copied
inline constexpr uint64_t kReservedBit = uint64_t{1}
                                         << 51;  // reserved: beyond the physical addresses
inline constexpr uint64_t kNoExecute = uint64_t{1} << 63;
inline constexpr uint64_t kFrame = 0x0007fffffffff000;

// Says where the indexes of a linear address stand.
struct PagingShape {
  sim::PagingMode mode;
  int levels;      // of tables in memory; the PDPTEs of PAE paging are registers
  int index_bits;  // per level
  unsigned entry_bytes;
  uint64_t kernel_base;  // where the kernel's own mapping of all memory begins

  static constexpr PagingShape Of(sim::PagingMode mode) {
    switch (mode) {
      case sim::PagingMode::k32Bit:
        return {mode, 2, 10, 4, 0xc0000000};
      case sim::PagingMode::kPae:
        return {mode, 2, 9, 8, 0xc0000000};
      case sim::PagingMode::k5Level:
        return {mode, 5, 9, 8, 0xff11000000000000};
      default:
        return {sim::PagingMode::k4Level, 4, 9, 8, 0xffff888000000000};
    }
  }

  constexpr bool is_64bit() const { return levels >= 4; }
  constexpr bool is_pae() const { return mode == sim::PagingMode::kPae; }
  constexpr bool has_no_execute() const { return mode != sim::PagingMode::k32Bit; }

  constexpr int Shift(int level) const { return 12 + index_bits * (level - 1); }
  constexpr uint64_t PageBytes(int level) const { return uint64_t{1} << Shift(level); }
  // Returns the number of the page of `level` that holds `gva`.
  constexpr uint64_t PageOf(uint64_t gva, int level) const { return gva >> Shift(level); }
  // Returns the place in `table` of the entry of `level` on the way to `gva`.
  constexpr uint64_t EntryAt(uint64_t table, uint64_t gva, int level) const {
    return table + (gva >> Shift(level) & ((uint64_t{1} << index_bits) - 1)) * entry_bytes;
  }

  constexpr bool IsLeaf(uint64_t entry, int level) const {
    return level == 1 || (level <= 3 && (entry & kLarge) != 0);
  }
  constexpr bool IsReserved(uint64_t entry) const {
    return has_no_execute() && (entry & kReservedBit) != 0;
  }
  // Returns where a leaf of `level` leads `gva`.
  constexpr uint64_t Translate(uint64_t leaf, int level, uint64_t gva) const {
    const uint64_t offset = PageBytes(level) - 1;
    return (leaf & kFrame & ~offset) | (gva & offset);
  }
};

// Holds rights as they combine over a walk.
struct Rights {
  bool writable = true;
  bool user = true;
  bool executable = true;

  constexpr Rights And(uint64_t entry) const {
    return {writable && (entry & kWritable) != 0, user && (entry & kUser) != 0,
            executable && (entry & kNoExecute) == 0};
  }
};

// Says who accesses how, under which rules.
struct AccessRules {
  sim::AccessKind kind = sim::AccessKind::kLoad;
  bool user = false;       // at CPL 3
  bool alignment = false;  // RFLAGS.AC, which excuses the kernel from SMAP
  bool write_protect = true;
  bool smep = false;
  bool smap = false;

  bool is_fetch() const { return kind == sim::AccessKind::kFetch; }
  bool is_write() const { return sim::Writes(kind); }

  constexpr bool Allow(const Rights& rights) const {
    if (user && !rights.user) return false;
    const bool kernel_on_user_page = !user && rights.user;
    if (kind == sim::AccessKind::kFetch) {
      return rights.executable && !(kernel_on_user_page && smep);
    }
    if (kernel_on_user_page && smap && !alignment) return false;
    return !sim::Writes(kind) || rights.writable || (!user && !write_protect);
  }

  // Returns the error code of a fault by such an access, without the bits P and RSVD.
  constexpr uint32_t ErrorCode(const PagingShape& shape) const {
    const bool fetch = kind == sim::AccessKind::kFetch && (shape.has_no_execute() || smep);
    return (sim::Writes(kind) ? 2u : 0u) | (user ? 4u : 0u) | (fetch ? 16u : 0u);
  }
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_PAGING_SHAPE_H_
