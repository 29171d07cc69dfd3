// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/range_walk.h"

#include <algorithm>
#include <cstdint>

namespace tdp {
namespace {

// Tables of any level that one section visits: some 10 µs of scanning, which is what a structural
// operation may have to wait.
constexpr int kTablesPerSection = 32;

}  // namespace

Gfn RangeWalk::Run(FrameRange range, Visitor visit) {
  rest_ = {range.first, std::min(range.end, mmu_.end())};
  ended_ = false;
  while (!rest_.is_empty() && !ended_) {
    MmuReadSection section(reader_);
    budget_ = kTablesPerSection;
    if (VisitTable(mmu_.root()->entries(), mmu_.root_level(), Gfn(0), visit)) return range.end;
  }
  return ended_ ? rest_.first : range.end;
}

// Goes over what is left of the range in `table` and moves the rest's start along. False if the
// section or the walk is to end here.
bool RangeWalk::VisitTable(uint64_t* table, Level level, Gfn base, Visitor visit) {
  --budget_;
  const int first = rest_.FirstIndex(base, level);
  const int last = rest_.LastIndex(base, level);
  if (level == kLevel4K) return VisitEntry({table, level, base, first, last}, visit);
  for (int i = first; i <= last; ++i) {
    if (!VisitEntry({table, level, base, i, i}, visit)) return false;
  }
  return true;
}

bool RangeWalk::VisitEntry(const TablePart& part, Visitor visit) {
  const EptEntry entry = part.entry(part.first).Load();
  const bool leaf_table = part.level == kLevel4K;
  const bool link = !leaf_table && entry.kind(part.level) == EntryKind::kTable;
  if (link) {
    if (!VisitTable(mmu_.TableAt(entry), part.level.below(), part.FrameAt(part.first), visit)) {
      return false;
    }
  } else if (leaf_table || entry.kind(part.level) == EntryKind::kLeaf) {
    ended_ = !visit(part);
    if (ended_) return false;
  }
  rest_.first = std::max(rest_.first, std::min(part.end(), rest_.end));
  return budget_ > 0 || !(link || leaf_table);
}

}  // namespace tdp
