// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/dirty/dirty_harvest.h"

#include <algorithm>
#include <bit>
#include <cstdint>

#include "absl/base/optimization.h"
#include "tdp/mmu/format/frame_range.h"

namespace tdp {
namespace {

// A section ends after this many tables: a structural operation waits no longer than that, some
// 40 µs if every page is dirty.
constexpr int kTablesPerSection = 8;

// Bits `first` and `last` of a table's mask, as far as they are in `block`.
uint64_t EdgesIn(int block, int first, int last) {
  uint64_t edges = 0;
  if (first / 64 == block) edges |= uint64_t{1} << (first % 64);
  if (last / 64 == block) edges |= uint64_t{1} << (last % 64);
  return edges;
}

}  // namespace

bool DirtyHarvest::Run(Gfn first, Gfn end, Visitor visit) {
  end = std::min(end, mmu_.end());
  first_ = at_ = first;
  any_ = false;
  while (at_ < end) {
    MmuReadSection section(reader_);
    budget_ = kTablesPerSection;
    at_ = Visit(mmu_.root()->entries(), mmu_.root_level(), Gfn(0), end, visit);
  }
  return any_;
}

// Goes over [at_, end) as far as `table` has it. Returns the first frame that is left when the
// budget is spent, else the end of the table or of the range.
Gfn DirtyHarvest::Visit(uint64_t* table, Level level, Gfn base, Gfn end, Visitor visit) {
  ++tables_visited_;
  if (level <= kLevel2M) --budget_;
  const Gfn table_end = std::min(base + TablePages(level), end);
  const int first = at_ <= base ? 0 : level.IndexOf(at_);
  const int last = level.IndexOf(table_end - PageCount(1));
  const uint64_t lines = LinesOf(table, level, base, end);
  if (level == kLevel4K) {
    HarvestLeaves(table, base, FindEntriesWith(table, EntryBits::kDirty, first, last, lines),
                  visit);
    return table_end;
  }
  for (int block = first / 64; block <= last / 64; ++block) {
    uint64_t candidates =
        FindIn64EntriesWith(table + block * 64, EntryBits::kHarvest, lines >> 8 * block);
    candidates |= EdgesIn(block, first, last);
    for (; candidates != 0; candidates &= candidates - 1) {
      const int i = block * 64 + std::countr_zero(candidates);
      if (i < first || i > last) continue;
      const Gfn from = base + PageCount(static_cast<uint64_t>(i) * level.pages().raw());
      uint64_t* below = EnterSubtree(EntryRef(table + i), level, from, end);
      if (below == nullptr) continue;
      const Gfn reached = Visit(below, level.below(), from, end, visit);
      if (budget_ <= 0) return reached;
    }
  }
  return table_end;
}

// The lines of `table` to look at. Those of a table that reaches over an end of the range are never
// known: beside the range others fill holes and note nothing.
uint64_t DirtyHarvest::LinesOf(const uint64_t* table, Level level, Gfn base, Gfn end) const {
  if (number_ == 0 || base < first_ || base + TablePages(level) > end) return kAllLines;
  TablePage* const record = TablePage::Of(table);
  if (ABSL_PREDICT_FALSE(record->lines_learned.load(std::memory_order_relaxed) != number_)) {
    record->lines.fetch_or(FindLinesInUse(table), std::memory_order_acq_rel);
    record->lines_learned.store(number_, std::memory_order_relaxed);
  }
  return record->lines.load(std::memory_order_acquire);
}

// The table below, if anything there may have been written since the last harvest; else null.
// Clears A of the entry and notes that it was set, so that the next harvest looks again: until the
// flush of this one a CPU may go on below through its copy of the entry, without setting A.
uint64_t* DirtyHarvest::EnterSubtree(EntryRef entry, Level level, Gfn from, Gfn end) {
  EptEntry value = entry.Load();
  if (value.kind(level) != EntryKind::kTable || !value.is_writable()) return nullptr;
  // Another harvest has the other part, or this one has been there in an earlier section: the entry
  // stays as it is.
  const bool whole = from >= at_ && from + level.pages() <= end;
  bool enter = !whole;
  while (!enter && (value.accessed() || value.must_revisit())) {
    enter = any_ = entry.CompareExchange(value, value.WithAccessedHarvested());
  }
  return enter ? pool_.EntriesOf(value.address()) : nullptr;
}

void DirtyHarvest::HarvestLeaves(uint64_t* table, Gfn base, const TableMask& dirty, Visitor visit) {
  TableMask written = dirty;
  if (!written.any()) return;
  written.ForEach([&](int i) {
    const EntryRef entry(table + i);
    if (ABSL_PREDICT_FALSE(entry.Load().is_untracked())) {
      written.Clear(i);
    } else {
      entry.Take(EntryBits::kDirty);
    }
  });
  any_ = true;
  visit(base, written);
}

}  // namespace tdp
