// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest's paging-structure entries: where their fields stand and which bits are reserved, for
// each paging mode (SDM vol. 3A, 5.3 to 5.5).

#ifndef TDP_BACKENDS_SIM_GUEST_RULES_H_
#define TDP_BACKENDS_SIM_GUEST_RULES_H_

#include <array>
#include <cstdint>

#include "tdp/backends/sim/features.h"
#include "tdp/backends/sim/level_array.h"
#include "tdp/backends/sim/registers.h"
#include "tdp/base/index.h"

namespace tdp::sim {

inline constexpr uint64_t kGuestPresent = uint64_t{1} << 0;
inline constexpr uint64_t kGuestWrite = uint64_t{1} << 1;
inline constexpr uint64_t kGuestUser = uint64_t{1} << 2;
inline constexpr uint64_t kGuestAccessed = uint64_t{1} << 5;
inline constexpr uint64_t kGuestDirty = uint64_t{1} << 6;
inline constexpr uint64_t kGuestLargePage = uint64_t{1} << 7;
inline constexpr uint64_t kGuestGlobal = uint64_t{1} << 8;
inline constexpr uint64_t kGuestNoExecute = uint64_t{1} << 63;

class GuestRules {
 public:
  GuestRules() = default;
  GuestRules(const Registers& registers, const CpuFeatures& features);

  PagingMode mode() const { return mode_; }
  int levels() const { return levels_; }
  // Returns how many bits of an address lie below what an entry of `level` maps.
  int shift(int level) const { return 12 + index_bits_ * (level - 1); }
  unsigned entry_bytes() const { return entry_bytes_; }
  // Returns the offset in its table of the entry of `level` on the way to `gva`.
  uint64_t EntryOffset(uint64_t gva, int level) const {
    return (gva >> shift(level) & index_mask_) * entry_bytes_;
  }

  // Returns whether the entry is a legal one that points to a table: what most steps of a walk
  // find, in one compare.
  bool IsPlainTable(uint64_t entry, int level) const {
    return (entry & plain_table_mask_[level]) == kGuestPresent;
  }
  // Returns whether the entry is one that a 64-bit walk passes without a decision: a plain table,
  // or a legal leaf, with A set. `need` are bits that the access wants set in the leaf as well.
  bool IsQuietTable(uint64_t entry, int level) const {
    return (entry & (plain_table_mask_[level] | kGuestAccessed)) ==
           (kGuestPresent | kGuestAccessed);
  }
  bool IsQuietLeaf(uint64_t entry, int level, uint64_t need) const {
    constexpr uint64_t kSettled = kGuestPresent | kGuestAccessed;
    return IsLeaf(entry, level) &&
           (entry & (leaf_reserved_[level] | kSettled | need)) == (kSettled | need);
  }
  // Returns whether a present entry of `level` maps a page.
  bool IsLeaf(uint64_t entry, int level) const {
    return level == 1 || ((entry & kGuestLargePage) != 0 && (large_levels_ >> level & 1) != 0);
  }
  // Returns whether a present entry sets a reserved bit.
  bool HasReservedBit(uint64_t entry, int level) const {
    return (entry & (IsLeaf(entry, level) ? leaf_reserved_ : table_reserved_)[AsIndex(level)]) != 0;
  }
  // Returns the table that an entry points to.
  static uint64_t TableOf(uint64_t entry) { return entry & kTableMask; }
  // Returns the one that CR3 points to, which has 32 bits outside 64-bit modes.
  uint64_t RootOf(uint64_t cr3) const { return TableOf(cr3 & linear_mask_); }
  // Returns the gpa that a leaf at `level` maps `gva` to.
  uint64_t GpaOf(uint64_t leaf, int level, uint64_t gva) const;
  // Returns the bits PAT, PCD and PWT of a leaf as an index of IA32_PAT.
  static unsigned PatIndex(uint64_t leaf, int level) {
    return static_cast<unsigned>((leaf >> 3 & 3) | (leaf >> (level == 1 ? 5 : 10) & 4));
  }

  // Returns whether `gva` is a legal linear address: canonical in 64-bit modes.
  bool IsCanonical(uint64_t gva) const { return IsCanonicalIn(64 - canonical_shift_, gva); }
  // Returns whether it is one of `bits` bits, whatever mode the guest is in.
  static bool IsCanonicalIn(int bits, uint64_t gva) {
    const int unused = 64 - bits;
    return static_cast<uint64_t>(static_cast<int64_t>(gva << unused) >> unused) == gva;
  }
  // Returns which bits of a linear address exist: 32 of them outside 64-bit modes.
  uint64_t linear_mask() const { return linear_mask_; }
  // Returns whether a PDPTE of PAE paging may be loaded; a not-present one always may.
  bool IsValidPdpte(uint64_t pdpte) const {
    return (pdpte & kGuestPresent) == 0 || (pdpte & pdpte_reserved_) == 0;
  }

 private:
  static constexpr uint64_t kTableMask = 0x000ffffffffff000;

  PagingMode mode_ = PagingMode::kNone;
  int levels_ = 0;
  int index_bits_ = 9;
  uint64_t index_mask_ = 511;
  unsigned entry_bytes_ = 8;
  unsigned large_levels_ = 0;  // bit l: an entry of level l may map a page
  int canonical_shift_ = 0;
  uint64_t linear_mask_ = 0xffffffff;
  uint64_t pdpte_reserved_ = 0;
  LevelArray<uint64_t> plain_table_mask_{};  // [1] is 0, which never matches
  LevelArray<uint64_t> table_reserved_{};
  LevelArray<uint64_t> leaf_reserved_{};
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_GUEST_RULES_H_
