// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Looking through a whole table for a few bits, faster than an entry at a time.

#ifndef TDP_MMU_TABLES_TABLE_SCAN_H_
#define TDP_MMU_TABLES_TABLE_SCAN_H_

#include <array>
#include <bit>
#include <cstdint>

#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_entry.h"

namespace tdp {

// One bit for each entry of a table, or of a part of one.
class TableMask {
 public:
  static constexpr int kWords = Level::kEntries / 64;

  uint64_t word(int i) const { return words_[static_cast<size_t>(i)]; }
  void set_word(int i, uint64_t bits) { words_[static_cast<size_t>(i)] = bits; }
  void Set(int index) { words_[static_cast<size_t>(index / 64)] |= uint64_t{1} << (index % 64); }
  void Clear(int index) {
    words_[static_cast<size_t>(index / 64)] &= ~(uint64_t{1} << (index % 64));
  }
  bool any() const {
    uint64_t all = 0;
    for (const uint64_t word : words_) all |= word;
    return all != 0;
  }
  int count() const {
    int n = 0;
    for (const uint64_t word : words_) n += std::popcount(word);
    return n;
  }

  // Calls `visit(index)` for each bit that is set, in order.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (int i = 0; i < kWords; ++i) {
      for (uint64_t rest = word(i); rest != 0; rest &= rest - 1) {
        visit(i * 64 + std::countr_zero(rest));
      }
    }
  }

 private:
  std::array<uint64_t, kWords> words_{};
};

// Lines of eight entries: bit i of a word stands for the entries 8 i to 8 i + 7.
inline constexpr uint64_t kAllLines = ~uint64_t{0};

// Returns which of 64 entries from `entries` on, 512 bytes aligned, have any of `bits`; as below,
// with a bit of `lines` for each eighth of them.
uint64_t FindIn64EntriesWith(const uint64_t* entries, EntryBits bits, uint64_t lines = kAllLines);

// Returns which entries of `table`, `first` to `last` (0 to 511, both included), have any of
// `bits`. The table may change meanwhile: each entry is looked at once, at some moment of the call,
// with acquire order on the whole. Entries of lines that are not in `lines` are holes: it may
// look at them or not.
TableMask FindEntriesWith(const uint64_t* table, EntryBits bits, int first = 0,
                          int last = Level::kEntries - 1, uint64_t lines = kAllLines);

// Returns the lines of `table` with an entry that is no hole.
uint64_t FindLinesInUse(const uint64_t* table);

}  // namespace tdp

#endif  // TDP_MMU_TABLES_TABLE_SCAN_H_
