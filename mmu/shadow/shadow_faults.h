// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Answers a fault on shadow tables, whichever table of the guest's they shadow: those of its own
// paging (`ShadowVcpu`) or a nested hypervisor's EPT12 (`NestedVcpu`). The two differ in how the
// guest's tables are walked, what a leaf looks like, and where the root comes from.

#ifndef TDP_MMU_SHADOW_SHADOW_FAULTS_H_
#define TDP_MMU_SHADOW_SHADOW_FAULTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
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
#include "tdp/mmu/reverse_mapped/shadow_sync.h"
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
  using Path = ShadowPath<Entry>;
  using EntryAt = typename Tables::Ref;

  // A fault that is being answered. What has no value from the start is set as the fault comes to
  // it.
  struct Fault {
    explicit Fault(const typename Path::Walk& walk) : path(walk) {}

    // These follow from the exit and from the walk.
    uint64_t address = 0;  // that was accessed: a gva, or a gpa of L2's
    bool is_write = false;
    bool was_present = false;  // a right was missing, not the page
    uint64_t sequence = 0;
    Path path;
    // Where the guest's leaf stands, for as long as nothing has changed since `sequence`; null if
    // that was not looked for.
    const std::byte* leaf_entry;
    ShadowPage* root;  // of the address
    const MemorySlot* slot;
    Hva hva;
    std::optional<Backing> known;  // where it is not simply what the host has at `hva`
    bool log_write = false;
    // This is what the host answered.
    HostPage page;
    // These are found in the last section: the reverse map of the slot, and the page's head in it.
    SlotRmap* rmap;
    RmapHead* head;

    bool asks_host() const { return ABSL_PREDICT_TRUE(!known) || known->asks_host(); }
  };
  // Says what a try came to, and so what has to be done before the next.
  enum class Next : uint8_t {
    kDone,      // the result stands
    kAgain,     // try again at once
    kFetch,     // the window has to fetch a page
    kMakeRoom,  // `missing_`
    kTables,    // tables ran out
    kAlone,     // what has to change takes a writer's section
    kLoadRoot,  // the root is gone
  };
  // Names what has to be allocated outside the section before the next try.
  struct MissingRoom {
    std::shared_ptr<DirtyLog> log;
    uint64_t log_index = 0;
    std::shared_ptr<SlotRmap> rmap;
    std::shared_ptr<LargePagePermits> tracking;
    Gfn gfn;
  };
  // Names, where the quota is full of roots, those that must stay, and lets go of others that this
  // vCPU holds: `release` says whether there were any.
  struct HeldRoots {
    absl::Span<ShadowPage* const> keep;
    absl::FunctionRef<bool()> release;
  };
  // How many shadow pages a fault can add, with its root.
  static constexpr size_t kPagesPerFault = 5;

  // `member`, `window` and `ring` (null: none) belong to the `Vcpu`.
  ShadowFaults(const ShadowParts<Entry>& parts, const FlushClock::Member& member,
               GuestWindow& window, DirtyRing* ring);

  // Returns FailedPrecondition if the vCPU is in the guest.
  absl::Status CheckOutside() const;
  Tables& tables() const { return *shadow_; }
  // Sets the address space of the vCPU.
  void UseSpace(AddressSpaceId space) {
    space_ = space;
    shadow_ = parts_.shadows[space];
    // Each space counts its structure for itself, so that the counts of two may be the same.
    memo_ = ShadowMemo();
  }

  // Calls `try_once(result)` until it is done, and between two calls brings what the try lacked.
  // The first call has been made and said `next`. `walk` is of the guest's tables; `load_root`
  // makes the current root anew.
  template <typename Result, typename TryOnce, typename Walk>
  void Repeat(Result& result, Next next, TryOnce try_once, const Walk& walk,
              absl::FunctionRef<absl::Status()> load_root, HeldRoots roots);
  // Finds out what stands behind the frame of the fault, in its slot. Returns false if that is
  // changing.
  bool FindBacking(Fault& fault) {
    fault.hva = fault.slot->HvaOf(fault.path.gfn);
    fault.known.reset();
    const bool is_known = fault.slot->has_host_frames() || parts_.policy.options().resolves_pages;
    return ABSL_PREDICT_TRUE(!is_known) || FindKnownBacking(fault);
  }
  bool FindKnownBacking(Fault& fault);
  // Tries to answer the fault, from top to bottom; docs/shadow.md has the reasons. `walk()` walks
  // the guest's tables and returns kAgain if they map the address; `install` is that of
  // `ResolveAndInstall`. Returns kAlone if `DoAlone` is to go on from there.
  template <typename Result, typename Walk, typename Install>
  ABSL_ATTRIBUTE_ALWAYS_INLINE Next TryBy(Fault& fault, Result& result, Walk walk,
                                          Install install) {
    // Without tables it may still go well.
    if (ABSL_PREDICT_FALSE(!stock_.IsStocked())) stock_.Refill().IgnoreError();
    fault.sequence = parts_.sequence.Current();
    if (const Next next = walk(); ABSL_PREDICT_FALSE(next != Next::kAgain)) return next;
    if (const Next next = FindMemory(fault, result); ABSL_PREDICT_FALSE(next != Next::kAgain)) {
      return next;
    }
    return ResolveAndInstall(fault, result, install);
  }
  // Looks, after the walk, for the memory that is accessed. Returns kAgain if there is memory
  // behind `fault.path.gfn`, and it may be accessed.
  template <typename Result>
  Next FindMemory(Fault& fault, Result& result);
  // Asks the host for the page, then calls `install(zap)` in a reader's section if nothing has
  // changed since the sequence was read, and settles what that took away.
  template <typename Result, typename Install>
  Next ResolveAndInstall(Fault& fault, Result& result, Install install);
  // Calls `install(zap)` in a writer's section after that, on the same condition.
  Next DoAlone(Fault& fault, absl::FunctionRef<Next(ShadowZap& zap)> install);

  // Puts a 4 KiB leaf in beside other faults: `set(place)` does, with the locks of head and page
  // held. Returns kAlone if room, or a page on the way, is missing. In a reader's section.
  template <typename SetAt>
  ABSL_ATTRIBUTE_ALWAYS_INLINE Next SetBesideOthers(Fault& fault, SetAt set) {
    const Gfn gfn = fault.path.gfn;
    fault.rmap = tables().RmapOf(*fault.slot, gfn);
    if (ABSL_PREDICT_FALSE(fault.rmap == nullptr)) return Next::kAlone;
    const SlotRmap::Hold hold(*fault.rmap, gfn, kLevel4K);
    if (ABSL_PREDICT_FALSE(!hold.is_there() || (fault.log_write && !HasRoomToLog(fault)))) {
      return Next::kAlone;
    }
    fault.head = &hold.head();
    ShadowPlace place;
    if (ABSL_PREDICT_FALSE(
            !place.FindBy(memo_, tables().structure(), fault.root, fault.address, fault.path))) {
      place = FindLeaf(fault);
      if (place.page == nullptr) return Next::kAlone;
    }
    const SpinLockHolder hold_page(place.page->leaf_lock);
    return set(place);
  }
  // Puts a leaf of `level` in, whatever that takes, in a writer's section: `set(place)` does, after
  // `reach(place)` where the way there is not linked.
  Next SetAlone(Fault& fault, Level level, absl::FunctionRef<Next(ShadowPlace& place)> reach,
                absl::FunctionRef<Next(ShadowPlace place)> set);
  // Returns where the 4 KiB leaf goes, and remembers it, if the way there is linked; else no page.
  // In any section.
  ShadowPlace FindLeaf(const Fault& fault);
  // Returns whether the log and the reverse map have memory for the page; if not, notes what needs
  // it: `NoteMissingRoom` says what comes next. In a writer's section.
  bool HasRoom(Fault& fault);
  bool HasRoomToLog(const Fault& fault);
  Next NoteMissingRoom(const Fault& fault);
  // Goes from the root, which is current, to the page in which a leaf of `level` belongs, making
  // what is missing. `sync` is that of `ShadowFetch::Reach`. In a writer's section.
  using Sync = absl::FunctionRef<bool(ShadowPage& page, const std::byte* table)>;
  Next Reach(const Fault& fault, Level level, ShadowZap& zap, ShadowPlace& place, Sync sync);
  // Puts `leaf`, one of `level`, at `place`; calls `prefetch()` if that was 4 KiB and new. Among
  // readers of 4 KiB alone, with the locks of head and page.
  template <typename Result, typename PrefetchAround>
  ABSL_ATTRIBUTE_ALWAYS_INLINE Next SetLeaf(const Fault& fault, ShadowSide side, ShadowPlace place,
                                            Level level, Entry leaf, ShadowZap& zap, Result& result,
                                            PrefetchAround prefetch) {
    AssertInSection();
    RmapHead& head = level == kLevel4K ? *fault.head : *fault.rmap->Find(fault.path.gfn, level);
    const FetchOutcome outcome = Fetch::Set(tables(), window_, stock_, zap, side, place, fault.path,
                                            fault.leaf_entry, level, leaf, head);
    result.outcome = decltype(result.outcome)::kFixed;
    result.level = level;
    if (ABSL_PREDICT_FALSE(outcome != FetchOutcome::kInstalled)) {
      if (outcome != FetchOutcome::kSpurious) return AfterFetch(outcome, nullptr);
      result.outcome = decltype(result.outcome)::kSpurious;
    }
    if (ABSL_PREDICT_FALSE(fault.log_write)) MarkDirty(fault);
    if (outcome == FetchOutcome::kInstalled && level == kLevel4K) prefetch();
    return Next::kDone;
  }
  // Says what comes after `outcome`. `fetch` says what has to be tracked; null if it was not in the
  // way.
  Next AfterFetch(FetchOutcome outcome, const Fetch* fetch);
  void MarkDirty(const Fault& fault);

  // Notes which frames around `fault.path.gfn` are to be asked for with it, in the section of the
  // walk: those that the guest's table maps in a row, where the shadow's page for the address has
  // nothing yet. With `is_wide` the guest's entries are of 8 bytes. `origin_of(raw, rights,
  // origin)` says what the guest's entry `raw`, in a table of these rights, asks for, and whether
  // the shadow may have it unasked.
  template <typename OriginOf>
  ABSL_ATTRIBUTE_ALWAYS_INLINE void PlanNeighbours(Fault& fault, bool is_wide, OriginOf origin_of) {
    neighbours_.wanted = neighbours_.count = 0;
    fault.leaf_entry = nullptr;
    if (fault.was_present || fault.root == nullptr) return;
    const int index = kLevel4K.IndexOf(Gfn(fault.address >> kPageShift));
    Row row{index & ~(kWindow - 1), index | (kWindow - 1)};
    if (ABSL_PREDICT_TRUE(fault.path.leaf_level == 1)) {
      row = ABSL_PREDICT_TRUE(is_wide) ? FindRow<true>(fault, index, origin_of)
                                       : FindRow<false>(fault, index, origin_of);
    }
    if (row.first != row.last) PlanRow(fault, row);
  }

  // Fills in the entries around the leaf at `index` of `page`, which was set for `fault`, that have
  // nothing yet and map what lies in the same host page, or what the host was asked for besides
  // (KVM's FNAME(pte_prefetch)). `origin_of` is as above; `make_leaf_of()` is called if there
  // may be any, and returns a function: `leaf_of(origin, host, writable)` makes the leaf of an
  // access that was none. As for `ShadowFetch::Set`.
  template <typename OriginOf, typename MakeLeafOf>
  ABSL_ATTRIBUTE_ALWAYS_INLINE void Prefetch(const Fault& fault, ShadowPage& page, int index,
                                             OriginOf origin_of, MakeLeafOf make_leaf_of) {
    if (fault.page.order == 0 && neighbours_.count == 0) return;
    FillIn(fault, page, index, origin_of, make_leaf_of);
  }

  // Returns whether a frame of the neighbours may be tracked while they are filled in.
  bool MayTrackNeighbours(const Fault& fault) const;

  template <typename Outcome>
  void Count(Outcome outcome) {
    static_assert(static_cast<size_t>(Outcome::kError) < kMostOutcomes);
    outcomes_[static_cast<size_t>(outcome)].Add();
  }
  template <typename Outcome>
  uint64_t Counted(Outcome outcome) const {
    return outcomes_[static_cast<size_t>(outcome)].value();
  }
  // Adds the outcomes that every kind of fault has.
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

  // Calls `change(zap)` in a reader's section, then commits and settles what that took away: rights
  // alone, since readers zap no page.
  template <typename Change>
  ABSL_ATTRIBUTE_ALWAYS_INLINE void BesideOthers(Change change) {
    PendingFlush flush;
    {
      const MmuReadSection section(reader_);
      ShadowZap zap;
      change(zap);
      if (ABSL_PREDICT_TRUE(!zap.flush)) return;
      flush = tables().Commit(std::move(zap));
    }
    flush.Settle();
  }
  // Calls `take(zap)` in a writer's section, then commits and settles.
  void TakeAway(absl::FunctionRef<void(ShadowZap& zap)> take) { TakeAwayFrom(tables(), take); }
  // Does the same to `tables`, those of any address space.
  void TakeAwayFrom(Tables& tables, absl::FunctionRef<void(ShadowZap& zap)> take);
  // Lets go of `pages`, roots of `tables` that this vCPU holds (null: none).
  void ReleaseRoots(Tables& tables, absl::Span<ShadowPage* const> pages);
  // Returns where the way from `root` to `address` ends: at an entry that links no table. In any
  // section, like the next.
  ShadowPlace EndOfWay(ShadowPage& root, uint64_t address) const;
  // Returns the page of 4 KiB leaves for `address`, or null if the way ends above.
  ShadowPage* LeafPageOf(ShadowPage& root, uint64_t address) const;

  template <typename Result>
  static Result Error(absl::Status status) {
    Result result;
    result.outcome = decltype(result.outcome)::kError;
    result.status = std::move(status);
    return result;
  }
  // Makes the result of an error of the host: the embedder waits for a page that may come later,
  // and other answers are its errors.
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
  Tables* shadow_;  // of that space
  MmuLock::Reader reader_;
  SlotReader slots_;        // of what is accessed
  SlotReader table_slots_;  // of the guest's tables
  ShadowStock stock_;
  MissingRoom missing_;
  ShadowMemo memo_;

 private:
  static constexpr size_t kMostOutcomes = 16;

  bool Recycle(HeldRoots roots);
  bool RecycleQuota(HeldRoots roots);

  // How many entries around a fault's are filled in with it, aligned.
  static constexpr int kWindow = 8;

  // Holds host memory that a fault has asked for besides its own page, or will.
  struct Neighbours {
    Gfn first;
    size_t wanted = 0;                    // frames in a row, the fault's own among them
    size_t count = 0;                     // of them, what the host has answered for
    std::array<HostPage, kWindow> pages;  // each by itself: of order 0
    std::array<HostRun, kWindow> runs;    // the answer as it comes
  };

  // Names entries in a row, both ends among them.
  struct Row {
    int first;
    int last;
  };

  template <bool kWide, typename OriginOf>
  Row FindRow(Fault& fault, int index, OriginOf origin_of);
  void PlanRow(const Fault& fault, Row row);
  bool HasChanged(Fault& fault);
  // Notes that the 4 KiB leaf of the fault goes to `page`.
  void Remember(const Fault& fault, ShadowPage& page) {
    memo_ = {fault.root, ShadowMemo::RegionOf(fault.address), tables().structure(), &page};
  }
  template <typename OriginOf, typename MakeLeafOf>
  void FillIn(const Fault& fault, ShadowPage& page, int index, OriginOf origin_of,
              MakeLeafOf make_leaf_of);
  // Returns whether the host is asked by addresses, and so for several pages at once.
  bool MayAskByRange(const Fault& fault) const {
    return fault.asks_host() && !parts_.policy.options().resolves_pages;
  }
  void AskForNeighbours(const Fault& fault);
  void ForgetChangedNeighbours(const Fault& fault);
  const HostPage* HostPageOf(const Fault& fault, Gfn gfn, HostPage& part) const;
  absl::StatusOr<HostPage> Ask(const Fault& fault);

  std::array<Counter, kMostOutcomes> outcomes_;
  Neighbours neighbours_;
};

