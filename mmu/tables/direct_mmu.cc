// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/direct_mmu.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <utility>

#include "absl/base/optimization.h"
#include "tdp/base/check.h"
#include "tdp/mmu/tables/table_cursor.h"
#include "tdp/mmu/tables/table_scan.h"

namespace tdp {
namespace {

// Returns whether `table`, of which the entries from `first` to `last` have just been gone through,
// holds nothing any more. Most are not empty, and in most of those the entries at the ends tell.
bool IsTableEmpty(uint64_t* table, int first, int last) {
  const auto stands = [table](int i) {
    return i >= 0 && i < Level::kEntries && !EntryRef(table + i).Load().is_hole();
  };
  for (const int i : {last, last + 1, first, first - 1}) {
    if (stands(i)) return false;
  }
  return FindLinesInUse(table) == 0;
}

}  // namespace

DirectMmu::DirectMmu(const DirectMmuOptions& options, TablePool& pool, TablePage* root)
    : options_(options),
      pool_(pool),
      root_(root),
      root_entries_(root->entries()),
      eptp_(Eptp::Make(pool.HpaOf(root->entries()), options.levels, options.accessed_dirty)) {
  root->base = Gfn(0);
  root->role = PageRole::Direct(root_level(), options.address_space, options.accessed_dirty);
  root->in_use = true;
}

// --- Readers' side ---

// Returns where to map `gfn`. For a write, the way there is writable afterwards; no table if
// another fault is at that.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline Descent DirectMmu::Find(Gfn gfn, Level target, Access needed,
                                                            const LeafMemo& memo,
                                                            Unprotect unprotect) const {
  if (memo.LeadsTo(gfn, target, structure())) return DescendBy(memo, gfn, target);
  const Descent found = Descend(Root(), gfn, target);
  if (ABSL_PREDICT_TRUE(!needed.can_write() || found.at.above.can_write())) return found;
  return FindWritable(gfn, target, unprotect);
}

Descent DirectMmu::FindWritable(Gfn gfn, Level target, Unprotect unprotect) const {
  while (RestoreWrite(gfn, unprotect)) {
    const Descent found = Descend(Root(), gfn, target);
    if (found.at.above.can_write()) return found;
  }
  return {};
}

// Notes where the leaf stands. What is noted already is not written again: the next fault would
// wait for those stores. A way without W is not noted, so that a memo answers for reads and writes
// alike.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline void DirectMmu::Remember(Gfn gfn, const EntryPosition& position,
                                                             LeafMemo& memo) const {
  const uint64_t now = structure();
  const uint64_t region = LeafMemo::Region(gfn, position.level);
  if ((memo.structure == now && memo.region == region) || !position.above.can_write()) return;
  memo.Set(now, region, position.table);
}

// Gives the highest entry on the way to `gfn` that lacks W its W back. Where writes are logged the
// protection moves one level down: off on every child, and only then on at the parent, so that no
// child is writable in between that was not before. One fault at a time does this to an entry: a
// second one, late, would take from the children what their writes have set by now. Who lifts waits
// for it as well, since a log that ends shows before its last faults are over. Returns false if
// another fault is at it.
bool DirectMmu::RestoreWrite(Gfn gfn, Unprotect unprotect) const {
  EntryPosition at = Root();
  EptEntry parent = at.entry(gfn).Load();
  while (parent.kind(at.level) == EntryKind::kTable && parent.is_writable()) {
    at = {TableAt(parent), at.level.below(), at.above};
    parent = at.entry(gfn).Load();
  }
  if (parent.kind(at.level) != EntryKind::kTable) return true;
  if (unprotect == Unprotect::kLift) return LiftWrite(at.entry(gfn), parent);
  if (!ClaimPush(at.entry(gfn), parent)) return parent.is_writable();
  TakeFromChildren(TableAt(parent), at.level.below(), unprotect);
  // This fails where the CPU sets A.
  while (!at.entry(gfn).CompareExchange(parent, parent.WithWritePushed())) {
  }
  return true;
}

