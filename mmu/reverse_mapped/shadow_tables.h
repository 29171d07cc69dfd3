// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Keeps the shadow pages of one address space, and everything that keeps them true: the page hash,
// the chains of parents, the reverse map of leaves, write tracking, and zapping by prepare and
// commit (KVM's mmu.c between kvm_mmu_get_shadow_page and kvm_mmu_commit_zap_page).
//
// Nothing here knows how a guest's table is read: `ShadowFetch` and `ShadowSyncer` do. `Entry` is
// what is written: `PagingEntry` where tables are loaded into CR3, `EptEntry` where they shadow a
// nested hypervisor's EPT12.

#ifndef TDP_MMU_REVERSE_MAPPED_SHADOW_TABLES_H_
#define TDP_MMU_REVERSE_MAPPED_SHADOW_TABLES_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/large_page_permits.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/reverse_mapped/page_hash.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"
#include "tdp/mmu/reverse_mapped/slot_rmaps.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/table_pool.h"
#include "tdp/rmap/descriptor_pool.h"
#include "tdp/rmap/rmap_descriptor.h"
#include "tdp/rmap/rmap_list.h"

namespace tdp {

// Holds what an operation took away and has not committed yet: tables that CPUs may still walk, and
// whether they may still hold what was dropped or narrowed. `ShadowTables::Commit` takes it.
struct [[nodiscard]] ShadowZap {
  TableList tables;
  bool flush = false;

  bool is_empty() const { return !flush && tables.empty(); }
};

// Holds the memory of chains and records: one for all shadows of a `Vm`.
struct ShadowPools {
  DescriptorPool descriptors{sizeof(RmapDescriptor<kRmapDescriptorEntries>)};
  DescriptorPool records{kShadowPageBytes};
};

// Holds what a thread's operations may use up. It is refilled outside every section.
struct ShadowStock {
  // A fault makes at most four pages below a root and one table of origins, and enters at most two
  // chains with tables of places for both ends of each link on its way.
  static constexpr int kTables = 16;
  static constexpr int kDescriptors = 16;
  static constexpr int kRecords = 8;

  ShadowStock(TablePool& table_pool, ShadowPools& pools)
      : tables(table_pool), descriptors(pools.descriptors), records(pools.records) {}

  // Fills it up. ResourceExhausted if something can not be had; what was here stays.
  absl::Status Refill();

  TableCache tables;
  DescriptorCache descriptors;
  DescriptorCache records;

  // Returns whether `Refill` has nothing to do.
  bool IsStocked() const {
    return tables.size() >= kTables && descriptors.size() >= kDescriptors &&
           records.size() >= kRecords;
  }
};

struct ShadowTablesOptions {
  AddressSpaceId address_space = 0;
  size_t page_quota = ~size_t{0};  // shadow pages; more make `IsFull`. It can change later
  int hash_bits = 12;
};

// Writers' sections of `MmuLock` change the structure: pages, links, chains of parents, what is
// tracked and in sync. A fault whose page is linked already sets its leaf in a reader's section,
// beside other faults: it holds the lock of the leaf's head (`SlotRmap::Hold`), then that of the
// page (`ShadowPage::leaf_lock`). Writers exclude readers, so they take neither.
//
// Invariants: a page is in the hash, in the list by age and write-tracked exactly while it is not
// invalid, but that pages in guest mode, which shadow an EPT12, are not tracked; each link is in
// its child's chain of parents and each leaf in the reverse map of its frame, once, and nothing
// else is; a frame that a synced page shadows is mapped writable nowhere; `present` counts the
// entries that are no holes; pages of level 1 alone are unsync.
template <typename Entry>
class ShadowTables {
 public:
  using Ref = BasicEntryRef<Entry>;
  using Chain = RmapList<ShadowPlaces>;

  ShadowTables(TablePool& pool, ShadowPools& pools, FlushClock& clock, MmuLock& mmu_lock,
               const ShadowTablesOptions& options);
  // By then no root is held. Tables go back to the pool: no CPU uses them any more.
  ~ShadowTables();

  ShadowTables(const ShadowTables&) = delete;
  ShadowTables& operator=(const ShadowTables&) = delete;

  const ShadowTablesOptions& options() const { return options_; }
  TablePool& pool() { return pool_; }
  // Returns an entry that maps nothing here: as in the free tables of the pool, to which these go
  // back.
  Entry hole() const { return Entry(pool_.empty_entry().raw()); }
  // Adds what was counted. Any thread may call it.
  void AddTo(ShadowStats& stats) const;

  // --- pages, in a writer's section ---

