// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says which EPT entries and pointers hardware refuses (SDM vol. 3C, 29.3.3.1 and 27.2.1.1), laid
// out as masks for a walker that asks at every step.
//
// Written from the SDM's tables alone and on purpose without `EptEntry::Check`: the two are
// compared in the tests.

#ifndef TDP_BACKENDS_SIM_EPT_RULES_H_
#define TDP_BACKENDS_SIM_EPT_RULES_H_

#include <array>
#include <cstdint>

#include "tdp/backends/sim/features.h"
#include "tdp/backends/sim/level_array.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::sim {

// Rights of a walk as a set: R, W, X as in bits 2:0 of an entry, user X (bit 10) as 8.
inline constexpr unsigned kRightRead = 1;
inline constexpr unsigned kRightWrite = 2;
inline constexpr unsigned kRightExecute = 4;
inline constexpr unsigned kRightUserExecute = 8;

constexpr unsigned RightsOf(uint64_t entry) {
  return static_cast<unsigned>((entry & 7) | (entry >> 7 & 8));
}

class EptRules {
 public:
  EptRules() = default;
  // `mbec` and `paging_write` say that those VM-execution controls are on.
  EptRules(const CpuFeatures& features, bool mbec, bool paging_write);

  bool IsPresent(uint64_t entry) const { return (entry & present_mask_) != 0; }

  // Returns whether the entry is a legal one that points to a table and has R, W and X: what most
  // steps of a walk find, in one compare.
  bool IsPlainTable(uint64_t entry, int level) const {
    return (entry & plain_table_mask_[level]) == ept::kRightsMask;
  }

  // Returns whether a present entry of `level` ends the walk: it maps a page.
  static bool IsLeaf(uint64_t entry, int level) {
    return level == 1 || (level <= 3 && (entry & ept::kLargePage) != 0);
  }

  // Returns whether a present entry of `level` is one that causes an EPT misconfiguration.
  bool IsMisconfigured(uint64_t entry, int level) const {
    if ((illegal_rights_ >> RightsOf(entry) & 1) != 0) return true;
    if (!IsLeaf(entry, level)) return (entry & table_reserved_[level]) != 0;
    return (entry & leaf_reserved_[level]) != 0 ||
           (illegal_types_ >> ((entry & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift) & 1) != 0 ||
           (entry & (paging_write_mask_ | ept::kRead)) == ept::kPagingWrite;
  }

 private:
  uint64_t present_mask_ = 7;
  uint64_t paging_write_mask_ = 0;           // bit 58 if the control is on
  uint32_t illegal_rights_ = 0;              // bit r: the set of rights r is illegal
  uint32_t illegal_types_ = 0;               // bit t: the memory type t is reserved
  LevelArray<uint64_t> plain_table_mask_{};  // [1] is 0, which never matches
  LevelArray<uint64_t> table_reserved_{};
  LevelArray<uint64_t> leaf_reserved_{};
};

// Knows entries that a walk passes without a decision: present, legal, with every flag set that it
// could have to set. Upper ones have every right, leaves are write-back. All that `EptRules` would
// say of them is then known from one compare; of other entries these rules say nothing.
class QuietEptRules {
 public:
  QuietEptRules() = default;
  // `accessed_dirty` says that A and D flags are on.
  QuietEptRules(const CpuFeatures& features, bool mbec, bool accessed_dirty);

  bool IsTable(uint64_t entry) const { return (entry & table_mask_) == table_value_; }
  // Returns whether it is such a leaf. `need` are bits that the access wants set in it, rights and
  // D.
  bool IsLeaf(uint64_t entry, int level, uint64_t need) const {
    return (entry & (leaf_mask_[level] | need)) == (leaf_value_[level] | need);
  }

 private:
  uint64_t table_mask_ = 0;
  uint64_t table_value_ = ~uint64_t{0};  // until made: nothing is quiet
  LevelArray<uint64_t> leaf_mask_{};
  LevelArray<uint64_t> leaf_value_ = {~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0},
                                      ~uint64_t{0}, ~uint64_t{0}, ~uint64_t{0}};
};

// Returns whether VM entry and VMFUNC accept the pointer.
bool IsValidEptp(Eptp eptp, const CpuFeatures& features);

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_EPT_RULES_H_
