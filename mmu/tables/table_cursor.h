// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The one way to go over the entries of direct tables that stand for a range of frames.

#ifndef TDP_MMU_TABLES_TABLE_CURSOR_H_
#define TDP_MMU_TABLES_TABLE_CURSOR_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/tables/direct_mmu.h"

namespace tdp {

// Stands at one entry at a time, by ascending frame. It begins at the root's first entry of the
// range; its user looks at the entry and says whether to go into the table below it (`Enter`) or on
// behind everything below it (`Next`). At the end of a table it comes back to the link of that
// table and says so once (`is_leaving`), so that a user can decide something of a table after what
// is below it.
//
//     for (TableCursor at(mmu, range); !at.at_end();) {
//       const EptEntry entry = at.entry().Load();
//       if (!at.is_leaving() && entry.kind(at.level()) == EntryKind::kTable && ...) {
//         at.Enter(entry);
//       } else {
//         ...
//         at.Next();
//       }
//     }
//
// The cursor loads no entry itself: what its user loaded once decides. On either side of `MmuLock`,
// and not across sections.
class TableCursor {
 public:
  // Stands at the first entry of `range`, which ends where the tables do, or before.
  TableCursor(const DirectMmu& mmu, FrameRange range)
      : mmu_(mmu), range_(range), level_(mmu.root_level()), at_end_(range.is_empty()) {
    if (!at_end_) Open(mmu.Root().table);
  }

  // Returns whether the whole range has been gone over: there is no entry to look at then.
  bool at_end() const { return at_end_; }
  // Returns whether everything below this entry has just been gone through.
  bool is_leaving() const { return is_leaving_; }

  Level level() const { return level_; }
  EntryRef entry() const { return EntryRef(entry_); }
  EntryPosition position() const { return {table(), level_, above_}; }
  // Returns the frames of the entry, whether or not they are all in the range.
  Gfn first() const {
    return base_ + PageCount(level_.pages().raw() * static_cast<uint64_t>(index()));
  }
  Gfn end() const { return first() + level_.pages(); }
  // Returns whether all of the entry's frames are in the range; only at the ends of it they may not
  // be.
  bool is_inside() const {
    return (entry_ != first_ && entry_ != last_) || range_.Holds(first(), level_.pages());
  }
  // Returns the AND of the rights of the tables above the entry.
  Access above() const { return above_; }

  // Return the table that the entry is in, and the part of it from this entry to the last in the
  // range.
  uint64_t* table() const { return entry_ - index(); }
  Gfn table_base() const { return base_; }
  int index() const { return IndexOf(entry_); }
  int last_index() const { return IndexOf(last_); }

  // Goes to the first entry of the range in the table that `link` points to, which was loaded from
  // this entry.
  void Enter(EptEntry link) {
    steps_[static_cast<size_t>(level_.raw())] = {entry_, first_, last_, above_.raw()};
    base_ = first();
    above_ = above_ & link.access();
    level_ = level_.below();
    is_leaving_ = false;
    ++tables_entered_;
    Open(mmu_.TableAt(link));
  }
  // Goes on behind this entry and everything below it.
  void Next() {
    if (entry_ != last_) {
      is_leaving_ = false;
      ++entry_;
    } else {
      Leave();
    }
  }
  // Goes on behind the rest of the table.
  void Leave() {
    if (level_ == mmu_.root_level()) {
      at_end_ = true;
      return;
    }
    level_ = level_.above();
    const Step& above = steps_[static_cast<size_t>(level_.raw())];
    entry_ = above.entry;
    first_ = above.first;
    last_ = above.last;
    above_ = Access::FromRaw(above.rights);
    base_ = base_.AlignDown(TablePages(level_));
    is_leaving_ = true;
  }

  // Returns how many tables it has been in, the root left out.
  int tables_entered() const { return tables_entered_; }

 private:
  // Tells where it stood in a table when it entered the one below.
  struct Step {
    uint64_t* entry;
    uint64_t* first;
    uint64_t* last;
    uint8_t rights;
  };

  void Open(uint64_t* table) {
    entry_ = first_ = table + range_.FirstIndex(base_, level_);
    last_ = table + range_.LastIndex(base_, level_);
  }
  // A table is a page, so the low bits of an entry's address are its place in it.
  static int IndexOf(const uint64_t* entry) {
    return static_cast<int>(reinterpret_cast<uintptr_t>(entry) % kPageSize / sizeof(*entry));
  }

  static constexpr size_t kMostLevels = 5;

  const DirectMmu& mmu_;
  const FrameRange range_;
  uint64_t* entry_ = nullptr;
  uint64_t* first_ = nullptr;  // of the entries of the table that are in the range
  uint64_t* last_ = nullptr;   // the same
  Gfn base_{0};                // of the table
  Level level_;
  Access above_ = Access::All();
  bool at_end_;
  bool is_leaving_ = false;
  int tables_entered_ = 0;
  std::array<Step, kMostLevels + 1> steps_;  // by level; those below the root and above `level_`
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_TABLE_CURSOR_H_
