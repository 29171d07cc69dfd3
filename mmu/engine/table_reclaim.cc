// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/table_reclaim.h"

#include <cstddef>
#include <cstdint>

#include "tdp/base/sync.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {
namespace {

// Tables that one section looks at.
constexpr int kTablesPerSection = 32;

}  // namespace

size_t TableReclaim::Run(size_t wanted, const SpaceRange& spared) {
  const uint64_t before = engine_.tables_freed();
  TakeVictims(wanted, spared).Settle();
  // What another thread frees meanwhile is as welcome.
  engine_.clock().WaitForReclaims();
  return static_cast<size_t>(engine_.tables_freed() - before);
}

// Where nothing is left to take, tables may be on their way back all the same: another thread has
// taken them and not settled. Its flush is as good as one of our own.
PendingFlush TableReclaim::TakeVictims(size_t wanted, const SpaceRange& spared) {
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

absl::Status TableReclaim::Stock(TableCache& cache, const SpaceRange& spared) {
  // Other threads may be faster with every table that is freed, but not for ever.
  constexpr int kReclaims = 8;
  absl::Status status = cache.Refill(1);
  for (int i = 0; i < kReclaims && !status.ok(); ++i) {
    if (Run(TableCache::kFaultMaximum, spared) == 0) break;
    engine_.CountTableReclaim();
    status = cache.Refill(1);
  }
  return status;
}

// The first turn of the hand may only take A bits, the second finds what has not been used since;
// the rest of a third is what the first turn had begun in the middle.
void TableReclaim::Gather(size_t wanted) {
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

const DirectMmu& TableReclaim::mmu() const { return engine_.views(space_)[view_].mmu(); }

void TableReclaim::GoToNextView() {
  hand_ = Gfn(0);
  if (++view_ < engine_.views(space_).size()) return;
  view_ = 0;
  space_ = static_cast<AddressSpaceId>((space_ + 1u) % engine_.address_spaces());
}

// From the hand to the end of its view, or until there are enough victims.
void TableReclaim::GoRound() {
  MmuLock::Reader reader(engine_.mmu_lock());
  while (hand_ < mmu().end() && victims_.size() < wanted_) {
    const MmuReadSection section(reader);
    budget_ = kTablesPerSection;
    VisitTable(mmu().root()->entries(), mmu().root_level(), Gfn(0));
    if (budget_ > 0 && victims_.size() < wanted_) hand_ = mmu().end();
  }
}

// Goes over the rest of `table` from the hand on. Returns whether there are tables below it.
bool TableReclaim::VisitTable(uint64_t* table, Level level, Gfn base) {
  const FrameRange rest{hand_, mmu().end()};
  bool any = false;
  for (int i = 0; i < Level::kEntries; ++i) {
    const EptEntry link = EntryRef(table + i).Load();
    if (link.kind(level) != EntryKind::kTable) continue;
    any = true;
    if (i < rest.FirstIndex(base, level)) continue;
    const Gfn first = base + PageCount(static_cast<uint64_t>(i) * level.pages().raw());
    const Level below = level.below();
    uint64_t* child = engine_.pool().EntriesOf(link.address());
    if (below == kLevel4K || !VisitTable(child, below, first)) {
      --budget_;
      Judge(EntryRef(table + i), link, {first, first + level.pages()});
    }
    if (budget_ <= 0 || victims_.size() >= wanted_) return true;
    hand_ = first + level.pages();
  }
  return any;
}

bool TableReclaim::IsSpared(FrameRange frames) const {
  return space_ == spared_.space && frames.first < spared_.frames.end &&
         spared_.frames.first < frames.end;
}

void TableReclaim::Judge(EntryRef link, EptEntry value, FrameRange frames) {
  hand_ = frames.end;
  if (IsSpared(frames)) return;
  // Where someone else changes the link the table is in use.
  if (value.accessed()) {
    link.CompareExchange(value, value.WithAccessedTaken());
  } else {
    victims_.push_back(frames);
  }
}

}  // namespace tdp