template <typename Entry>
template <typename Result, typename TryOnce, typename Walk>
void ShadowFaults<Entry>::Repeat(Result& result, Next next, TryOnce try_once, const Walk& walk,
                                 absl::FunctionRef<absl::Status()> load_root, HeldRoots roots) {
  // A try may find a table's page missing, a root zapped, and so on. More tries than this mean that
  // someone is as fast.
  constexpr int kTries = 128;
  using Outcome = decltype(result.outcome);
  for (int i = 1; next != Next::kDone; ++i) {
    bool no_memory = false;
    if (absl::Status status = Prepare(next, load_root, roots, no_memory); !status.ok()) {
      result = FromHost<Result>(std::move(status));
      return;
    }
    if (no_memory && walk.outcome == decltype(walk.outcome)::kNeedsPage) {
      result.outcome = Outcome::kNoTable;
      result.gpa = walk.gpa;
      return;
    }
    result.outcome = Outcome::kRetry;
    if (i == kTries) return;
    next = try_once(result);
  }
}

template <typename Entry>
template <typename Result>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline typename ShadowFaults<Entry>::Next
ShadowFaults<Entry>::FindMemory(Fault& fault, Result& result) {
  using Outcome = decltype(result.outcome);
  fault.slot = slots_.Find(space_, fault.path.gfn);
  if (ABSL_PREDICT_FALSE(fault.slot == nullptr || fault.slot->invalid ||
                         (fault.is_write && fault.slot->is_read_only()))) {
    const bool is_going = fault.slot != nullptr && fault.slot->invalid;
    result.outcome = is_going ? Outcome::kRetry : Outcome::kMmio;
    return Next::kDone;
  }
  if (!FindBacking(fault)) {
    result.outcome = Outcome::kRetry;
    return Next::kDone;
  }
  fault.log_write = fault.slot->logs_dirty_pages() && fault.is_write;
  if constexpr (requires { Outcome::kDirtyRingFull; }) {
    if (fault.log_write && ring_ != nullptr && ring_->is_nearly_full()) {
      result.outcome = Outcome::kDirtyRingFull;
      return Next::kDone;
    }
  }
  return Next::kAgain;
}