  // Returns the page of `gfn` and `role`, if there is one that is not obsolete.
  ShadowPage* Find(Gfn gfn, PageRole role) const {
    AssertWriting(mmu_lock_);
    return hash_.Find(gfn, role, generation_);
  }

  // Makes a page, linked nowhere; there is none like it. Null if `stock` lacks something.
  // `tracking`, null for a direct page, is prepared for `gfn`: the frame is tracked from here on,
  // and every entry that maps it loses W. If one had it, `zap` owes a flush.
  ShadowPage* Make(Gfn gfn, PageRole role, LargePagePermits* tracking, ShadowStock& stock,
                   ShadowZap& zap);

  // Holds a page as a root: zapped, it is emptied and stays until the last holder lets go.
  void Hold(ShadowPage& page) {
    AssertWriting(mmu_lock_);
    if (page.roots++ == 0) roots_.PushBack(&page);
  }
  void Release(ShadowPage& page, ShadowZap& zap);

  // --- pages and entries, in any section ---

  // Returns whether entries may be derived from the guest's table as it is. They may not until the
  // flush that its tracking owed is settled: a CPU may still write it unseen.
  bool IsTrusted(const ShadowPage& page) const { return clock_.IsSettled(page.trusted_from); }
  // Returns whether a held page still shadows anything: else the root has to be made anew.
  bool IsCurrent(const ShadowPage& page) const {
    return !page.is_invalid && page.generation == generation_;
  }

  static Ref At(const ShadowPage& page, int index) { return Ref(page.entry(index)); }
  // Returns the table that `entry` of a page points to.
  TablePage* TableOf(Entry entry) const { return TablePage::Of(pool_.EntriesOf(entry.address())); }

  // Returns a number that moves whenever a way from a root to a page may have ceased to be: what
  // was found by one leads there, to a page that is as it was, while this stands. It also moves as
  // a guest writes to a table that is shadowed, since a page that is used meanwhile counts its
  // writes anew.
  uint64_t structure() const { return structure_; }

  // --- leaves, in a reader's section with the locks of head and page, or in a writer's ---

