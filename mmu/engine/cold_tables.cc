// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/cold_tables.h"

#include <cstddef>
#include <cstdint>

#include "tdp/base/sync.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/table_cursor.h"

namespace tdp {
namespace {

// How many tables one section looks at.
constexpr int kColdTablesPerSection = 32;

// Returns whether a table whose entries are of `level` has tables below it.
bool LinksTables(uint64_t* table, Level level) {
  for (int i = 0; level > kLevel4K && i < Level::kEntries; ++i) {
    if (EntryRef(table + i).Load().kind(level) == EntryKind::kTable) return true;
  }
  return false;
}

}  // namespace

size_t ColdTables::Run(size_t wanted, const SpaceRange& spared) {
  if (const size_t spare = engine_.GiveSpareBack(); spare != 0) return spare;
  const uint64_t before = engine_.tables_freed();
  TakeVictims(wanted, spared).Settle();
  // Tables that another thread frees meanwhile count as well.
  engine_.clock().WaitForReclaims();
  return engine_.tables_freed() - before;
}

// Zaps cold tables. Where nothing is left to take, tables may be on their way back all the same:
// another thread has taken them and not settled. Its flush is as good as one of our own.
PendingFlush ColdTables::TakeVictims(size_t wanted, const SpaceRange& spared) {
  MutexLock lock(mutex_);
  spared_ = spared;
  Gather(wanted);
  PendingFlush flush;
  for (const FrameRange& victim : victims_) {
    flush.Merge(
        engine_.ZapIn(space_, engine_.views(space_)[view_], victim.first, victim.end, [] {}));
  }
  flush.Merge(engine_.clock().Outstanding());
  return flush;
}

absl::Status ColdTables::Stock(TableCache& cache, const SpaceRange& spared) {
  // Other threads may be faster with every table that is freed, but not for ever.
  constexpr int kReclaims = 8;
  absl::Status status = cache.Refill(1);
  for (int i = 0; i < kReclaims && !status.ok(); ++i) {
    if (Run(TableCache::kFaultMaximum, spared) == 0) break;
    engine_.CountRecycle();
    status = cache.Refill(1);
  }
  return status;
}

// Looks for victims. The first turn of the hand may only take A bits, the second finds what has not
// been used since; the rest of a third is what the first turn had begun in the middle.
void ColdTables::Gather(size_t wanted) {
  victims_.clear();
  wanted_ = wanted;
  size_t turns = 0;
  for (size_t space = 0; space < engine_.address_spaces(); ++space) {
    turns += 3 * engine_.views(static_cast<AddressSpaceId>(space)).size();
  }
  for (; turns > 0; --turns) {
    GoRound();
    if (!victims_.empty()) return;
    GoToNextView();
  }
}

const DirectMmu& ColdTables::mmu() const { return engine_.views(space_)[view_].mmu(); }

void ColdTables::GoToNextView() {
  hand_ = Gfn(0);
  if (++view_ < engine_.views(space_).size()) return;
  view_ = 0;
  space_ = static_cast<AddressSpaceId>((space_ + 1u) % engine_.address_spaces());
}

// Goes from the hand to the end of its view, or until there are enough victims.
void ColdTables::GoRound() {
  MmuLock::Reader reader(engine_.mmu_lock());
  while (hand_ < mmu().end() && victims_.size() < wanted_) {
    const MmuReadSection section(reader);
    GoOn();
  }
}

// Judges the next tables of one section, each after those below it.
void ColdTables::GoOn() {
  int budget = kColdTablesPerSection;
  for (TableCursor at(mmu(), {hand_, mmu().end()}); !at.at_end();) {
    const EptEntry link = at.entry().Load();
    const bool is_link = link.kind(at.level()) == EntryKind::kTable;
    if (is_link && !at.is_leaving() && at.level() > kLevel2M) {
      at.Enter(link);
      continue;
    }
    if (is_link && !LinksTables(mmu().TableAt(link), at.level().below())) {
      Judge(at.entry(), link, {at.first(), at.end()});
      if (--budget == 0 || victims_.size() >= wanted_) return;
    }
    hand_ = at.end();
    at.Next();
  }
  hand_ = mmu().end();
}

bool ColdTables::IsSpared(FrameRange frames) const {
  return space_ == spared_.space && frames.first < spared_.frames.end &&
         spared_.frames.first < frames.end;
}

void ColdTables::Judge(EntryRef link, EptEntry value, FrameRange frames) {
  hand_ = frames.end;
  if (IsSpared(frames)) return;
  // The link changes where someone uses the table, which then stays.
  if (value.accessed()) {
    link.CompareExchange(value, value.WithAccessedTaken());
  } else {
    victims_.push_back(frames);
  }
}

}  // namespace tdp