// Returns what the host has behind the fault's frame.
template <typename Entry>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline absl::StatusOr<HostPage> ShadowFaults<Entry>::Ask(
    const Fault& fault) {
  const Access needed = fault.is_write ? Access::Write() : Access::Read();
  if (ABSL_PREDICT_TRUE(!fault.known)) return parts_.backend.Resolve(fault.hva, needed);
  return PageBehind(parts_.backend, *fault.slot, fault.path.gfn, *fault.known, needed);
}

template <typename Entry>
template <typename Result, typename Install>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline typename ShadowFaults<Entry>::Next
ShadowFaults<Entry>::ResolveAndInstall(Fault& fault, Result& result, Install install) {
  if (const absl::StatusOr<HostPage> page = Ask(fault); ABSL_PREDICT_FALSE(!page.ok())) {
    result = FromHost<Result>(page.status());
    return Next::kDone;
  } else {
    // The parts are copied one by one: a copy as a whole would wait for the host's stores of them.
    fault.page.hfn = page->hfn;
    fault.page.order = page->order;
    fault.page.writable = page->writable;
    fault.page.memory_type = page->memory_type;
  }
  // A larger host page has neighbours of its own. A page whose writes are logged will fault anyway.
  if (neighbours_.wanted > 1 && fault.page.order == 0 && !fault.log_write && MayAskByRange(fault)) {
    AskForNeighbours(fault);
  }
  Next next = Next::kAgain;
  BesideOthers([&](ShadowZap& zap) ABSL_ATTRIBUTE_ALWAYS_INLINE {
    if (ABSL_PREDICT_TRUE(parts_.sequence.IsQuietSince(fault.sequence)) || !HasChanged(fault)) {
      next = install(zap);
    }
  });
  return next;
}

