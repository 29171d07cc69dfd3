// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/reverse_mapped/shadow_tables.h"

#include <algorithm>
#include <bit>
#include <new>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/status/status.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/paging_entry.h"
#include "tdp/mmu/reverse_mapped/shadow_check.h"

namespace tdp {
namespace {

constexpr int kEntries = Level::kEntries;

// Tables that hold no entries count as level 1, so that nobody looks for tables below.
constexpr PageRole kDataRole = PageRole().WithLevel(kLevel4K);

}  // namespace

absl::Status ShadowStock::Refill() {
  TDP_RETURN_IF_ERROR(descriptors.Refill(kDescriptors));
  TDP_RETURN_IF_ERROR(records.Refill(kRecords));
  return tables.Refill(kTables);
}

template <typename Entry>
ShadowTables<Entry>::ShadowTables(TablePool& pool, ShadowPools& pools, FlushClock& clock,
                                  MmuLock& mmu_lock, const ShadowTablesOptions& options)
    : pool_(pool),
      pools_(pools),
      clock_(clock),
      mmu_lock_(mmu_lock),
      options_(options),
      page_quota_(options.page_quota),
      hash_(options.hash_bits),
      spare_descriptors_(pools.descriptors) {}

template <typename Entry>
ShadowTables<Entry>::~ShadowTables() {
  ShadowZap zap;
  {
    const MmuWriteSection section(mmu_lock_);  // nobody else is there, but `Zap` asks for it
    while (ShadowPage* page = pages_.first()) {
      TDP_CHECK(page->roots == 0);
      Zap(*page, spare_descriptors_, zap);
    }
  }
  // The pool's mutex is taken under no section here, either: who checks the order of locks as they
  // are taken does not know that nobody else is there.
  pool_.Return(std::move(zap.tables));
}

// --- Pages ---------------------------------------------------------------------------------------

template <typename Entry>
ShadowPage* ShadowTables<Entry>::Make(Gfn gfn, PageRole role, LargePagePermits* tracking,
                                      ShadowStock& stock, ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  if (stock.tables.size() == 0 || stock.records.size() == 0) return nullptr;
  auto* page = new (stock.records.Pop()) ShadowPage;
  page->gfn = gfn;
  page->role = role;
  page->generation = generation_;
  page->table = stock.tables.Pop();
  CountTable();
  page->table->shadow = page;
  page->table->base = gfn;
  page->table->role = role;
  page->table->in_use = true;
  page->tracking = tracking;
  hash_.Insert(page);
  pages_.PushBack(page);
  counters_.made.Add();
  if (tracking != nullptr) {
    // Room was prepared, so this cannot fail.
    TDP_CHECK(tracking->AddWriteTracking(gfn).ok());
    ProtectTable(*page, zap);
  }
  return page;
}

// Takes W from what maps the page's guest table. Any flush that begins after that will do, and gets
// a later number than the clock shows now. Where nothing had W a harvest or another fault may have
// taken it and not have flushed yet.
template <typename Entry>
void ShadowTables<Entry>::ProtectTable(ShadowPage& page, ShadowZap& zap) {
  const bool had_write = WriteProtectFrame(page.gfn);
  page.trusted_from = had_write ? clock_.generation() + 1 : clock_.generation_owed();
  zap.flush |= had_write;
}

template <typename Entry>
void ShadowTables<Entry>::Release(ShadowPage& page, ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  TDP_CHECK(page.roots != 0);
  if (--page.roots != 0) return;
  roots_.Remove(&page);
  if (page.is_invalid) Free(page, zap);
}

// --- Entries -------------------------------------------------------------------------------------

template <typename Entry>
bool ShadowTables<Entry>::ReadyTable(TablePage*& table, ShadowStock& stock) {
  if (table != nullptr) return true;
  if (stock.tables.size() == 0) return false;
  table = stock.tables.Pop();
  CountTable();
  table->role = kDataRole;
  table->in_use = true;
  return true;
}

// Makes room for the places of an entry of `page` that is about to enter the chain of `head`: its
// own, and that of an entry which was alone there.
template <typename Entry>
bool ShadowTables<Entry>::ReadyPlaces(ShadowPage& page, const RmapHead& head, ShadowStock& stock) {
  if (head.is_empty()) return true;
  if (stock.descriptors.size() < Chain::kDescriptorsPerAdd) return false;
  if (!ReadyTable(page.places, stock)) return false;
  return head.is_chain() || ReadyTable(ShadowPage::Of(head.single())->places, stock);
}

template <typename Entry>
bool ShadowTables<Entry>::Link(ShadowPage& page, int index, ShadowPage& child, ShadowStock& stock) {
  AssertWriting(mmu_lock_);
  if (!ReadyPlaces(page, child.parents, stock)) return false;
  Chain::Add(child.parents, page.entry(index), ShadowPlaces(), stock.descriptors);
  ++page.present;
  At(page, index).Store(hole(), Entry::Table(pool_.HpaOf(child.table->entries())));
  if (!page.is_direct()) NoteAddition();
  return true;
}

template <typename Entry>
bool ShadowTables<Entry>::MakeRoomFor(ShadowPage& page, const RmapHead& head, ShadowStock& stock) {
  AssertWriting(mmu_lock_);
  if (!page.is_direct() && !ReadyTable(page.origins, stock)) return false;
  return ReadyPlaces(page, head, stock);
}

// Enters a leaf of `page` into a chain that others are in. Tables of places are made by writers
// alone, so those that are there stay. Returns false where one is missing.
template <typename Entry>
ABSL_ATTRIBUTE_NOINLINE bool ShadowTables<Entry>::AddToChain(const ShadowPage& page,
                                                             uint64_t* where, RmapHead& head,
                                                             ShadowStock& stock) {
  if (stock.descriptors.size() < Chain::kDescriptorsPerAdd || page.places == nullptr) return false;
  if (head.is_single() && ShadowPage::Of(head.single())->places == nullptr) return false;
  Chain::Add(head, where, ShadowPlaces(), stock.descriptors);
  return true;
}

template <typename Entry>
void ShadowTables<Entry>::ChangeLeaf(ShadowPage& page, int index, Entry leaf, LeafOrigin origin,
                                     ShadowZap& zap) {
  AssertHolds(page.leaf_lock, mmu_lock_);
  page.SetOrigin(index, origin);
  zap.flush |= At(page, index).Exchange(leaf).OwesFlushFor(leaf);
  if (!page.is_direct()) NoteAddition();
}

template <typename Entry>
void ShadowTables<Entry>::Drop(ShadowPage& page, int index, DescriptorCache& descriptors,
                               ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  const Entry entry = At(page, index).Load();
  switch (entry.kind(page.level())) {
    case EntryKind::kHole:
    case EntryKind::kMmio:
      return;
    case EntryKind::kTable:
      Chain::Remove(TableOf(entry)->shadow->parents, page.entry(index), ShadowPlaces(),
                    descriptors);
      ++structure_;
      break;
    case EntryKind::kLeaf: {
      const Gfn gfn = page.OriginOf(index).gfn();
      Chain::Remove(*rmaps_.Of(gfn)->Find(gfn, page.level()), page.entry(index), ShadowPlaces(),
                    descriptors);
      break;
    }
  }
  At(page, index).Exchange(hole());
  --page.present;
  zap.flush = true;
}

// --- Zapping -------------------------------------------------------------------------------------

template <typename Entry>
void ShadowTables<Entry>::Empty(ShadowPage& page, DescriptorCache& descriptors, ShadowZap& zap) {
  for (int i = 0; page.present != 0 && i < kEntries; ++i) Drop(page, i, descriptors, zap);
}

template <typename Entry>
void ShadowTables<Entry>::DropParents(ShadowPage& page, DescriptorCache& descriptors,
                                      ShadowZap& zap) {
  Chain::Clear(page.parents, descriptors, [this, &zap](uint64_t* entry) {
    Ref(entry).Exchange(hole());
    --ShadowPage::Of(entry)->present;
    zap.flush = true;
  });
}

// Takes the page out of every index: it can not be found any more.
template <typename Entry>
void ShadowTables<Entry>::Forget(ShadowPage& page) {
  hash_.Remove(&page);
  pages_.Remove(&page);
  if (page.sync != ShadowSync::kSynced) SetSynced(page);
  if (page.tracking != nullptr) page.tracking->RemoveWriteTracking(page.gfn);
}

template <typename Entry>
void ShadowTables<Entry>::Zap(ShadowPage& page, DescriptorCache& descriptors, ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  TDP_CHECK(!page.is_invalid);
  ++structure_;
  Empty(page, descriptors, zap);
  DropParents(page, descriptors, zap);
  Forget(page);
  counters_.zapped.Add();
  if (page.roots == 0) {
    Free(page, zap);
  } else {
    page.is_invalid = true;
    DropTable(page.origins, zap);
    DropTable(page.places, zap);
  }
}

// Frees a page. The record goes at once, the tables after the flush: a CPU may still walk the one,
// and the others go the same way because it is one.
template <typename Entry>
void ShadowTables<Entry>::Free(ShadowPage& page, ShadowZap& zap) {
  DropTable(page.table, zap);
  DropTable(page.origins, zap);
  DropTable(page.places, zap);
  void* record = &page;
  page.~ShadowPage();
  pools_.records.Return(1, &record);
}

template <typename Entry>
void ShadowTables<Entry>::DropTable(TablePage*& table, ShadowZap& zap) {
  if (table == nullptr) return;
  table->shadow = nullptr;
  zap.tables.Push(std::exchange(table, nullptr));
  table_count_.store(table_count() - 1, std::memory_order_relaxed);
}

template <typename Entry>
size_t ShadowTables<Entry>::ZapHeld(size_t count, absl::Span<ShadowPage* const> keep,
                                    DescriptorCache& descriptors, ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  size_t zapped = 0;
  for (ShadowPage* page = roots_.first(); page != nullptr && zapped < count;
       page = ShadowSideList::Next(page)) {
    if (page->is_invalid || absl::c_linear_search(keep, page)) continue;
    Zap(*page, descriptors, zap);
    ++zapped;
  }
  counters_.recycled.Add(zapped);
  return zapped;
}

template <typename Entry>
size_t ShadowTables<Entry>::ZapOldest(size_t count, DescriptorCache& descriptors, ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  size_t zapped = 0;
  for (ShadowPage* page = pages_.first(); page != nullptr && zapped < count;) {
    ShadowPage* next = ShadowAgeList::Next(page);
    if (page->roots == 0) {
      Zap(*page, descriptors, zap);
      ++zapped;
    }
    page = next;
  }
  counters_.recycled.Add(zapped);
  return zapped;
}

template <typename Entry>
PendingFlush ShadowTables<Entry>::Commit(ShadowZap&& zap) {
  PendingFlush flush;
  if (zap.is_empty()) return flush;
  flush = clock_.Advance();
  clock_.Retire(std::move(zap.tables), flush);
  return flush;
}

template <typename Entry>
PendingFlush ShadowTables<Entry>::CommitAll(ShadowZap&& zap) {
  return zap.is_empty() ? clock_.Outstanding() : Commit(std::move(zap));
}

// --- What the guest writes -----------------------------------------------------------------------

template <typename Entry>
bool ShadowTables<Entry>::MustTrack(Gfn gfn) const {
  AssertInSection();
  bool must = false;
  hash_.ForEachShadowOf(gfn, [&](const ShadowPage* page) {
    must |= (page->level() > kLevel4K && page->generation == generation_) ||
            page->sync != ShadowSync::kUnsync;
  });
  return must;
}

template <typename Entry>
bool ShadowTables<Entry>::MustTrackEvenUnsync(Gfn gfn) {
  AssertWriting(mmu_lock_);
  bool must = false;
  hash_.ForEachShadowOf(gfn, [&](const ShadowPage* page) {
    must |= page->level() > kLevel4K && page->generation == generation_;
  });
  if (must) return true;
  hash_.ForEachShadowOf(gfn, [&](ShadowPage* page) {
    if (page->level() > kLevel4K) return;
    if (page->sync == ShadowSync::kSynced) {
      unsync_.PushBack(page);
      counters_.unsynced.Add();
    }
    page->sync = ShadowSync::kUnsync;
  });
  return false;
}

template <typename Entry>
void ShadowTables<Entry>::OnWrite(Gpa gpa, ByteCount size, DescriptorCache& descriptors,
                                  ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  bool any = false;
  hash_.ForEachShadowOf(Gfn::Of(gpa), [&](ShadowPage* page) {
    any = true;
    if (IsFlooded(*page, gpa.page_offset(), size)) {
      counters_.flooded.Add();
      Zap(*page, descriptors, zap);
    } else {
      DropWritten(*page, gpa.page_offset(), descriptors, zap);
    }
  });
  if (!any) return;
  counters_.pte_write.Add();
  ++structure_;
}

// Returns whether the guest's table is perhaps no table any more: it is written too often by
// itself, or in a way in which nobody writes an entry (detect_write_flooding,
// detect_write_misaligned). A page of level 1 goes unsync instead.
template <typename Entry>
bool ShadowTables<Entry>::IsFlooded(ShadowPage& page, ByteCount offset, ByteCount size) {
  constexpr int kFlood = 3;
  const ByteCount entry_bytes = page.role.wide_entries() ? 8 : 4;
  // Linux clears the A bit of an entry by its lowest byte.
  const bool low_byte = size == 1 && offset % entry_bytes == 0;
  const bool crosses = offset / entry_bytes != (offset + size - 1) / entry_bytes;
  if (crosses || (size < 4 && !low_byte)) return true;
  if (page.level() == kLevel4K) return false;
  const auto floods = static_cast<uint8_t>(page.floods.load(std::memory_order_relaxed) + 1);
  page.floods.store(floods, std::memory_order_relaxed);
  return floods >= kFlood;
}

// Drops the entries that follow from the guest's entry at `offset`: one, or of a directory of
// 4-byte entries two, each for 2 MiB (get_written_sptes).
template <typename Entry>
void ShadowTables<Entry>::DropWritten(ShadowPage& page, ByteCount offset,
                                      DescriptorCache& descriptors, ShadowZap& zap) {
  int index = static_cast<int>(offset / (page.role.wide_entries() ? 8 : 4));
  int count = 1;
  if (!page.role.wide_entries()) {
    count = page.level() == kLevel4K ? 1 : 2;
    index = index * count - page.role.quadrant() * kEntries;
    if (index < 0 || index >= kEntries) return;
  }
  for (int i = index; i < index + count; ++i) {
    if (page.level() > kLevel4K && At(page, i).Load().kind(page.level()) != EntryKind::kHole) {
      counters_.pde_zapped.Add();
    }
    Drop(page, i, descriptors, zap);
  }
}

template <typename Entry>
void ShadowTables<Entry>::BeginResync(ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  for (ShadowPage* page = unsync_.first(); page != nullptr; page = ShadowSideList::Next(page)) {
    // Another vCPU may have begun already, and not have settled.
    if (page->sync == ShadowSync::kUnsync) ProtectTable(*page, zap);
    page->sync = ShadowSync::kResyncing;
    zap.flush |= !IsTrusted(*page);
  }
}

template <typename Entry>
void ShadowTables<Entry>::SetSynced(ShadowPage& page) {
  AssertWriting(mmu_lock_);
  unsync_.Remove(&page);
  counters_.resynced.Add();
  page.sync = ShadowSync::kSynced;
}

// --- Rights and A bits ---------------------------------------------------------------------------

template <typename Entry>
bool ShadowTables<Entry>::Protect(RmapHead& head) const {
  bool any = false;
  Chain::ForEach(head, [&any](uint64_t* where) {
    const Ref entry(where);
    Entry old = entry.Load();
    while (old.is_writable() && !entry.CompareExchange(old, old.WithoutWrite())) {
    }
    any |= old.is_writable();
  });
  return any;
}

template <typename Entry>
bool ShadowTables<Entry>::WriteProtectFrame(Gfn gfn) const {
  SlotRmap* rmap = rmaps_.Of(gfn).get();
  bool any = false;
  for (Level level = kLevel4K; rmap != nullptr && level <= kLevel1G; level = level.above()) {
    RmapHead* head = rmap->Find(gfn, level);
    if (head != nullptr) any |= Protect(*head);
  }
  return any;
}

template <typename Entry>
bool ShadowTables<Entry>::WriteProtect(Gfn first, Gfn end) {
  AssertWriting(mmu_lock_);
  bool any = false;
  rmaps_.ForEachHead(first, end, [&](Level, Gfn, RmapHead& head) { any |= Protect(head); });
  return any;
}

// Faults go on beside it, so each head is held while its chain is followed.
template <typename Entry>
void ShadowTables<Entry>::WriteProtectPages(Gfn base, uint64_t mask) {
  AssertInSection();
  for (; mask != 0; mask &= mask - 1) {
    const Gfn gfn = base + PageCount(static_cast<uint64_t>(std::countr_zero(mask)));
    const SlotRmap* rmap = rmaps_.Of(gfn).get();
    for (Level level = kLevel4K; rmap != nullptr && level <= kLevel1G; level = level.above()) {
      const SlotRmap::Hold hold(*rmap, gfn, level);
      if (hold.is_there()) Protect(hold.head());
    }
  }
}

template <typename Entry>
bool ShadowTables<Entry>::Maps(Gfn first, Gfn end) const {
  AssertWriting(mmu_lock_);
  bool any = false;
  rmaps_.ForEachHead(first, end, [&any](Level, Gfn, const RmapHead&) { any = true; });
  return any;
}

template <typename Entry>
bool ShadowTables<Entry>::Age(Gfn first, Gfn end, bool test) {
  AssertWriting(mmu_lock_);
  bool young = false;
  rmaps_.ForEachHead(first, end, [&](Level, Gfn, const RmapHead& head) {
    Chain::ForEach(head, [&](uint64_t* where) {
      const Ref entry(where);
      Entry old = entry.Load();
      young |= old.accessed();
      // This fails where the CPU uses the page right now, which leaves it young.
      if (!test && old.accessed()) entry.CompareExchange(old, old.WithoutAccessed());
    });
  });
  return young;
}

// --- Structural operations -----------------------------------------------------------------------

template <typename Entry>
void ShadowTables<Entry>::Detach(Gfn first, Gfn end, ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  rmaps_.ForEachHead(first, end, [&](Level, Gfn, RmapHead& head) {
    Chain::Clear(head, spare_descriptors_, [this, &zap](uint64_t* entry) {
      Ref(entry).Exchange(hole());
      --ShadowPage::Of(entry)->present;
      zap.flush = true;
    });
  });
  ZapShadowsOf(first, end, zap);
}

// Finds them by the hash for a few frames, else page by page.
template <typename Entry>
void ShadowTables<Entry>::ZapShadowsOf(Gfn first, Gfn end, ShadowZap& zap) {
  if ((end - first).raw() < pages_.size()) {
    for (Gfn gfn = first; gfn < end; gfn += PageCount(1)) {
      hash_.ForEachShadowOf(gfn, [&](ShadowPage* page) { Zap(*page, spare_descriptors_, zap); });
    }
    return;
  }
  for (ShadowPage* page = pages_.first(); page != nullptr;) {
    ShadowPage* next = ShadowAgeList::Next(page);
    if (!page->is_direct() && page->gfn >= first && page->gfn < end) {
      Zap(*page, spare_descriptors_, zap);
    }
    page = next;
  }
}

template <typename Entry>
PendingFlush ShadowTables<Entry>::ZapAll() {
  constexpr size_t kPagesPerSection = 64;
  PendingFlush flush;
  bool more = true;
  for (bool first = true; more; first = false) {
    const MmuWriteSection section(mmu_lock_);
    ShadowZap zap;
    if (first) {
      MakeObsolete(zap);
    } else {
      more = ZapObsolete(kPagesPerSection, zap);
    }
    flush.Merge(CommitAll(std::move(zap)));
  }
  return flush;
}

// Makes every page obsolete, and empties the roots so that no CPU gets to one once `zap` is
// settled. O(roots).
template <typename Entry>
void ShadowTables<Entry>::MakeObsolete(ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  ++generation_;
  ++structure_;
  for (ShadowPage* root = roots_.first(); root != nullptr; root = ShadowSideList::Next(root)) {
    if (!root->is_invalid) Zap(*root, spare_descriptors_, zap);
  }
}

// Zaps up to `count` obsolete pages, the oldest first. Returns whether there may be more.
template <typename Entry>
bool ShadowTables<Entry>::ZapObsolete(size_t count, ShadowZap& zap) {
  AssertWriting(mmu_lock_);
  for (size_t i = 0; i < count; ++i) {
    ShadowPage* page = pages_.first();
    if (page == nullptr || page->generation == generation_) return false;
    Zap(*page, spare_descriptors_, zap);
  }
  return true;
}

// --- Looking -------------------------------------------------------------------------------------

template <typename Entry>
void ShadowTables<Entry>::AddTo(ShadowStats& stats) const {
  stats.mmu_shadow_zapped += counters_.zapped.value();
  stats.mmu_pte_write += counters_.pte_write.value();
  stats.mmu_pde_zapped += counters_.pde_zapped.value();
  stats.mmu_flooded += counters_.flooded.value();
  stats.mmu_recycled += counters_.recycled.value();
  stats.mmu_cache_miss += counters_.made.value();
  stats.mmu_unsync += counters_.unsynced.value() - counters_.resynced.value();
  stats.pages += counters_.made.value() - counters_.zapped.value();
}

template class ShadowTables<PagingEntry>;
template class ShadowTables<EptEntry>;

}  // namespace tdp