// Were W given while another fault takes it from the children, a vCPU could note a way down as
// writable just before one of its links loses W, and nothing would tell it.
bool DirectMmu::LiftWrite(EntryRef entry, EptEntry parent) {
  do {
    if (parent.is_pushing()) return false;
  } while (!entry.CompareExchange(parent, parent.WithWrite()));
  return true;
}

bool DirectMmu::ClaimPush(EntryRef entry, EptEntry& parent) {
  do {
    if (parent.is_writable() || parent.is_pushing()) return false;
  } while (!entry.CompareExchange(parent, parent.WithPushing()));
  parent = parent.WithPushing();
  return true;
}

void DirectMmu::TakeFromChildren(uint64_t* children, Level level, Unprotect unprotect) {
  const bool keep_write = unprotect == Unprotect::kPushDirty && level == kLevel4K;
  const EntryBits bits = keep_write ? EntryBits::kDirty : EntryBits::kWrite;
  for (int i = 0; i < Level::kEntries; ++i) {
    const EntryRef entry(children + i);
    const EptEntry child = entry.Load();
    if (child.HasAny(bits) && !child.is_untracked()) entry.Take(bits);
  }
}

MapResult DirectMmu::MapFromRoot(const LeafRequest& request, LeafMemo& memo, TableCache& cache) {
  AssertInSection();
  Level target = request.level;
  bool flush_owed = false;
  for (;;) {
    const auto [at, old] = Find(request.gfn, target, request.needed, memo, request.unprotect);
    if (ABSL_PREDICT_FALSE(at.table == nullptr)) return MapResult(MapOutcome::kBusy);
    Level level = std::min(at.level, request.level);
    MapOutcome outcome = MapOutcome::kRaced;
    switch (old.kind(at.level)) {
      case EntryKind::kTable:
        target = at.level.below();  // smaller pages stand here already
        continue;
      case EntryKind::kHole:
      case EntryKind::kMmio:
        outcome = Install(at, old, request, memo, cache);
        break;
      case EntryKind::kLeaf:
        level = at.level;
        outcome = Widen(at, old, request, cache, flush_owed);
        Remember(request.gfn, at, memo);
        break;
    }
    if (ABSL_PREDICT_TRUE(outcome != MapOutcome::kRaced)) {
      return MapResult(outcome, level, flush_owed);
    }
  }
}

struct DirectMmu::Path {
  EptEntry top;  // what links it
  int size = 0;
  std::array<TablePage*, TableCache::kFaultMaximum> tables;  // lowest first
};

MapOutcome DirectMmu::Install(const EntryPosition& at, EptEntry old, const LeafRequest& request,
                              LeafMemo& memo, TableCache& cache) const {
  const Level level = std::min(at.level, request.level);
  const EptEntry leaf = LeafAt(request.leaf, level);
  if (ABSL_PREDICT_TRUE(level == at.level)) {
    NoteLine(at.entry(request.gfn));
    if (!at.entry(request.gfn).CompareExchange(old, leaf)) return MapOutcome::kRaced;
    Remember(request.gfn, at, memo);
    return MapOutcome::kInstalled;
  }
  TablePage* lowest = nullptr;
  const MapOutcome outcome = Link(at, old, request.gfn, leaf, level, cache, lowest);
  if (outcome == MapOutcome::kInstalled) {
    Remember(request.gfn, {lowest->entries(), lowest->level(), at.above}, memo);
  }
  return outcome;
}

MapOutcome DirectMmu::Link(const EntryPosition& at, EptEntry old, Gfn gfn, EptEntry entry,
                           Level level, TableCache& cache, TablePage*& lowest) const {
  AssertInSection();
  if (at.level.raw() - level.raw() > cache.size()) return MapOutcome::kNeedsTables;
  const Path path = BuildPath(gfn, entry, level, at.level, cache);
  NoteLine(at.entry(gfn));
  if (!at.entry(gfn).CompareExchange(old, path.top)) {
    Unbuild(path, gfn, cache);
    return MapOutcome::kRaced;
  }
  if (path.size != 0) lowest = path.tables[0];
  return MapOutcome::kInstalled;
}

