// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A table of 4 KiB leaves that is filled where nobody can see it and then published as a whole.

#ifndef TDP_MMU_TABLES_STAGED_TABLE_H_
#define TDP_MMU_TABLES_STAGED_TABLE_H_

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/table_page.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

// A table that is being filled. One thread uses it, which owns `cache`.
class StagedTable {
 public:
  // Begins a table for the 2 MiB around `first`, to be filled from `first` on. `cache` holds
  // `TableCache::kFaultMaximum` tables.
  StagedTable(const DirectMmu& mmu, Gfn first, TableCache& cache);
  // Gives back to the cache what was not published.
  ~StagedTable();
  StagedTable(const StagedTable&) = delete;
  StagedTable& operator=(const StagedTable&) = delete;

  // Returns the first frame that is not filled in yet.
  Gfn next() const { return next_; }

  // Fills in `pages` frames from `next()` on, all within the 2 MiB: `leaf` and what follows it
  // frame by frame. These are plain stores.
  void Append(EptEntry leaf, PageCount pages);

  struct Published {
    MapOutcome outcome = MapOutcome::kInstalled;  // or kRaced: look again
    Gfn reached;          // all frames from the first up to here are mapped with what is needed
    PageCount installed;  // of them, those that were not
  };
  // Links the table where there is none, with one store; else fills the holes of the one that is
  // there, up to the first leaf that lacks a right of `needed` or maps another frame. `needed` of
  // no kind stands for R and W where they are staged. Readers' side.
  Published Publish(Access needed);

 private:
  Published Merge(const EntryPosition& at, Access needed);
  bool MergeEntry(EntryRef entry, EptEntry staged, Access needed, Published& published) const;

  const DirectMmu& mmu_;
  TableCache& cache_;
  const Gfn first_;
  Gfn next_;
  Access allowed_;  // what some leaf that is staged allows
  TablePage* table_;
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_STAGED_TABLE_H_
