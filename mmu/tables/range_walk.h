// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Going over what is mapped in a range of frames while the guest runs and faults.

#ifndef TDP_MMU_TABLES_RANGE_WALK_H_
#define TDP_MMU_TABLES_RANGE_WALK_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"

namespace tdp {

// Names entries `first` to `last`, both included, of one table: a part of a leaf table, or one
// large leaf.
struct TablePart {
  uint64_t* table;
  Level level;
  Gfn base;  // the first frame of the table
  int first;
  int last;
  Access above;  // the AND of the rights of the tables above it

  EntryRef entry(int index) const { return EntryRef(table + index); }
  Gfn FrameAt(int index) const {
    return base + PageCount(static_cast<uint64_t>(index) * level.pages().raw());
  }
  // Returns the first frame behind the part.
  Gfn end() const { return FrameAt(last + 1); }
};

// Walks on the readers' side, in sections of its own that end after a few tables each, so that a
// structural operation never waits for the whole of a large range. One thread uses it.
class RangeWalk {
 public:
  RangeWalk(const DirectMmu& mmu, MmuLock& lock) : mmu_(mmu), reader_(lock) {}

  // It is called inside a section; false ends the walk.
  using Visitor = absl::FunctionRef<bool(const TablePart& part)>;

  // Visits what is mapped in `range`, each leaf once and by ascending frame; leaves that come while
  // it runs may be missed. Returns the first frame that it has not been to: `range.end`, or where
  // `visit` ended it.
  Gfn Run(FrameRange range, Visitor visit);

 private:
  bool RunSection(FrameRange& rest, Visitor visit);

  const DirectMmu& mmu_;
  MmuLock::Reader reader_;
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_RANGE_WALK_H_
