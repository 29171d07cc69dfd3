// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Collecting D bits out of the tables of a slot, at a cost that follows what was touched.

#ifndef TDP_MMU_DIRTY_DIRTY_HARVEST_H_
#define TDP_MMU_DIRTY_DIRTY_HARVEST_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/dirty/written_frames.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

// Harvests D bits of one range of frames of one address space, a slot or a whole part of one. Works
// on the readers' side, in short sections of its own: faults go on meanwhile.
//
// A subtree is looked at if its entry has W (without W nothing below was written since logging was
// switched on) and has A, or had it at the harvest before: see "Harvesting D bits" in
// docs/locking.md. Entries that reach over an end of the range are always looked at, and keep their
// A bits for the harvest of their other parts.
//
// Where a table maps nothing beside the range, the harvest learns which of its lines are in use,
// and looks at those alone from then on (`TablePage::lines`).
//
// Tables of leaves are gone through some at a time, so that their lines come at once: of a sparse
// guest each is far away.
//
// Two harvests of frames under one entry must not overlap in time, the flush after them included.
class DirtyHarvest {
 public:
  // Hears that these frames were written. It is called inside a section, after D was cleared.
  using Visitor = absl::FunctionRef<void(absl::Span<const WrittenFrames> written)>;

  // Harvests that have the same `number` go by what one of them has learned of a table: between two
  // of them nobody fills a hole in their ranges without `TablePage::NoteLine`. With 0 each goes by
  // itself.
  DirtyHarvest(const DirectMmu& mmu, const TablePool& pool, MmuLock& lock, uint64_t number)
      : mmu_(mmu), pool_(pool), reader_(lock), number_(number) {}

  // Harvests [first, end). The flush that must follow before the next harvest, and before anyone
  // relies on what was found, is the caller's. Returns whether any A or D was cleared.
  bool Run(Gfn first, Gfn end, Visitor visit);

  // Returns how many tables, of any level, the harvests so far looked at.
  uint64_t tables_visited() const { return tables_visited_; }

 private:
  // How many tables of leaves are gone through together.
  static constexpr size_t kTogether = 16;
  struct LeafTable {
    uint64_t* entries;
    Gfn base;
    uint64_t lines;  // to look at
  };

  Gfn Visit(uint64_t* table, Level level, Gfn base, Visitor visit);
  uint64_t LinesOf(const uint64_t* table, Level level, Gfn base) const;
  uint64_t* EnterSubtree(EntryRef entry, Level level, Gfn from);
  Gfn Take(uint64_t* leaves, Gfn base, Visitor visit);
  void HarvestTaken(Visitor visit);
  void HarvestLeaves(const LeafTable& table);

  const DirectMmu& mmu_;
  const TablePool& pool_;
  MmuLock::Reader reader_;
  const uint64_t number_;
  FrameRange range_;  // of the run
  FrameRange left_;   // what of it the sections before this one have not been to
  int work_ = 0;      // what this section has done
  bool any_ = false;
  uint64_t tables_visited_ = 0;
  // These are empty outside of a section.
  std::array<LeafTable, kTogether> taken_;
  size_t taken_count_ = 0;
  std::array<WrittenFrames, kTogether * Level::kEntries / WrittenFrames::kFrames> written_;
  size_t written_count_ = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_DIRTY_DIRTY_HARVEST_H_