// Returns the entries around the one at `index`, in the same line of the guest's table, that map
// frames in a row with it.
template <typename Entry>
template <bool kWide, typename OriginOf>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline typename ShadowFaults<Entry>::Row ShadowFaults<Entry>::FindRow(
    Fault& fault, int index, OriginOf origin_of) {
  GuestWalkOutcome why = GuestWalkOutcome::kMapped;
  const std::byte* const own = window_.Reach(fault.path.address(1), false, why);
  Row row{index, index};
  if (ABSL_PREDICT_FALSE(own == nullptr)) return row;
  fault.leaf_entry = own;
  const uint64_t gfn = fault.path.gfn.raw();
  const uint64_t own_raw = fault.path.entry(1);
  const auto is_in_a_row = [&](int i) ABSL_ATTRIBUTE_ALWAYS_INLINE {
    const uint64_t raw = LoadGuestEntry(own, i - index, kWide);
    const auto away = static_cast<uint64_t>(int64_t{i} - index);
    // Most differ by their frames alone from what was walked, and `FillIn` looks again.
    if (raw == own_raw + (away << kPageShift)) return true;
    LeafOrigin origin;
    return Entry(raw).frame().raw() == gfn + away && origin_of(raw, Access::All(), origin);
  };
  while (row.first % kWindow != 0 && is_in_a_row(row.first - 1)) --row.first;
  while ((row.last + 1) % kWindow != 0 && is_in_a_row(row.last + 1)) ++row.last;
  return row;
}

