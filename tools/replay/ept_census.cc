// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/ept_census.h"

#include "tdp/mmu/format/ept_entry.h"

namespace tdp::tools {
namespace {

void CountTable(Hpa table, Level level, uintptr_t direct_map_offset, EptCensus& census) {
  census.tables += PageCount(1);
  const auto* entries = reinterpret_cast<const uint64_t*>(table.raw() + direct_map_offset);
  for (int i = 0; i < Level::kEntries; ++i) {
    const EptEntry entry(entries[i]);
    switch (entry.kind(level)) {
      case EntryKind::kTable:
        CountTable(entry.address(), level.below(), direct_map_offset, census);
        break;
      case EntryKind::kLeaf:
        ++census.leaves[level.raw() - 1];
        break;
      case EntryKind::kHole:
      case EntryKind::kMmio:
        break;
    }
  }
}

}  // namespace

EptCensus CountEpt(Eptp eptp, uintptr_t direct_map_offset) {
  EptCensus census;
  CountTable(eptp.root(), eptp.root_level(), direct_map_offset, census);
  return census;
}

}  // namespace tdp::tools
