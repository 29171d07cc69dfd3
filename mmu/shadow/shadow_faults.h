// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a fault on shadow tables does whichever table of the guest's they shadow: those of its own
// paging (`ShadowVcpu`) or a nested hypervisor's EPT12 (`NestedVcpu`). What differs is how the
// guest's tables are walked, what a leaf looks like, and where the root comes from.

#ifndef TDP_MMU_SHADOW_SHADOW_FAULTS_H_
#define TDP_MMU_SHADOW_SHADOW_FAULTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/spin_lock.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/paging_entry.h"
#include "tdp/mmu/guest/guest_window.h"
#include "tdp/mmu/policy/leaf_policy.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"
#include "tdp/mmu/shadow/shadow_fetch.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/change_sequence.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/table_recycler.h"

namespace tdp {

// The parts of a `Vm`'s MMU that its shadowed vCPUs use.
template <typename Entry>
struct ShadowParts {
  Backend& backend;
  const SlotSet& slots;
  ChangeSequence& sequence;
  MmuLock& mmu_lock;
  const LeafPolicy& policy;
  ShadowPools& pools;
  std::vector<ShadowTables<Entry>*> shadows;  // by address space
  TableRecycler& recycler;
};

using PagingShadow = ShadowTables<PagingEntry>;
using PagingParts = ShadowParts<PagingEntry>;
using NestedShadow = ShadowTables<EptEntry>;
using NestedParts = ShadowParts<EptEntry>;

// The base of the two kinds of vCPU, and like them used by one thread at a time.
template <typename Entry>
class ShadowFaults {
 protected:
  using Tables = ShadowTables<Entry>;
  using Fetch = ShadowFetch<Entry, GuestWindow>;

  // A fault on its way.
  struct Fault {
    // These were derived.
    bool is_write = false;
    bool was_present = false;  // a right was missing, not the page
    uint64_t sequence = 0;
    ShadowPath path;
    const MemorySlot* slot = nullptr;
    Backing backing;
    bool log_write = false;
    // This was found.
    const HostPage* page = nullptr;
  };
  // Says what a try came to, and so what has to be done before the next.
  enum class Next : uint8_t {
    kDone,      // the result stands
    kAgain,     // try again at once
    kFetch,     // the window has to fetch a page
    kMakeRoom,  // `missing_`
    kTables,    // tables ran out
    kLoadRoot,  // the root is gone
  };
  // Tells what has to be allocated outside the section before the next try.
  struct MissingRoom {
    std::shared_ptr<DirtyLog> log;
    uint64_t log_index = 0;
    std::shared_ptr<SlotRmap> rmap;
    std::shared_ptr<LargePagePermits> tracking;
    Gfn gfn;
  };
  // Where the quota is full of roots, this tells those that must stay, and how to let go of others
  // that this vCPU holds. `release` says whether there were any.
  struct HeldRoots {
    absl::Span<ShadowPage* const> keep;
    absl::FunctionRef<bool()> release;
  };
  // A fault can add so many shadow pages, with its root.
  static constexpr size_t kPagesPerFault = 5;

  // `member`, `window` and `ring` (null: none) belong to the `Vcpu`.
  ShadowFaults(const ShadowParts<Entry>& parts, const FlushClock::Member& member,
               GuestWindow& window, DirtyRing* ring);

  // FailedPrecondition if the vCPU is in the guest.
  absl::Status CheckOutside() const;
  Tables& tables() const { return *parts_.shadows[space_]; }