// Builds every table between `entry`, which is for `level`, and an entry of level `top`, with plain
// stores: nobody can see them before the one compare-exchange that links `Path::top`.
DirectMmu::Path DirectMmu::BuildPath(Gfn gfn, EptEntry entry, Level level, Level top,
                                     TableCache& cache) const {
  Path path;
  path.top = entry;
  for (; level < top; level = level.above()) {
    TablePage* table = NewTable(gfn, level, cache);
    table->entries()[level.IndexOf(gfn)] = path.top.raw();
    path.tables[static_cast<size_t>(path.size++)] = table;
    path.top = LinkTo(table);
  }
  return path;
}

void DirectMmu::Unbuild(const Path& path, Gfn gfn, TableCache& cache) const {
  for (int i = 0; i < path.size; ++i) {
    TablePage* table = path.tables[static_cast<size_t>(i)];
    table->entries()[table->level().IndexOf(gfn)] = pool_.empty_entry().raw();
    DropTable(table, cache);
  }
}

TablePage* DirectMmu::NewTable(Gfn gfn, Level level, TableCache& cache) const {
  TablePage* table = cache.Pop();
  table->base = gfn.AlignDown(TablePages(level));
  table->role = PageRole::Direct(level, options_.address_space, options_.accessed_dirty);
  table->in_use = true;
  return table;
}

void DirectMmu::DropTable(TablePage* table, TableCache& cache) const {
  table->in_use = false;
  cache.PushUnused(table);
}

// Gives an existing leaf what `request` needs. It may only grow as a whole if the request is about
// the whole of it; else it is split first, or gets back the rights that aging took and no others.
MapOutcome DirectMmu::Widen(const EntryPosition& at, EptEntry old, const LeafRequest& request,
                            TableCache& cache, bool& flush_owed) const {
  const EptEntry full = old.access_tracked() ? old.WithRightsRestored() : old;
  if (old == full && full.access().Covers(request.needed)) return MapOutcome::kSpurious;
  if (at.level > request.level && !full.access().Covers(request.needed)) {
    if (cache.size() == 0) return MapOutcome::kNeedsTables;
    flush_owed |= Split(at, request.gfn, old, cache, request.unprotect);
    return MapOutcome::kRaced;
  }
  if (Translation{full, at.level, {}}.FrameOf(request.gfn) != request.leaf.frame()) {
    return MapOutcome::kFrameChanged;
  }
  const EptEntry wider =
      at.level > request.level ? full : full.WithGrantsOf(LeafAt(request.leaf, at.level));
  return at.entry(request.gfn).CompareExchange(old, wider) ? MapOutcome::kInstalled
                                                           : MapOutcome::kRaced;
}

bool DirectMmu::Split(const EntryPosition& at, Gfn gfn, EptEntry old, TableCache& cache,
                      Unprotect unprotect) const {
  AssertInSection();
  // Were `old` a link, the leaves made of it would map tables to the guest.
  TDP_CHECK(old.kind(at.level) == EntryKind::kLeaf && at.level > kLevel4K);
  TablePage* table = NewTable(gfn, at.level.below(), cache);
  EptEntry leaf = old;
  if (old.host_writable() && !old.is_writable() && !old.access_tracked()) {
    // W was taken by the start of logging, so D is older than the log: a harvest would take it for
    // new.
    leaf = old.WithoutDirty();
    if (unprotect == Unprotect::kPushDirty && at.level == kLevel2M) leaf = leaf.WithWrite();
  }
  for (int i = 0; i < Level::kEntries; ++i) {
    table->entries()[i] = leaf.SplitChild(at.level, i).raw();
  }
  const EptEntry link = LinkTo(table);
  if (at.entry(gfn).CompareExchange(old, old.accessed() ? link.WithAccessed() : link)) {
    return true;
  }
  std::fill_n(table->entries(), Level::kEntries, pool_.empty_entry().raw());
  DropTable(table, cache);
  return false;
}

