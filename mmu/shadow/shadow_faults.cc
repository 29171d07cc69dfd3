// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/shadow_faults.h"

#include <algorithm>
#include <utility>

#include "absl/base/optimization.h"
#include "tdp/base/check.h"
#include "tdp/base/host_range.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/paging_entry.h"

namespace tdp {

template <typename Entry>
ShadowFaults<Entry>::ShadowFaults(const ShadowParts<Entry>& parts, const FlushClock::Member& member,
                                  GuestWindow& window, DirtyRing* ring)
    : parts_(parts),
      member_(member),
      window_(window),
      ring_(ring),
      shadow_(parts.shadows[0]),
      reader_(parts.mmu_lock),
      slots_(parts.slots),
      table_slots_(parts.slots),
      stock_(parts.shadows[0]->pool(), parts.pools) {}

template <typename Entry>
absl::Status ShadowFaults<Entry>::CheckOutside() const {
  if (!member_.is_in_guest()) return absl::OkStatus();
  return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
}

// Finds what stands behind the frame where it is not simply the host's page. There are no private
// frames where guests' tables are shadowed.
template <typename Entry>
bool ShadowFaults<Entry>::FindKnownBacking(Fault& fault) {
  const MmuReadSection section(reader_);
  if (parts_.sequence.Current() != fault.sequence) return false;
  fault.known = *parts_.policy.BackingOf(*fault.slot, fault.path.gfn);
  return true;
}

template <typename Entry>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::DoAlone(
    Fault& fault, absl::FunctionRef<Next(ShadowZap& zap)> install) {
  Next next = Next::kAgain;
  TakeAway([&](ShadowZap& zap) {
    if (parts_.sequence.IsQuietSince(fault.sequence) || !HasChanged(fault)) next = install(zap);
  });
  return next;
}

template <typename Entry>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::SetAlone(
    Fault& fault, Level level, absl::FunctionRef<Next(ShadowPlace& place)> reach,
    absl::FunctionRef<Next(ShadowPlace place)> set) {
  if (!HasRoom(fault)) return NoteMissingRoom(fault);
  ShadowPlace place;
  if (level == kLevel4K) place = FindLeaf(fault);
  if (place.page == nullptr) {
    if (const Next next = reach(place); next != Next::kDone) return next;
  }
  return set(place);
}

template <typename Entry>
bool ShadowFaults<Entry>::HasRoom(Fault& fault) {
  fault.rmap = tables().RmapOf(*fault.slot, fault.path.gfn);
  if (fault.rmap == nullptr) return false;
  fault.head = fault.rmap->Find(fault.path.gfn, kLevel4K);
  return fault.head != nullptr && (!fault.log_write || HasRoomToLog(fault));
}

template <typename Entry>
bool ShadowFaults<Entry>::HasRoomToLog(const Fault& fault) {
  const DirtyLog* log = fault.slot->state->dirty_log();
  return log == nullptr || log->IsPrepared(fault.slot->IndexOf(fault.path.gfn));
}

template <typename Entry>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::NoteMissingRoom(const Fault& fault) {
  const Gfn gfn = fault.path.gfn;
  // For a moment the slot is seen before its reverse map, or the other way round.
  if (fault.rmap == nullptr) return Next::kAgain;
  if (fault.head == nullptr) {
    missing_.rmap = tables().RmapOf(gfn);
    missing_.gfn = gfn;
  } else {
    missing_.log = fault.slot->state->shared_log();
    missing_.log_index = fault.slot->IndexOf(gfn);
  }
  return Next::kMakeRoom;
}

template <typename Entry>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::AfterFetch(FetchOutcome outcome,
                                                                   const Fetch* fetch) {
  switch (outcome) {
    case FetchOutcome::kInstalled:
    case FetchOutcome::kSpurious:
      return Next::kDone;
    case FetchOutcome::kChanged:
    case FetchOutcome::kFlushFirst:
      return Next::kAgain;
    case FetchOutcome::kNeedsTables:
      return Next::kTables;
    case FetchOutcome::kNeedsWriter:
      return Next::kAlone;
    case FetchOutcome::kNeedsTracking:
      missing_.tracking = fetch->slot_without_tracking->state->shared_permits();
      missing_.gfn = fetch->gfn_without_tracking;
      return Next::kMakeRoom;
    case FetchOutcome::kNeedsPage:
      return Next::kFetch;
  }
  return Next::kAgain;
}

template <typename Entry>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::Reach(const Fault& fault, Level level,
                                                              ShadowZap& zap, ShadowPlace& place,
                                                              Sync sync) {
  AssertWriting(parts_.mmu_lock);
  if (tables().IsFull(kPagesPerFault)) return Next::kTables;
  Fetch fetch(tables(), window_, table_slots_, stock_, zap);
  const FetchOutcome outcome = fetch.Reach(*fault.root, fault.address, fault.path, level, sync);
  if (outcome != FetchOutcome::kInstalled) return AfterFetch(outcome, &fetch);
  place = fetch.place();
  if (level == kLevel4K) Remember(fault, *place.page);
  return Next::kDone;
}

// Marks the page after it was made writable, not before: docs/locking.md shows what the other order
// loses.
template <typename Entry>
void ShadowFaults<Entry>::MarkDirty(const Fault& fault) {
  const uint64_t index = fault.slot->IndexOf(fault.path.gfn);
  if (ring_ != nullptr) {
    // The fault began with room for much more than one entry.
    TDP_CHECK(ring_->Push({fault.slot->address_space, fault.slot->id, index}));
  } else if (DirtyLog* log = fault.slot->state->dirty_log(); log != nullptr) {
    log->Mark(index);
  }
}

// Returns whether the fault has to begin again, since something has changed since its sequence was
// read. If not, it keeps what still holds. In any section.
template <typename Entry>
ABSL_ATTRIBUTE_NOINLINE bool ShadowFaults<Entry>::HasChanged(Fault& fault) {
  fault.leaf_entry = nullptr;
  const bool of_host = fault.asks_host();
  const Hva hva = fault.known ? fault.known->hva : fault.hva;
  if (parts_.sequence.MovedSince(fault.sequence, hva, of_host)) return true;
  if (neighbours_.count != 0) ForgetChangedNeighbours(fault);
  if (of_host) {
    fault.page.order = parts_.sequence.StableOrder(hva, fault.page.hfn, fault.page.order);
  }
  return false;
}

template <typename Entry>
ABSL_ATTRIBUTE_NOINLINE ShadowPlace ShadowFaults<Entry>::FindLeaf(const Fault& fault) {
  if (fault.root == nullptr || fault.root->role.invalid() || !tables().IsCurrent(*fault.root)) {
    return ShadowPlace();
  }
  const ShadowPlace place = Fetch::Find(tables(), *fault.root, fault.address, fault.path);
  if (place.page != nullptr) Remember(fault, *place.page);
  return place;
}

// --- Neighbours ----------------------------------------------------------------------------------

// Asks for them as for a read: a neighbour's sharing is broken when it is written. Without an
// answer the fault does without neighbours.
template <typename Entry>
void ShadowFaults<Entry>::AskForNeighbours(const Fault& fault) {
  const MemorySlot& slot = *fault.slot;
  const Gfn first = std::max(neighbours_.first, slot.base);
  const Gfn end = std::min(neighbours_.first + PageCount(neighbours_.wanted), slot.end());
  std::array<HostRun, kWindow>& runs = neighbours_.runs;
  const absl::StatusOr<size_t> filled = parts_.backend.ResolveRange(
      slot.HvaOf(first), end - first, Access::Read(), absl::MakeSpan(runs));
  if (!filled.ok()) return;
  const size_t most = (end - first).raw();
  neighbours_.first = first;
  size_t count = 0;
  for (size_t i = 0; i < std::min(*filled, runs.size()); ++i) {
    const HostPage first_page = runs[i].page;
    const size_t end_of_run = count + std::min(most - count, runs[i].pages.raw());
    // The parts are stored one by one: a copy as a whole would wait for them. Orders stay 0.
    for (Hfn hfn = first_page.hfn; count < end_of_run; ++count, hfn += PageCount(1)) {
      HostPage& page = neighbours_.pages[count];
      page.hfn = hfn;
      page.writable = first_page.writable;
      page.memory_type = first_page.memory_type;
    }
  }
  neighbours_.count = count;
}

// Forgets neighbours whose memory has changed. The fault's own page is looked at by itself: an
// invalidation of a neighbour is nothing to it.
template <typename Entry>
void ShadowFaults<Entry>::ForgetChangedNeighbours(const Fault& fault) {
  const Hva start = fault.slot->HvaOf(neighbours_.first);
  const HostRange range(start, PageCount(neighbours_.count).bytes());
  if (parts_.sequence.MovedSince(fault.sequence, range)) neighbours_.count = 0;
}

template <typename Entry>
ShadowPage* ShadowFaults<Entry>::LeafPageOf(ShadowPage& root, uint64_t address) const {
  AssertInSection();
  ShadowPage* page = &root;
  for (Level level = page->level(); level > kLevel4K; level = level.below()) {
    const Entry entry = Tables::At(*page, level.IndexOf(Gfn(address >> kPageShift))).Load();
    if (entry.kind(level) != EntryKind::kTable) return nullptr;
    page = tables().TableOf(entry)->shadow;
  }
  return page;
}

// Plans `row` around the entry of the fault, as far as the shadow has nothing there.
template <typename Entry>
void ShadowFaults<Entry>::PlanRow(const Fault& fault, Row row) {
  const bool is_known = memo_.LeadsTo(fault.address, fault.root, tables().structure());
  const ShadowPage* page = is_known ? memo_.page : LeafPageOf(*fault.root, fault.address);
  if (page == nullptr) return;
  const int index = kLevel4K.IndexOf(Gfn(fault.address >> kPageShift));
  uint64_t* const entries = page->table->entries();
  const auto is_hole = [entries](int i) {
    return EntryAt(entries + i).Load().kind(kLevel4K) == EntryKind::kHole;
  };
  // By its number an entry with every bit of the address set comes before that of frame 0: there is
  // no such frame.
  const int before = static_cast<int>(std::min<uint64_t>(fault.path.gfn.raw(), kWindow));
  row.first = std::max(row.first, index - before);
  int first = index;
  int last = index;
  while (first > row.first && is_hole(first - 1)) --first;
  while (last < row.last && is_hole(last + 1)) ++last;
  neighbours_.first = fault.path.gfn - PageCount(static_cast<uint64_t>(index - first));
  neighbours_.wanted = static_cast<size_t>(last - first + 1);
}

template <typename Entry>
bool ShadowFaults<Entry>::MayTrackNeighbours(const Fault& fault) const {
  AssertInSection();
  if (neighbours_.count == 0) return true;
  const LargePagePermits& permits = fault.slot->state->permits();
  const Gfn first = neighbours_.first;
  // The host may have answered for fewer than the page of the fault, which other entries may map.
  const Gfn last = std::max(first + PageCount(neighbours_.count - 1), fault.path.gfn);
  if (permits.TrackedPages(first, kLevel2M) != 0) return true;
  const bool is_one_table = first.AlignDown(kLevel2M.pages()) == last.AlignDown(kLevel2M.pages());
  return !is_one_table && permits.TrackedPages(last, kLevel2M) != 0;
}

// --- Ways and roots ------------------------------------------------------------------------------

template <typename Entry>
ShadowPlace ShadowFaults<Entry>::EndOfWay(ShadowPage& root, uint64_t address) const {
  AssertInSection();
  for (ShadowPage* page = &root;;) {
    const int index = page->level().IndexOf(Gfn(address >> kPageShift));
    const Entry entry = Tables::At(*page, index).Load();
    if (entry.kind(page->level()) != EntryKind::kTable) return {page, index};
    page = tables().TableOf(entry)->shadow;
  }
}

template <typename Entry>
void ShadowFaults<Entry>::TakeAwayFrom(Tables& tables,
                                       absl::FunctionRef<void(ShadowZap& zap)> take) {
  PendingFlush flush;
  {
    const MmuWriteSection section(parts_.mmu_lock);
    ShadowZap zap;
    take(zap);
    flush = tables.Commit(std::move(zap));
  }
  flush.Settle();
}

template <typename Entry>
void ShadowFaults<Entry>::ReleaseRoots(Tables& tables, absl::Span<ShadowPage* const> pages) {
  TakeAwayFrom(tables, [&](ShadowZap& zap) {
    for (ShadowPage* page : pages) {
      if (page != nullptr) tables.Release(*page, zap);
    }
  });
}

// --- Between two tries ---------------------------------------------------------------------------

template <typename Entry>
absl::Status ShadowFaults<Entry>::Prepare(Next next, absl::FunctionRef<absl::Status()> load_root,
                                          HeldRoots roots, bool& no_memory) {
  switch (next) {
    case Next::kDone:
    case Next::kAgain:
    case Next::kAlone:
      return absl::OkStatus();
    case Next::kFetch:
      return FetchPage(no_memory);
    case Next::kMakeRoom:
      return MakeRoom();
    case Next::kTables:
      return Restock(roots);
    case Next::kLoadRoot:
      return load_root();
  }
  return absl::OkStatus();
}

template <typename Entry>
absl::Status ShadowFaults<Entry>::FetchPage(bool& no_memory) {
  GuestWalkOutcome outcome = GuestWalkOutcome::kMapped;
  TDP_RETURN_IF_ERROR(window_.Fetch(outcome));
  no_memory = outcome == GuestWalkOutcome::kNoMemory;
  return absl::OkStatus();
}

// The shared pointers keep alive what room is made in.
template <typename Entry>
absl::Status ShadowFaults<Entry>::MakeRoom() {
  const MissingRoom rooms = std::exchange(missing_, MissingRoom());
  if (rooms.log != nullptr) TDP_RETURN_IF_ERROR(rooms.log->Prepare(rooms.log_index));
  if (rooms.rmap != nullptr) TDP_RETURN_IF_ERROR(rooms.rmap->Prepare(rooms.gfn));
  if (rooms.tracking != nullptr) {
    TDP_RETURN_IF_ERROR(rooms.tracking->PrepareWriteTracking(rooms.gfn));
  }
  return absl::OkStatus();
}

// Gets memory where tables ran out or the quota is full. What one thread has recycled another may
// take first.
template <typename Entry>
absl::Status ShadowFaults<Entry>::Restock(HeldRoots roots) {
  constexpr int kRestocks = 8;
  absl::Status status;
  for (int i = 0; i < kRestocks; ++i) {
    if (!Recycle(roots)) {
      return absl::ResourceExhaustedError("no shadow page and no table is left to be recycled");
    }
    status = stock_.Refill();
    if (status.ok()) break;
  }
  return status;
}

// Returns whether there are more pages or tables to be had now.
template <typename Entry>
bool ShadowFaults<Entry>::Recycle(HeldRoots roots) {
  bool is_full;
  {
    const MmuReadSection section(reader_);
    is_full = tables().IsFull(kPagesPerFault);
  }
  if (is_full) return RecycleQuota(roots);
  return parts_.recycler.RecycleTables(ShadowStock::kTables) != 0 || roots.release();
}

// Zaps the oldest pages first, as KVM's kvm_mmu_zap_oldest_mmu_pages. Where the quota is full of
// roots, those that this vCPU keeps for later go, then those of other vCPUs.
template <typename Entry>
bool ShadowFaults<Entry>::RecycleQuota(HeldRoots roots) {
  constexpr size_t kPagesAtOnce = 32;
  constexpr size_t kRootsAtOnce = 8;  // two vCPUs' in PAE paging
  size_t zapped = 0;
  TakeAway(
      [&](ShadowZap& zap) { zapped = tables().ZapOldest(kPagesAtOnce, stock_.descriptors, zap); });
  if (zapped != 0 || roots.release()) return true;
  TakeAway([&](ShadowZap& zap) {
    zapped = tables().ZapHeld(kRootsAtOnce, roots.keep, stock_.descriptors, zap);
  });
  return zapped != 0;
}

template class ShadowFaults<PagingEntry>;
template class ShadowFaults<EptEntry>;

}  // namespace tdp