  // Calls `try_once(result)` until it is done, and between two calls brings what the try lacked.
  // `walk` is of the guest's tables; `load_root` makes the current root anew.
  template <typename Result, typename TryOnce, typename Walk>
  Result Repeat(TryOnce try_once, const Walk& walk, absl::FunctionRef<absl::Status()> load_root,
                HeldRoots roots);
  // What stands behind the frame of the fault, in its slot. False if that is changing.
  bool FindBacking(Fault& fault);
  // After the walk. kAgain: there is memory behind `fault.path.gfn`, and it may be accessed.
  template <typename Result>
  Next FindMemory(Fault& fault, Result& result);
  // Asks the host for the page, then calls `install(zap)` under the lock if nothing has changed
  // since the sequence was read, and settles what that took away.
  template <typename Result, typename Install>
  Next ResolveAndInstall(Fault& fault, Result& result, Install install);

  // Under the lock. Whether the log and the reverse map have memory for the page (kDone); if not,
  // notes what needs it.
  Next HasRoom(const Fault& fault);
  Next AfterFetch(FetchOutcome outcome, const Fetch& fetch);
  void MarkDirty(const Fault& fault);

  // In the section of the walk. Notes which frames around `fault.path.gfn` are to be asked for with
  // it: those that the guest's table maps in a row, where the shadow's page below `root` for
  // `address` has nothing yet. `origin_at(page, i, table, origin)` says what the guest's table asks
  // for at `i`, and whether the shadow may have it unasked.
  template <typename OriginAt>
  void PlanNeighbours(const Fault& fault, ShadowPage* root, uint64_t address, OriginAt origin_at);

  // Under the lock, after the leaf at `index` of `page` was set for `fault`. Fills in the entries
  // around it that have nothing yet and map what lies in the same host page, or what the host was
  // asked for besides (KVM's FNAME(pte_prefetch)). `origin_at` as above; `leaf_of(origin, host)`
  // makes the leaf of an access that was none.
  template <typename OriginAt, typename LeafOf>
  void Prefetch(const Fault& fault, ShadowPage& page, int index, OriginAt origin_at,
                LeafOf leaf_of);

  template <typename Outcome>
  void Count(Outcome outcome) {
    static_assert(static_cast<size_t>(Outcome::kError) < kMostOutcomes);
    outcomes_[static_cast<size_t>(outcome)].Add();
  }
  template <typename Outcome>
  uint64_t Counted(Outcome outcome) const {
    return outcomes_[static_cast<size_t>(outcome)].value();
  }
  // The outcomes that every kind of fault has.
  template <typename Outcome>
  void AddCounted(FaultStats& stats) const {
    stats.fixed += Counted(Outcome::kFixed);
    stats.spurious += Counted(Outcome::kSpurious);
    stats.retry += Counted(Outcome::kRetry);
    stats.mmio += Counted(Outcome::kMmio);
    stats.blocked += Counted(Outcome::kBlocked);
    stats.errors += Counted(Outcome::kError);
  }

  absl::Status Prepare(Next next, absl::FunctionRef<absl::Status()> load_root, HeldRoots roots,
                       bool& no_memory);
  absl::Status FetchPage(bool& no_memory);
  absl::Status MakeRoom();
  absl::Status Restock(HeldRoots roots);
  // Calls `take(zap)` under the lock, then commits and settles.
  template <typename Take>
  void TakeAway(Take take) {
    PendingFlush flush;
    {
      MmuReadSection section(reader_);
      const SpinLockHolder hold(tables().lock());
      ShadowZap zap;
      take(zap);
      flush = tables().Commit(std::move(zap));
    }
    flush.Settle();
  }

  template <typename Result>
  static Result Error(absl::Status status) {
    Result result;
    result.outcome = decltype(result.outcome)::kError;
    result.status = std::move(status);
    return result;
  }
  // The embedder waits for a page that may come later; other answers of the host are its errors.
  template <typename Result>
  static Result FromHost(absl::Status status) {
    if (!absl::IsUnavailable(status)) return Error<Result>(std::move(status));
    Result result;
    result.outcome = decltype(result.outcome)::kBlocked;
    return result;
  }