template <typename Entry>
template <typename OriginOf, typename MakeLeafOf>
void ShadowFaults<Entry>::FillIn(const Fault& fault, ShadowPage& page, int index,
                                 OriginOf origin_of, MakeLeafOf make_leaf_of) {
  const PageRole role = page.role;
  const std::byte* table = nullptr;
  if (!role.direct()) {
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    table = window_.Reach(page.gfn.address(), false, why);
    if (table == nullptr) return;
  }
  const MemorySlot& slot = *fault.slot;
  const bool may_write = !slot.is_read_only() && !slot.logs_dirty_pages();
  // The loop asks these again and again: they are kept in registers, whatever it stores.
  Tables& tables = this->tables();
  const bool is_direct = role.direct();
  const bool is_wide = role.wide_entries();
  const Access rights = role.access();
  const int place = PlaceOf(role, 0);
  uint64_t* const entries = page.table->entries();
  uint64_t* const origins = Tables::OriginsOf(page);
  const int first = index & ~(kWindow - 1);
  uint32_t filled = 0;
  HostPage part;
  auto leaf_of = make_leaf_of();
  for (int i = first; i < first + kWindow; ++i) {
    const Entry old = EntryAt(entries + i).Load();
    if (old.kind(kLevel4K) != EntryKind::kHole) continue;
    LeafOrigin origin;
    if (is_direct) {
      origin = page.OriginOf(i);
    } else if (!origin_of(LoadGuestEntry(table, place + i, is_wide), rights, origin)) {
      continue;
    }
    const Gfn gfn = origin.gfn();
    const HostPage* const host = HostPageOf(fault, gfn, part);
    if (host == nullptr || !SlotRmap::ShareLock(fault.path.gfn, gfn)) continue;
    RmapHead& head = SlotRmap::HeadBeside(*fault.head, fault.path.gfn, gfn);
    const Entry leaf = leaf_of(origin, *host, may_write && host->writable);
    filled += tables.PutLeaf({page, i, entries + i, old, origins}, leaf, origin, head, stock_);
  }
  tables.CountLeaves(page, filled);
}

// Returns what the fault's answers say of the host page of `gfn`, a frame of the fault's slot, in
// `part` if it is a part of the fault's own. Null if they say nothing.
template <typename Entry>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline const HostPage* ShadowFaults<Entry>::HostPageOf(
    const Fault& fault, Gfn gfn, HostPage& part) const {
  const uint64_t neighbour = gfn.raw() - neighbours_.first.raw();
  if (ABSL_PREDICT_TRUE(neighbour < neighbours_.count)) return &neighbours_.pages[neighbour];
  const PageCount size = fault.page.piece();
  const Hfn frames = fault.page.hfn.AlignDown(size);
  // `place` says where the page lies in the fault's, which begins before `path.gfn`.
  const uint64_t place = gfn.raw() - fault.path.gfn.raw() + (fault.page.hfn - frames).raw();
  if (place >= size.raw() || !fault.slot->Contains(gfn)) return nullptr;
  part = fault.page;
  part.hfn = frames + PageCount(place);
  return &part;
}

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_SHADOW_FAULTS_H_