MapResult DirectMmu::WidenInPlace(Gfn gfn, Access needed, Level largest, Unprotect unprotect,
                                  LeafMemo& memo) {
  AssertInSection();
  for (;;) {
    const Descent found = Find(gfn, kLevel4K, needed, memo, unprotect);
    const EntryPosition& at = found.at;
    if (ABSL_PREDICT_FALSE(at.table == nullptr)) return MapResult(MapOutcome::kBusy);
    EptEntry old = found.seen;
    if (old.kind(at.level) != EntryKind::kLeaf) return MapResult(MapOutcome::kNeedsTables);
    if (old.access().Covers(needed)) {
      Remember(gfn, at, memo);
      return MapResult(MapOutcome::kSpurious, at.level);
    }
    EptEntry wider = old.access_tracked() ? old.WithRightsRestored().WithAccessed() : old;
    if (needed.can_write() && wider.host_writable() && at.level <= largest) {
      wider = options_.accessed_dirty ? wider.WithWrite().WithDirty() : wider.WithWrite();
    }
    if (!wider.access().Covers(needed)) return MapResult(MapOutcome::kNeedsTables);
    if (at.entry(gfn).CompareExchange(old, wider)) {
      Remember(gfn, at, memo);
      return MapResult(MapOutcome::kInstalled, at.level);
    }
  }
}

bool DirectMmu::NarrowPages(Gfn base, uint64_t mask, WriteNotice notice) {
  AssertInSection();
  const EntryBits bits = notice == WriteNotice::kFault ? EntryBits::kWrite : EntryBits::kDirty;
  const int in_first_table = Level::kEntries - kLevel4K.IndexOf(base);
  const uint64_t first = in_first_table < 64 ? (uint64_t{1} << in_first_table) - 1 : ~uint64_t{0};
  const bool any = NarrowInTable(base, mask & first, bits);
  return NarrowInTable(base, mask & ~first, bits) || any;
}

// Does the same within one table.
bool DirectMmu::NarrowInTable(Gfn base, uint64_t mask, EntryBits bits) const {
  if (mask == 0) return false;
  const EntryPosition at =
      Descend(Root(), base + PageCount(static_cast<uint64_t>(std::countr_zero(mask))), kLevel4K).at;
  if (at.level != kLevel4K) return false;
  bool any = false;
  for (; mask != 0; mask &= mask - 1) {
    const EntryRef entry =
        at.entry(base + PageCount(static_cast<uint64_t>(std::countr_zero(mask))));
    const EptEntry old = entry.Load();
    if (!old.HasAny(bits) || old.is_untracked()) continue;
    entry.Take(bits);
    any = true;
  }
  return any;
}

DirectMmu::PushResult DirectMmu::PushDown(Gfn gfn, Unprotect unprotect, TableCache& cache) {
  AssertInSection();
  PushResult result;
  for (;;) {
    const auto [at, entry] = Descend(Root(), gfn, kLevel4K);
    const bool done = at.level == kLevel4K && at.above.can_write();
    // A hole says nothing of the rest of a table of 4 KiB leaves.
    if (done || (at.level > kLevel4K && entry.is_hole())) {
      const PageCount pages = at.level == kLevel4K ? kLevel2M.pages() : at.level.pages();
      result.next = gfn.AlignDown(pages) + pages;
      return result;
    }
    if (!at.above.can_write()) {
      if (RestoreWrite(gfn, unprotect)) continue;
      result.outcome = MapOutcome::kBusy;
    } else if (cache.size() > 0) {
      result.flush_owed |= Split(at, gfn, entry, cache, unprotect);
      continue;
    } else {
      result.outcome = MapOutcome::kNeedsTables;
    }
    result.next = gfn;
    return result;
  }
}

