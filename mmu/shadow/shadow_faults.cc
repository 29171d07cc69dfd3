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
      reader_(parts.mmu_lock),
      slots_(parts.slots),
      table_slots_(parts.slots),
      stock_(parts.shadows[0]->pool(), parts.pools) {}

template <typename Entry>
absl::Status ShadowFaults<Entry>::CheckOutside() const {
  if (!member_.is_in_guest()) return absl::OkStatus();
  return absl::FailedPreconditionError("the vCPU is in the guest: end its GuestEntry first");
}

template <typename Entry>
bool ShadowFaults<Entry>::FindBacking(Fault& fault) {
  const MemorySlot& slot = *fault.slot;
  fault.backing = {.frame = std::nullopt, .hva = slot.HvaOf(fault.path.gfn)};
  if (ABSL_PREDICT_TRUE(!slot.has_host_frames() && !parts_.policy.options().resolves_pages)) {
    return true;
  }
  const MmuReadSection section(reader_);
  if (parts_.sequence.Current() != fault.sequence) return false;
  // There are no private frames where guests' tables are shadowed.
  fault.backing = *parts_.policy.BackingOf(slot, fault.path.gfn);
  return true;
}

template <typename Entry>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::HasRoom(const Fault& fault) {
  const Gfn gfn = fault.path.gfn;
  const std::shared_ptr<SlotRmap>& rmap = tables().RmapOf(gfn);
  // The slot comes before its reverse map is seen, or the other way round: for a moment.
  if (ABSL_PREDICT_FALSE(rmap == nullptr)) return Next::kAgain;
  if (ABSL_PREDICT_FALSE(!rmap->IsPrepared(gfn))) {
    missing_.rmap = rmap;
    missing_.gfn = gfn;
    return Next::kMakeRoom;
  }
  if (!fault.log_write) return Next::kDone;
  DirtyLog* log = fault.slot->state->dirty_log();
  const uint64_t index = fault.slot->IndexOf(gfn);
  if (log == nullptr || ABSL_PREDICT_TRUE(log->IsPrepared(index))) return Next::kDone;
  missing_.log = fault.slot->state->shared_log();
  missing_.log_index = index;
  return Next::kMakeRoom;
}

template <typename Entry>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::AfterFetch(FetchOutcome outcome,
                                                                   const Fetch& fetch) {
  switch (outcome) {
    case FetchOutcome::kInstalled:
    case FetchOutcome::kSpurious:
      return Next::kDone;
    case FetchOutcome::kChanged:
    case FetchOutcome::kFlushFirst:
      return Next::kAgain;
    case FetchOutcome::kNeedsTables:
      return Next::kTables;
    case FetchOutcome::kNeedsTracking:
      missing_.tracking = fetch.short_of_tracking;
      missing_.gfn = fetch.gfn_without_tracking;
      return Next::kMakeRoom;
    case FetchOutcome::kNeedsPage:
      return Next::kFetch;
  }
  return Next::kAgain;
}

// After the page was made writable, not before: docs/locking.md shows what the other order loses.
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

// --- Neighbours ----------------------------------------------------------------------------------

// For a read: a neighbour's sharing is broken when it is written. Without an answer the fault does
// without neighbours.
template <typename Entry>
void ShadowFaults<Entry>::AskForNeighbours(const Fault& fault) {
  const MemorySlot& slot = *fault.slot;
  const Gfn first = std::max(neighbours_.first, slot.base);
  const Gfn end = std::min(neighbours_.first + PageCount(neighbours_.wanted), slot.end());
  std::array<HostRun, kWindow> runs;
  const absl::StatusOr<size_t> filled = parts_.backend.ResolveRange(
      slot.HvaOf(first), end - first, Access::Read(), absl::MakeSpan(runs));
  if (!filled.ok()) return;
  const size_t most = (end - first).raw();
  neighbours_.first = first;
  for (size_t i = 0; i < *filled; ++i) {
    HostPage page = runs[i].page;
    page.order = 0;
    const size_t count =
        neighbours_.count + std::min(most - neighbours_.count, runs[i].pages.raw());
    while (neighbours_.count < count) {
      neighbours_.pages[neighbours_.count++] = page;
      page.hfn += PageCount(1);
    }
  }
}

// The fault's own page is looked at by itself: an invalidation of a neighbour is nothing to it.
template <typename Entry>
void ShadowFaults<Entry>::ForgetChangedNeighbours(const Fault& fault) {
  const Hva start = fault.slot->HvaOf(neighbours_.first);
  const HostRange range(start, PageCount(neighbours_.count).bytes());
  if (parts_.sequence.MovedSince(fault.sequence, range)) neighbours_.count = 0;
}

// Of a frame of the fault's slot: what the fault's answers say of its host page. False if they say
// nothing.
template <typename Entry>
bool ShadowFaults<Entry>::HostPageOf(const Fault& fault, Gfn gfn, HostPage& host) const {
  const PageCount size(uint64_t{1} << fault.page->order);
  const Hfn frames = fault.page->hfn.AlignDown(size);
  // Where the page lies in the fault's, which begins before `path.gfn`.
  const uint64_t place = gfn.raw() - fault.path.gfn.raw() + (fault.page->hfn - frames).raw();
  if (place < size.raw()) {
    host = *fault.page;
    host.hfn = frames + PageCount(place);
    return true;
  }
  const uint64_t neighbour = gfn.raw() - neighbours_.first.raw();
  if (neighbour >= neighbours_.count) return false;
  host = neighbours_.pages[neighbour];
  return true;
}

// --- Between two tries ---------------------------------------------------------------------------

template <typename Entry>
absl::Status ShadowFaults<Entry>::Prepare(Next next, absl::FunctionRef<absl::Status()> load_root,
                                          HeldRoots roots, bool& no_memory) {
  switch (next) {
    case Next::kDone:
    case Next::kAgain:
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

// The shared pointers keep what is made room in, while it is.
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

// Tables ran out or the quota is full. What one thread has recycled another may take first.
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
    MmuReadSection section(reader_);
    const SpinLockHolder hold(tables().lock());
    is_full = tables().IsFull(kPagesPerFault);
  }
  if (is_full) return RecycleQuota(roots);
  return parts_.recycler.RecycleTables(ShadowStock::kTables) != 0 || roots.release();
}

// Oldest first, as KVM's kvm_mmu_zap_oldest_mmu_pages. Where the quota is full of roots, those that
// this vCPU keeps for later go, then those of other vCPUs.
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
