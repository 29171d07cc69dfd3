// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Looking through a whole table for a few bits, faster than an entry at a time.

#ifndef TDP_MMU_TABLES_TABLE_SCAN_H_
#define TDP_MMU_TABLES_TABLE_SCAN_H_

#include <cstdint>

#include "tdp/mmu/format/ept_entry.h"

namespace tdp {

// Stands for all lines of a table. A line is eight entries: bit i of a word stands for the entries
// 8 i to 8 i + 7.
inline constexpr uint64_t kAllLines = ~uint64_t{0};

// Returns which of 64 entries from `entries` on, 512 bytes aligned, have any of `bits`. They may
// change meanwhile: each entry is looked at once, at some moment of the call, with acquire order on
// the whole. `lines` has a bit for each eighth of them; those of lines without one are holes: it
// may look at them or not.
uint64_t FindIn64EntriesWith(const uint64_t* entries, EntryBits bits, uint64_t lines = kAllLines);

// Returns the lines of `table` with an entry that is no hole.
uint64_t FindLinesInUse(const uint64_t* table);

}  // namespace tdp

#endif  // TDP_MMU_TABLES_TABLE_SCAN_H_