bool DirectMmu::MapMmio(Gfn gfn, uint64_t generation, TableCache& cache) {
  AssertInSection();
  const LeafRequest request{gfn, kLevel4K, Access::None(), EptEntry::Mmio(gfn, generation)};
  LeafMemo unused;
  for (;;) {
    const auto [at, old] = Descend(Root(), gfn, kLevel4K);
    if (old.kind(at.level) == EntryKind::kLeaf) return false;
    const MapOutcome outcome = Install(at, old, request, unused, cache);
    if (outcome != MapOutcome::kRaced) return outcome == MapOutcome::kInstalled;
  }
}

// --- Writer's side ---

struct DirectMmu::Detachment {
  TableList& detached;
  LostDirtyLeaves* lost;
};

bool DirectMmu::Detach(Gfn first, Gfn end, TableCache& spare, TableList& detached,
                       LostDirtyLeaves* lost) {
  AssertWriting();
  // That there is such a table is something: what it had of the page another operation may just
  // have taken out.
  if (end - first == PageCount(1) && DetachPage(first, lost)) return true;
  return DetachRange({first, std::min(end, this->end())}, spare, {detached, lost});
}

bool DirectMmu::DetachPage(Gfn gfn, LostDirtyLeaves* lost) const {
  AssertWriting();
  if (ABSL_PREDICT_FALSE(gfn >= end())) return false;
  bool writable;
  uint64_t* const table = LeafTable(gfn, writable);
  if (ABSL_PREDICT_FALSE(table == nullptr)) return false;
  const int index = kLevel4K.IndexOf(gfn);
  if (const EntryRef entry(table + index); !entry.Load().is_hole()) {
    const EptEntry old = entry.Exchange(pool_.empty_entry());
    if (ABSL_PREDICT_FALSE(lost != nullptr)) TellLost(gfn, old, writable, *lost);
  }
  return (index + 1 < Level::kEntries && !EntryRef(table + index + 1).Load().is_hole()) ||
         (index > 0 && !EntryRef(table + index - 1).Load().is_hole());
}

void DirectMmu::TellLost(Gfn gfn, EptEntry leaf, bool writable, LostDirtyLeaves& lost) {
  if (writable && leaf.dirty() && !leaf.is_untracked()) lost.OnLost(gfn);
}

bool DirectMmu::DetachRange(const FrameRange& range, TableCache& spare, const Detachment& work) {
  if (range.is_empty()) return false;
  bool any = false;
  if (DetachLeaves(range, work, any)) return any;  // no table goes: memos stay true
  StructureChanged();
  for (TableCursor at(*this, range); !at.at_end();) {
    EptEntry old = at.entry().Load();
    if (!at.is_leaving() && !old.is_hole()) {
      any = true;
      const bool is_inside = at.is_inside();
      if (!is_inside) old = SplitForEdge(at.position(), at.first(), old, spare);
      if (!is_inside && old.kind(at.level()) == EntryKind::kTable) {
        at.Enter(old);
        continue;
      }
      TakeOut(at.position(), at.first(), work);
    } else if (at.is_leaving() && IsEmptied(old, at.level().below(), at.first(), range)) {
      TakeOut(at.position(), at.first(), work);
    }
    at.Next();
  }
  return any;
}

// Detaches a few pages in one table.
bool DirectMmu::DetachLeaves(const FrameRange& range, const Detachment& work, bool& any) const {
  const Gfn last = range.end - PageCount(1);
  if (range.first.AlignDown(kLevel2M.pages()) != last.AlignDown(kLevel2M.pages())) return false;
  const EntryPosition at = Descend(Root(), range.first, kLevel4K).at;
  if (at.level != kLevel4K) return false;
  any = true;
  for (Gfn gfn = range.first; gfn < range.end; gfn += PageCount(1)) {
    if (!at.entry(gfn).Load().is_hole()) TakeOut(at, gfn, work);
  }
  return !IsTableEmpty(at.table, kLevel4K.IndexOf(range.first), kLevel4K.IndexOf(last));
}

