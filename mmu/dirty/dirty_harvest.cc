// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/dirty/dirty_harvest.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>

#include "absl/base/optimization.h"
#include "tdp/base/index.h"
#include "tdp/mmu/tables/table_scan.h"

namespace tdp {
namespace {

// How much work a section does before it ends, in units of a page that was written, some 5 ns, and
// what else counts for: a structural operation waits for this and for the tables that are gone
// through together, some 40 µs if every page of them was written.
constexpr int kWorkPerSection = 2048;
constexpr int kWorkPerTable = 32;
constexpr int kWorkPer64Entries = 8;

// Returns the bit of index `i` among the 64 entries from 64 `block` on, if it is one of them.
uint64_t BitIn(int block, int i) { return i / 64 == block ? uint64_t{1} << (i % 64) : 0; }

}  // namespace

bool DirtyHarvest::Run(Gfn first, Gfn end, Visitor visit) {
  range_ = left_ = {first, std::min(end, mmu_.end())};
  any_ = false;
  while (!left_.is_empty()) {
    MmuReadSection section(reader_);
    work_ = 0;
    const Gfn reached = Visit(mmu_.root()->entries(), mmu_.root_level(), Gfn(0), visit);
    HarvestTaken(visit);
    left_.first = reached;
  }
  return any_;
}

// Goes over what is left as far as `table`, of links, has it. Returns the first frame that is not
// done when the section has worked enough, else the end of the table or of the range.
Gfn DirtyHarvest::Visit(uint64_t* table, Level level, Gfn base, Visitor visit) {
  ++tables_visited_;
  const PageCount below_pages = level.pages();
  const int first = left_.FirstIndex(base, level);
  const int last = left_.LastIndex(base, level);
  const auto from = [base, below_pages](int i) {
    return base + PageCount(AsIndex(i) * below_pages.raw());
  };
  work_ += kWorkPerTable;
  // Entries that reach over an end are entered whatever they say.
  const int over_first = left_.Holds(from(first), below_pages) ? -1 : first;
  const int over_last = left_.Holds(from(last), below_pages) ? -1 : last;
  const uint64_t lines = LinesOf(table, level, base);
  // No address here comes of `lines`: the entries are on their way before the record is there.
  for (int block = first / 64; block <= last / 64; ++block) {
    const uint64_t in_block = lines >> 8 * block & 0xff;
    if (in_block == 0) continue;
    work_ += kWorkPer64Entries;
    uint64_t candidates = FindIn64EntriesWith(table + block * 64, EntryBits::kHarvest, in_block);
    if (ABSL_PREDICT_FALSE(over_first >= 0)) candidates |= BitIn(block, over_first);
    if (ABSL_PREDICT_FALSE(over_last >= 0)) candidates |= BitIn(block, over_last);
    for (; candidates != 0; candidates &= candidates - 1) {
      const int i = block * 64 + std::countr_zero(candidates);
      if (i < first || i > last) continue;
      uint64_t* below = EnterSubtree(EntryRef(table + i), level, from(i));
      if (below == nullptr) continue;
      const Gfn reached = level == kLevel2M ? Take(below, from(i), visit)
                                            : Visit(below, level.below(), from(i), visit);
      if (work_ >= kWorkPerSection) return reached;
    }
  }
  return std::min(base + TablePages(level), left_.end);
}

// Returns which lines of `table` to look at. Those of a table that reaches over an end of the range
// are never known: beside the range others fill holes and note nothing.
uint64_t DirtyHarvest::LinesOf(const uint64_t* table, Level level, Gfn base) const {
  if (number_ == 0 || !range_.Holds(base, TablePages(level))) return kAllLines;
  TablePage* const record = TablePage::Of(table);
  if (ABSL_PREDICT_FALSE(record->lines_learned.load(std::memory_order_relaxed) != number_)) {
    record->lines.fetch_or(FindLinesInUse(table), std::memory_order_acq_rel);
    record->lines_learned.store(number_, std::memory_order_relaxed);
  }
  return record->lines.load(std::memory_order_acquire);
}

// Returns the table below, if anything there may have been written since the last harvest; else
// null. Clears A of the entry and notes that it was set, so that the next harvest looks again:
// until the flush of this one a CPU may go on below through its copy of the entry, without setting
// A. Who enters a subtree goes through it in the same section, as far as the section goes.
uint64_t* DirtyHarvest::EnterSubtree(EntryRef entry, Level level, Gfn from) {
  EptEntry value = entry.Load();
  if (value.kind(level) != EntryKind::kTable || !value.is_writable()) return nullptr;
  // Another harvest has the other part, or this one has been there in an earlier section: the entry
  // stays as it is.
  bool enter = !left_.Holds(from, level.pages());
  while (!enter && (value.accessed() || value.must_revisit())) {
    enter = any_ = entry.CompareExchange(value, value.WithAccessedHarvested());
  }
  return enter ? pool_.EntriesOf(value.address()) : nullptr;
}

// Goes through the table of leaves at once or later in this section. Returns its end.
Gfn DirtyHarvest::Take(uint64_t* leaves, Gfn base, Visitor visit) {
  __builtin_prefetch(TablePage::Of(leaves));
  taken_[taken_count_++] = {leaves, base, kAllLines};
  if (taken_count_ == kTogether) HarvestTaken(visit);
  return std::min(base + TablePages(kLevel4K), left_.end);
}

void DirtyHarvest::HarvestTaken(Visitor visit) {
  const absl::Span<LeafTable> tables = absl::MakeSpan(taken_.data(), taken_count_);
  taken_count_ = 0;
  for (LeafTable& table : tables) {
    table.lines = LinesOf(table.entries, kLevel4K, table.base);
    __builtin_prefetch(table.entries + 8 * std::countr_zero(table.lines | 1), 1);
  }
  for (const LeafTable& table : tables) HarvestLeaves(table);
  if (written_count_ == 0) return;
  any_ = true;
  visit(absl::MakeConstSpan(written_.data(), written_count_));
  written_count_ = 0;
}

void DirtyHarvest::HarvestLeaves(const LeafTable& table) {
  ++tables_visited_;
  work_ += kWorkPerTable;
  const bool whole = left_.Holds(table.base, TablePages(kLevel4K));
  for (uint64_t lines = table.lines; lines != 0;) {
    const int line = std::countr_zero(lines) & ~7;  // the first of 64 entries
    uint64_t* const entries = table.entries + 8 * line;
    WrittenFrames found{table.base + PageCount(8 * AsIndex(line)),
                        FindIn64EntriesWith(entries, EntryBits::kDirty, lines >> line)};
    lines &= ~(uint64_t{0xff} << line);
    work_ += kWorkPer64Entries;
    if (ABSL_PREDICT_FALSE(!whole)) found.bits = found.Inside(left_);
    for (uint64_t rest = found.bits; rest != 0; rest &= rest - 1) {
      const EntryRef entry(entries + std::countr_zero(rest));
      if (ABSL_PREDICT_FALSE(entry.Load().is_untracked())) {
        found.bits &= ~(rest & -rest);
      } else {
        entry.Take(EntryBits::kDirty);
        ++work_;
      }
    }
    if (found.bits == 0) continue;
    written_[written_count_++] = found;
  }
}

}  // namespace tdp
