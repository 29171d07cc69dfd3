// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Making one large leaf of a table whose leaves map what it would map (KVM: recovery of huge pages,
// tdp_mmu_make_huge_spte).

#ifndef TDP_MMU_TABLES_COLLAPSE_H_
#define TDP_MMU_TABLES_COLLAPSE_H_

#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/table_page.h"
#include "tdp/mmu/tables/direct_mmu.h"

namespace tdp {

// One collapse. The table that it takes out of the tables is kept aside until no CPU can reach it,
// because a CPU may set A and D bits in it as long as that.
class Collapse {
 public:
  // Prepares a collapse of the aligned region of `level` (2 or 3) from `base` on, which `leaf`
  // maps, with A and D clear. With `loses_execute` X of smaller leaves is no reason against a leaf
  // without X: a fetch will split it.
  Collapse(Gfn base, Level level, EptEntry leaf, bool loses_execute = false)
      : base_(base),
        level_(level),
        leaf_(leaf),
        ignored_(loses_execute ? EntryBits::kOfPartsAndExecute : EntryBits::kOfParts) {}

  Gfn base() const { return base_; }

  // Puts the leaf in the place of a table if every leaf there maps the frame that it would map,
  // with rights, memory type and software bits that agree: W alone may be more, as a fresh fault
  // would give it. Holes count as agreeing, at least one page is mapped. A and D of the leaf are
  // the OR of those below. Returns whether it did so; a flush is owed then (SDM 29.4.3.3). Writer's
  // side.
  bool Replace(DirectMmu& mmu);

  // Passes on A bits, and D bits if `with_dirty`, that CPUs have set in the old table since.
  // Readers' side, once no CPU can reach that table.
  void AddLateBits(const DirectMmu& mmu, bool with_dirty) const;

  // Returns the table that was taken out, or null.
  TablePage* old_table() const { return old_table_; }

 private:
  struct Seen {
    EptEntry any;          // the OR over the leaves
    bool tracked = false;  // one is old by access tracking, without A bits
    bool young = false;    // one is not
  };

  bool Look(TablePage* table, Seen& seen) const;
  void AddLateBits(const DirectMmu& mmu, Gfn gfn, EptEntry late) const;

  const Gfn base_;
  const Level level_;
  EptEntry leaf_;
  const EntryBits ignored_;  // what need not agree
  TablePage* old_table_ = nullptr;
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_COLLAPSE_H_