// Returns whether the table that `link` points to, of `level` and from frame `base` on, holds
// nothing any more, after its entries for `range` have been gone through.
bool DirectMmu::IsEmptied(EptEntry link, Level level, Gfn base, const FrameRange& range) const {
  return IsTableEmpty(TableAt(link), range.FirstIndex(base, level), range.LastIndex(base, level));
}

void DirectMmu::TakeOut(const EntryPosition& at, Gfn gfn, const Detachment& work) const {
  const bool writable = at.above.can_write();
  const EptEntry old = at.entry(gfn).Exchange(pool_.empty_entry());
  if (old.kind(at.level) == EntryKind::kTable) {
    TablePage* table = TablePage::Of(TableAt(old));
    table->may_be_dirty = writable && old.is_writable();
    work.detached.Push(table);
  } else if (work.lost != nullptr && at.level == kLevel4K) {
    TellLost(gfn, old, writable, *work.lost);
  }
}

// Returns what stands at an entry that reaches over an end of the range, after its large leaf was
// split if a table is there for it.
EptEntry DirectMmu::SplitForEdge(const EntryPosition& at, Gfn gfn, EptEntry old,
                                 TableCache& spare) const {
  while (old.kind(at.level) == EntryKind::kLeaf && spare.size() > 0) {
    Split(at, gfn, old, spare);  // fails only where the CPU sets A or D meanwhile
    old = at.entry(gfn).Load();
  }
  return old;
}

// Nothing is mapped at the root itself, so nothing of a leaf is lost here.
bool DirectMmu::DetachAll(TableList& detached) {
  AssertWriting();
  constexpr int kLineEntries = 8;
  StructureChanged();
  const uint64_t lines = FindLinesInUse(root_entries_);
  for (uint64_t left = lines; left != 0; left &= left - 1) {
    const int first = std::countr_zero(left) * kLineEntries;
    for (int i = first; i < first + kLineEntries; ++i) {
      if (EntryRef(root_entries_ + i).Load().is_hole()) continue;
      TakeOut(Root(), Gfn(root_level().pages().raw() * static_cast<uint64_t>(i)),
              {detached, nullptr});
    }
  }
  return lines != 0;
}

TablePage* DirectMmu::TakeRoot() { return std::exchange(root_, nullptr); }

bool DirectMmu::WriteProtect(Gfn first, Gfn end) {
  AssertWriting();
  const FrameRange range{first, std::min(end, this->end())};
  if (range.is_empty()) return false;
  StructureChanged();
  bool any = false;
  for (TableCursor at(*this, range); !at.at_end();) {
    const EptEntry old = at.entry().Load();
    const EntryBits bits = at.level() == kLevel4K ? EntryBits::kWriteAndDirty : EntryBits::kWrite;
    if (!at.is_leaving() && old.HasAny(bits) && !old.is_untracked()) {
      if (!at.is_inside() && old.kind(at.level()) == EntryKind::kTable) {
        at.Enter(old);
        continue;
      }
      at.entry().Take(bits);
      any = true;
    }
    at.Next();
  }
  return any;
}

void DirectMmu::ForEach(Visitor visit) const {
  for (TableCursor at(*this, {Gfn(0), end()}); !at.at_end();) {
    const EptEntry entry = at.entry().Load();
    if (!at.is_leaving() && !entry.is_hole()) {
      visit(TablePage::Of(at.table()), at.index(), entry, at.level());
      if (entry.kind(at.level()) == EntryKind::kTable) {
        at.Enter(entry);
        continue;
      }
    }
    at.Next();
  }
}

}  // namespace tdp