  // Names a hole for a leaf: the entry of `page` at `index`.
  struct Hole {
    ShadowPage& page;
    int index;
    uint64_t* where;
    Entry value;
    uint64_t* origins;  // `OriginsOf(page)`
  };
  // Returns the origins of a page's leaves; null if it has none yet, or needs none.
  static uint64_t* OriginsOf(const ShadowPage& page) {
    return ABSL_PREDICT_FALSE(page.is_direct() || page.origins == nullptr)
               ? nullptr
               : page.origins->entries();
  }
  // Puts `leaf` there. `head` is that of the leaf's frame and level in the reverse map of its slot.
  // Returns false, with nothing changed, if something is missing that `MakeRoomFor` makes.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool SetLeaf(const Hole& hole, Entry leaf, LeafOrigin origin,
                                            RmapHead& head, ShadowStock& stock) {
    if (ABSL_PREDICT_FALSE(!PutLeaf(hole, leaf, origin, head, stock))) return false;
    ++hole.page.present;
    if (ABSL_PREDICT_TRUE(hole.origins != nullptr)) NoteAddition();
    return true;
  }
  // Does the same for one of several leaves of a page; `CountLeaves` follows for those that were
  // put.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool PutLeaf(const Hole& hole, Entry leaf, LeafOrigin origin,
                                            RmapHead& head, ShadowStock& stock) {
    AssertHolds(hole.page.leaf_lock, mmu_lock_);
    if (ABSL_PREDICT_FALSE(hole.origins == nullptr)) {
      if (!hole.page.is_direct()) return false;
    } else {
      hole.origins[hole.index] = origin.raw();  // while it is a hole, nobody reads it
    }
    if (ABSL_PREDICT_TRUE(head.is_empty())) {
      head = RmapHead::Single(hole.where);
    } else if (!AddToChain(hole.page, hole.where, head, stock)) {
      return false;
    }
    Ref(hole.where).Store(hole.value, leaf);
    return true;
  }
  void CountLeaves(ShadowPage& page, uint32_t leaves) {
    page.present += leaves;
    if (!page.is_direct()) NoteAddition();
  }
  // Replaces a leaf by one of the same frame, of the guest's and of the host's, and size.
  void ChangeLeaf(ShadowPage& page, int index, Entry leaf, LeafOrigin origin, ShadowZap& zap);
  // --- entries, in a writer's section ---

  // Makes room for what `SetLeaf` keeps of a leaf of `page` that is about to enter the chain of
  // `head`. Returns false if `stock` lacks something.
  bool MakeRoomFor(ShadowPage& page, const RmapHead& head, ShadowStock& stock);
  // Links `child` at a hole. Returns false, with nothing changed, if `stock` lacks a table.
  bool Link(ShadowPage& page, int index, ShadowPage& child, ShadowStock& stock);
  // Empties an entry, leaf or link. A child that has no parent left stays in the hash.
  void Drop(ShadowPage& page, int index, DescriptorCache& descriptors, ShadowZap& zap);

  // Returns a number that is another one if something was added since to pages that shadow a
  // guest's tables. Where that is as it was when an address space of the guest was last in use, the
  // pages say nothing of it that its CPU could not have cached then. Any thread.
  uint64_t additions() {
    uint64_t seen = additions_.load(std::memory_order_acquire);
    while ((seen & kAdded) != 0) {
      if (additions_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) ++seen;
    }
    return seen;
  }

  // --- what the guest writes ---

  // Returns whether the guest must not write `gfn`, which is tracked, by itself, since a page
  // shadows it and is to stay in sync. Any section.
  bool MustTrack(Gfn gfn) const;
  // Lets pages of level 1, if they alone shadow `gfn`, go out of sync. Returns whether the guest
  // must not write it even so. In a writer's section, like what follows.
  bool MustTrackEvenUnsync(Gfn gfn);
  // Zaps those pages that are out of sync longest where there are more than `kMostUnsync`, so that
  // whoever looks at all of them in one section is soon done.
  void LimitUnsync(DescriptorCache& descriptors, ShadowZap& zap) {
    AssertWriting(mmu_lock_);
    while (unsync_.size() > kMostUnsync) Zap(*unsync_.first(), descriptors, zap);
  }
  static constexpr size_t kMostUnsync = 256;
  // Says that `size` bytes at `gpa`, within one page, have been written to a frame that is tracked:
  // drops the entries that follow from them, or the pages that are written too often or too oddly
  // (kvm_mmu_track_write).
  void OnWrite(Gpa gpa, ByteCount size, DescriptorCache& descriptors, ShadowZap& zap);

  // Returns whether a page shadows a table in `gfn`. Any section.
  bool Shadows(Gfn gfn) const {
    AssertInSection();
    bool any = false;
    hash_.ForEachShadowOf(gfn, [&any](const ShadowPage*) { any = true; });
    return any;
  }
  // Returns the pages out of sync. Any section.
  const ShadowSideList& unsync() const { return unsync_; }
  // Takes W from the frames of all unsync pages again: once `zap` is settled they can be read and
  // given to `SetSynced`, unless one was written meanwhile and went unsync again.
  void BeginResync(ShadowZap& zap);
  void SetSynced(ShadowPage& page);

  // --- zapping, in a writer's section ---

  // Takes the page out of everything: its entries, its parents, the hash. Its children stay.
  void Zap(ShadowPage& page, DescriptorCache& descriptors, ShadowZap& zap);
  // Zaps the oldest pages that are no roots: up to `count` of them. Returns how many they were.
  size_t ZapOldest(size_t count, DescriptorCache& descriptors, ShadowZap& zap);
  size_t ZapOldest(size_t count, ShadowZap& zap) {
    return ZapOldest(count, spare_descriptors_, zap);
  }
  // Zaps up to `count` pages that are held as roots, but none of `keep`: those that have been held
  // longest go first. Their holders load others with their next fault. Returns how many they were.
  size_t ZapHeld(size_t count, absl::Span<ShadowPage* const> keep, DescriptorCache& descriptors,
                 ShadowZap& zap);

  // --- in any section ---

  bool IsFull(size_t more) const {
    AssertInSection();
    return pages_.size() + more > page_quota();
  }
  // Sets the quota of pages. One below their number takes nothing away by itself. Any thread may
  // call it.
  void set_page_quota(size_t pages) { page_quota_.store(pages, std::memory_order_relaxed); }
  size_t page_quota() const { return page_quota_.load(std::memory_order_relaxed); }
  // Returns how many pages are above the quota.
  size_t excess() const { return IsFull(0) ? pages_.size() - page_quota() : 0; }
  // Returns how many tables are in use, those of data included. Any thread may ask.
  size_t table_count() const { return table_count_.load(std::memory_order_relaxed); }
  // Gives what has been taken away to the clock; settle what it returns outside every section.
  PendingFlush Commit(ShadowZap&& zap);
  // Does the same for an operation that promises that no CPU has it any more: what others have
  // taken away and not settled is owed, too.
  PendingFlush CommitAll(ShadowZap&& zap);

  // --- with no lock held ---

  // Zaps every page, in sections of its own. The first sees to it that no CPU can get at any, once
  // what this returns is settled; each of the others zaps a few. What others have taken away and
  // not settled is owed, too.
  PendingFlush ZapAll();

  // --- structural operations, in a writer's section ---

  void SetRmap(uint32_t slot, std::shared_ptr<SlotRmap> rmap) {
    AssertWriting(mmu_lock_);
    rmaps_.Set(slot, std::move(rmap));
  }
  // Returns the reverse map of the slot of `gfn`. Any side may ask.
  const std::shared_ptr<SlotRmap>& RmapOf(Gfn gfn) const { return rmaps_.Of(gfn); }
  // Finds it by the slot's id. Null if the slot has none that holds `gfn`.
  SlotRmap* RmapOf(const MemorySlot& slot, Gfn gfn) const { return rmaps_.OfSlot(slot.id, gfn); }

  // Takes away every leaf that touches [first, end) and every page that shadows a table there.
  void Detach(Gfn first, Gfn end, ShadowZap& zap);

  // Takes W from every leaf that touches [first, end). Returns whether any had it.
  bool WriteProtect(Gfn first, Gfn end);
  // Returns whether any leaf touches [first, end).
  bool Maps(Gfn first, Gfn end) const;
  // Clears A in every leaf that touches [first, end); `test` leaves it. Returns whether any had it.
  bool Age(Gfn first, Gfn end, bool test);

  // --- rights, in a reader's section ---

  // Takes W from the leaves of the frames `base` + i, for every bit i of `mask`.
  void WriteProtectPages(Gfn base, uint64_t mask);

  // --- looking ---

  size_t page_count() const { return pages_.size(); }
  // Returns Internal, saying which page, if an invariant does not hold. In a writer's section.
  absl::Status CheckInvariants() const;

 private:
  void MakeObsolete(ShadowZap& zap);
  bool ZapObsolete(size_t count, ShadowZap& zap);
  void ProtectTable(ShadowPage& page, ShadowZap& zap);
  bool Protect(RmapHead& head) const;
  bool WriteProtectFrame(Gfn gfn) const;
  static bool AddToChain(const ShadowPage& page, uint64_t* where, RmapHead& head,
                         ShadowStock& stock);
  bool ReadyPlaces(ShadowPage& page, const RmapHead& head, ShadowStock& stock);
  bool ReadyTable(TablePage*& table, ShadowStock& stock);
  void DropTable(TablePage*& table, ShadowZap& zap);
  void Empty(ShadowPage& page, DescriptorCache& descriptors, ShadowZap& zap);
  void DropParents(ShadowPage& page, DescriptorCache& descriptors, ShadowZap& zap);
  void CountTable() { table_count_.store(table_count() + 1, std::memory_order_relaxed); }
  // Says, after something was added to a page that shadows a table, that it was. Many faults find
  // it said already, and write nothing that others look at.
  void NoteAddition() {
    if (ABSL_PREDICT_TRUE((additions_.load(std::memory_order_relaxed) & kAdded) != 0)) return;
    additions_.fetch_or(kAdded, std::memory_order_release);
  }
  void Forget(ShadowPage& page);
  void Free(ShadowPage& page, ShadowZap& zap);
  bool IsFlooded(ShadowPage& page, ByteCount offset, ByteCount size);
  void DropWritten(ShadowPage& page, ByteCount offset, DescriptorCache& descriptors,
                   ShadowZap& zap);
  void ZapShadowsOf(Gfn first, Gfn end, ShadowZap& zap);
  absl::Status CheckPage(const ShadowPage& page) const;
  absl::Status CheckEntry(const ShadowPage& page, int index) const;
  absl::Status CheckCounts() const;

  // These change in writers' sections, and any thread reads them.
  struct Counters {
    Counter made;
    Counter zapped;
    Counter pte_write;
    Counter pde_zapped;
    Counter flooded;
    Counter recycled;
    Counter unsynced;
    Counter resynced;
  };

  TablePool& pool_;
  ShadowPools& pools_;
  FlushClock& clock_;
  MmuLock& mmu_lock_;
  const ShadowTablesOptions options_;
  Counters counters_;

  // These change in writers' sections.
  uint32_t generation_ = 1;
  uint64_t structure_ = 1;
  Atomic<size_t> table_count_{0};
  Atomic<size_t> page_quota_;
  // Bit 0: whether something was added since `additions` was asked last; above it, how often that
  // was so.
  static constexpr uint64_t kAdded = 1;
  Atomic<uint64_t> additions_{0};
  PageHash hash_;
  ShadowAgeList pages_;
  ShadowSideList unsync_;
  ShadowSideList roots_;  // the pages that are held, invalid ones included
  SlotRmaps rmaps_;
  // Structural operations use these.
  DescriptorCache spare_descriptors_;
};

}  // namespace tdp

#endif  // TDP_MMU_REVERSE_MAPPED_SHADOW_TABLES_H_
