// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/aging.h"

namespace tdp {

// Returns whether the page was used. Rights alone say nothing of use where A bits do, and the other
// way round. The use of a frame that is not the slot's says nothing of host memory, and private
// memory lies elsewhere than what ages.
bool Aging::IsYoung(EptEntry entry, Level level) const {
  if (entry.kind(level) != EntryKind::kLeaf) return false;
  if (entry.is_foreign() || entry.is_private()) return false;
  return hardware_ ? entry.accessed() : !entry.access_tracked();
}

void Aging::MakeOld(EntryRef entry, EptEntry value) {
  if (hardware_) {
    // This fails where the CPU uses the page right now, which is young then; and where a fault
    // splits the leaf, whose link must keep its A: a harvest of D bits goes by it.
    entry.CompareExchange(value, value.WithoutAccessed());
    return;
  }
  // This fails where a fault gives a right; that page is young again, or was until now.
  took_rights_ |= entry.CompareExchange(value, value.WithAccessTracked());
}

bool Aging::Age(FrameRange range) {
  bool young = false;
  walk_.Run(range, [&](const TablePart& part) {
    for (int i = part.first; i <= part.last; ++i) {
      const EptEntry entry = part.entry(i).Load();
      if (!IsYoung(entry, part.level)) continue;
      young = true;
      MakeOld(part.entry(i), entry);
    }
    return true;
  });
  return young;
}

bool Aging::Test(FrameRange range) {
  bool young = false;
  walk_.Run(range, [&](const TablePart& part) {
    for (int i = part.first; i <= part.last && !young; ++i) {
      young = IsYoung(part.entry(i).Load(), part.level);
    }
    return !young;
  });
  return young;
}

}  // namespace tdp
