// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/range_split.h"

namespace tdp {

Gfn RangeSplit::Run(FrameRange range, Level to, TableCache& cache) {
  for (;;) {
    const Gfn reached = walk_.Run(range, [&](const TablePart& part) {
      if (part.level <= to) return true;
      if (cache.size() == 0) return false;
      Split(part, cache);
      // The walk ends here, and begins here again, if what stands there now is still too large.
      return part.level.below() <= to;
    });
    if (reached >= range.end || cache.size() == 0) return reached;
    range.first = reached;
  }
}

void RangeSplit::Split(const TablePart& leaf, TableCache& cache) {
  const EntryPosition at{leaf.table, leaf.level, Access::All()};
  const Gfn gfn = leaf.FrameAt(leaf.first);
  EptEntry old = at.entry(gfn).Load();
  // This fails where the CPU sets A or D, or a fault gives a right or splits the leaf itself.
  while (old.kind(leaf.level) == EntryKind::kLeaf) {
    if (mmu_.Split(at, gfn, old, cache)) any_ = true;
    old = at.entry(gfn).Load();
  }
}

}  // namespace tdp