  const ShadowParts<Entry> parts_;
  const FlushClock::Member& member_;
  GuestWindow& window_;
  DirtyRing* const ring_;
  AddressSpaceId space_ = 0;
  MmuLock::Reader reader_;
  SlotReader slots_;        // of what is accessed
  SlotReader table_slots_;  // of the guest's tables
  ShadowStock stock_;
  MissingRoom missing_;

 private:
  static constexpr size_t kMostOutcomes = 16;

  bool Recycle(HeldRoots roots);
  bool RecycleQuota(HeldRoots roots);

  // Entries around a fault's that are filled in with it, aligned.
  static constexpr int kWindow = 8;

  // Host memory that a fault has asked for besides its own page, or will.
  struct Neighbours {
    Gfn first;
    size_t wanted = 0;  // frames in a row, the fault's own among them
    size_t count = 0;   // of them, what the host has answered for
    std::array<HostPage, kWindow> pages;
  };

  const std::byte* GuestTableOf(const ShadowPage& page) {
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    return page.is_direct() ? nullptr : window_.Reach(page.gfn.address(), false, why);
  }
  // Whether the host is asked by addresses, and so for several pages at once.
  bool MayAskByRange(const Fault& fault) const {
    return fault.backing.asks_host() && !parts_.policy.options().resolves_pages;
  }
  void AskForNeighbours(const Fault& fault);
  void ForgetChangedNeighbours(const Fault& fault);
  bool HostPageOf(const Fault& fault, Gfn gfn, HostPage& host) const;

