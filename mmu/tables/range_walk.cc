// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/range_walk.h"

#include <algorithm>

#include "tdp/mmu/tables/table_cursor.h"

namespace tdp {
namespace {

// How many tables, of any level, one section visits: some 10 µs of scanning, which is what a
// structural operation may have to wait.
constexpr int kTablesPerSection = 32;

TablePart PartAt(const TableCursor& at, int last) {
  return {at.table(), at.level(), at.table_base(), at.index(), last, at.above()};
}

}  // namespace

Gfn RangeWalk::Run(FrameRange range, Visitor visit) {
  FrameRange rest{range.first, std::min(range.end, mmu_.end())};
  while (!rest.is_empty()) {
    const MmuReadSection section(reader_);
    if (!RunSection(rest, visit)) return rest.first;
  }
  return range.end;
}

// Goes over the beginning of `rest`, which becomes what is left. Returns false if `visit` ended the
// walk.
bool RangeWalk::RunSection(FrameRange& rest, Visitor visit) {
  const FrameRange range = rest;
  for (TableCursor at(mmu_, range); !at.at_end() && at.tables_entered() <= kTablesPerSection;) {
    if (at.level() == kLevel4K) {
      const TablePart part = PartAt(at, at.last_index());
      if (!visit(part)) return false;
      rest.first = std::min(part.end(), range.end);
      at.Leave();
      continue;
    }
    const EptEntry entry = at.entry().Load();
    if (!at.is_leaving() && entry.kind(at.level()) == EntryKind::kTable) {
      at.Enter(entry);
      continue;
    }
    if (entry.kind(at.level()) == EntryKind::kLeaf && !visit(PartAt(at, at.index()))) return false;
    rest.first = std::min(at.end(), range.end);
    at.Next();
  }
  return true;
}

}  // namespace tdp