  std::array<Counter, kMostOutcomes> outcomes_;
  Neighbours neighbours_;
};

template <typename Entry>
template <typename Result, typename TryOnce, typename Walk>
Result ShadowFaults<Entry>::Repeat(TryOnce try_once, const Walk& walk,
                                   absl::FunctionRef<absl::Status()> load_root, HeldRoots roots) {
  // Tries that find a table's page missing, a root zapped, and so on. More of them mean that
  // someone is as fast.
  constexpr int kTries = 128;
  Result result;
  using Outcome = decltype(result.outcome);
  result.outcome = Outcome::kRetry;
  for (int i = 0; i < kTries; ++i) {
    const Next next = try_once(result);
    if (ABSL_PREDICT_TRUE(next == Next::kDone)) break;
    bool no_memory = false;
    if (absl::Status status = Prepare(next, load_root, roots, no_memory); !status.ok()) {
      return FromHost<Result>(std::move(status));
    }
    if (no_memory && walk.outcome == decltype(walk.outcome)::kNeedsPage) {
      result.outcome = Outcome::kNoTable;
      result.gpa = walk.gpa;
      break;
    }
    result.outcome = Outcome::kRetry;
  }
  return result;
}

template <typename Entry>
template <typename Result>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::FindMemory(Fault& fault, Result& result) {
  using Outcome = decltype(result.outcome);
  fault.slot = slots_.Find(space_, fault.path.gfn);
  if (fault.slot == nullptr ||
      (fault.is_write && !fault.slot->invalid && fault.slot->is_read_only())) {
    result.outcome = Outcome::kMmio;
    return Next::kDone;
  }
  if (fault.slot->invalid) {
    result.outcome = Outcome::kRetry;
    return Next::kDone;
  }
  if (!FindBacking(fault)) {
    result.outcome = Outcome::kRetry;
    return Next::kDone;
  }
  fault.log_write = fault.slot->logs_dirty_pages() && fault.is_write;
  return Next::kAgain;
}

template <typename Entry>
template <typename Result, typename Install>
typename ShadowFaults<Entry>::Next ShadowFaults<Entry>::ResolveAndInstall(Fault& fault,
                                                                          Result& result,
                                                                          Install install) {
  const Access needed = fault.is_write ? Access::Write() : Access::Read();
  absl::StatusOr<HostPage> page =
      PageBehind(parts_.backend, *fault.slot, fault.path.gfn, fault.backing, needed);
  if (!page.ok()) {
    result = FromHost<Result>(page.status());
    return Next::kDone;
  }
  fault.page = &*page;
  // A larger host page has neighbours of its own. A page whose writes are logged will fault anyway.
  if (neighbours_.wanted > 1 && page->order == 0 && !fault.log_write && MayAskByRange(fault)) {
    AskForNeighbours(fault);
  }
  Next next = Next::kAgain;
  TakeAway([&](ShadowZap& zap) {
    const bool of_host = fault.backing.asks_host();
    if (parts_.sequence.MovedSince(fault.sequence, fault.backing.hva, of_host)) return;
    if (neighbours_.count != 0) ForgetChangedNeighbours(fault);
    if (of_host) {
      page->order = parts_.sequence.StableOrder(fault.backing.hva, page->hfn, page->order);
    }
    next = install(zap);
  });
  return next;
}

template <typename Entry>
template <typename OriginAt>
void ShadowFaults<Entry>::PlanNeighbours(const Fault& fault, ShadowPage* root, uint64_t address,
                                         OriginAt origin_at) {
  neighbours_.wanted = neighbours_.count = 0;
  if (fault.was_present || root == nullptr) return;
  const SpinLockHolder hold(tables().lock());
  ShadowPage* page = root;
  for (Level level = page->level(); level > kLevel4K; level = level.below()) {
    const Entry entry = Tables::At(*page, level.IndexOf(Gfn(address >> kPageShift))).Load();
    if (entry.kind(level) != EntryKind::kTable) return;
    page = tables().TableOf(entry)->shadow;
  }
  const std::byte* table = GuestTableOf(*page);
  if (table == nullptr && !page->is_direct()) return;
  const Gfn gfn = fault.path.gfn;
  const int index = kLevel4K.IndexOf(Gfn(address >> kPageShift));
  const auto is_in_a_row = [&](int i) {
    if (Tables::At(*page, i).Load().kind(kLevel4K) != EntryKind::kHole) return false;
    LeafOrigin origin = page->is_direct() ? page->OriginOf(i) : LeafOrigin();
    if (!page->is_direct() && !origin_at(*page, i, table, origin)) return false;
    return origin.gfn().raw() - gfn.raw() == static_cast<uint64_t>(int64_t{i} - index);
  };
  int first = index;
  int last = index;
  while (first % kWindow != 0 && is_in_a_row(first - 1)) --first;
  while ((last + 1) % kWindow != 0 && is_in_a_row(last + 1)) ++last;
  neighbours_.first = gfn - PageCount(static_cast<uint64_t>(index - first));
  neighbours_.wanted = static_cast<size_t>(last - first + 1);
}

template <typename Entry>
template <typename OriginAt, typename LeafOf>
void ShadowFaults<Entry>::Prefetch(const Fault& fault, ShadowPage& page, int index,
                                   OriginAt origin_at, LeafOf leaf_of) {
  constexpr int kSpareTables = 3;
  if (fault.page->order == 0 && neighbours_.count == 0) return;
  const std::byte* table = GuestTableOf(page);
  if (table == nullptr && !page.is_direct()) return;
  SlotRmap& rmap = *tables().RmapOf(fault.path.gfn);
  const int first = index & ~(kWindow - 1);
  for (int i = first; i < first + kWindow; ++i) {
    if (Tables::At(page, i).Load().kind(kLevel4K) != EntryKind::kHole) continue;
    LeafOrigin origin;
    if (page.is_direct()) {
      origin = page.OriginOf(i);
    } else if (!origin_at(page, i, table, origin)) {
      continue;
    }
    HostPage host;
    if (!fault.slot->Contains(origin.gfn()) || !HostPageOf(fault, origin.gfn(), host)) continue;
    if (!rmap.IsPrepared(origin.gfn()) || stock_.tables.size() < kSpareTables) continue;
    if (!tables().SetLeaf(page, i, leaf_of(origin, host), origin, rmap, stock_)) return;
  }
}

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_SHADOW_FAULTS_H_
