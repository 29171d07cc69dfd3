// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Follows a walk of the guest's tables in the shadow (KVM's FNAME(fetch)).

#ifndef TDP_MMU_SHADOW_SHADOW_FETCH_H_
#define TDP_MMU_SHADOW_SHADOW_FETCH_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/paging_entry.h"
#include "tdp/mmu/guest/guest_walk.h"
#include "tdp/mmu/guest/guest_walker.h"
#include "tdp/mmu/guest/nested_ept_walker.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"

namespace tdp {

// Says what a walk of the guest's tables has found, whatever their format: those of its own paging
// where the shadow's entries are `PagingEntry`, else an EPT12.
template <typename Entry>
struct ShadowPath {
  using Walk = std::conditional_t<std::is_same_v<Entry, PagingEntry>, GuestWalk, NestedEptWalk>;

  explicit ShadowPath(const Walk& of) : walk(of) {}

  // These say, of the walk's entry at `level`, from the root's down to `leaf_level`: its value,
  // where it stands, and the rights of the table that it stands in (the AND over the entries
  // above).
  uint64_t entry(int level) const { return RawOf(walk.entries[static_cast<size_t>(level)]); }
  Gpa address(int level) const { return walk.entry_addresses[static_cast<size_t>(level)]; }
  Access table_rights(int level) const { return Access::FromRaw(walk.TableRights(level).raw()); }
  // Returns the rights of the table at `leaf_level`.
  Access leaf_table_rights() const { return Access::FromRaw(walk.LeafTableRights().raw()); }

  const Walk& walk;
  // The level of the guest's leaf. Below it the shadow has direct pages. `kNoTables`, above every
  // level, says that the guest has no tables.
  int leaf_level = 1;
  static constexpr int kNoTables = 6;
  uint32_t rights = 0;  // of the leaf: as `LeafOrigin` keeps them
  Gfn gfn;              // of the 4 KiB page that is accessed

 private:
  static uint64_t RawOf(uint64_t raw) { return raw; }
  static uint64_t RawOf(EptEntry entry) { return entry.raw(); }
};

// Notes where a vCPU's last leaf was put: the next one mostly stands in the same page.
struct ShadowMemo {
  const ShadowPage* root = nullptr;
  uint64_t region = 0;     // the address by 2 MiB
  uint64_t structure = 0;  // `ShadowTables::structure`, which is never 0
  ShadowPage* page = nullptr;

  static uint64_t RegionOf(uint64_t address) { return address >> kLevel2M.shift(); }
  // Returns whether `page` is where the leaf of `address` below `from` stands, at 4 KiB. The root
  // is current if so.
  bool LeadsTo(uint64_t address, const ShadowPage* from, uint64_t structure_now) const {
    return structure == structure_now && root == from && region == RegionOf(address);
  }
};

enum class FetchOutcome : uint8_t {
  kInstalled,
  kSpurious,       // it stood there already, with what is needed
  kChanged,        // the guest's tables are not what was walked: walk again
  kFlushFirst,     // a CPU may still write a table that is tracked: commit, settle, walk again
  kNeedsTables,    // the stock is used up: refill it
  kNeedsWriter,    // what has to change takes a writer's section
  kNeedsTracking,  // `gfn_without_tracking`, a frame of `slot_without_tracking`, is to be prepared
  kNeedsPage,      // `Memory` has to fetch a page
};

// Says in which kind of section of `MmuLock` a fault is: beside others, or alone.
enum class ShadowSide : uint8_t { kReader, kWriter };

// Names where a leaf goes.
struct ShadowPlace {
  ShadowPage* page = nullptr;
  int index = 0;
  bool is_linked_anew = false;  // a page on the way there

  // Returns whether `memo` leads from `root` to the page in which the leaf of `address` stands, at
  // 4 KiB, while `structure` stands, and `path` leads to that page, too. Then it gives the place.
  template <typename Entry>
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool FindBy(const ShadowMemo& memo, uint64_t structure,
                                           const ShadowPage* root, uint64_t address,
                                           const ShadowPath<Entry>& path) {
    if (ABSL_PREDICT_FALSE(!memo.LeadsTo(address, root, structure))) return false;
    page = memo.page;
    index = kLevel4K.IndexOf(Gfn(address >> kPageShift));
    const PageRole role = page->role;
    if (ABSL_PREDICT_FALSE(path.leaf_level != 1)) {
      return role.direct() && page->gfn == path.gfn.AlignDown(kLevel2M.pages()) &&
             role.access() == Access::FromRaw(static_cast<uint8_t>(path.rights));
    }
    return ABSL_PREDICT_TRUE(!role.direct() && page->gfn == Gfn::Of(path.address(1)) &&
                             role.access() == path.leaf_table_rights());
  }
};

// Follows walks. `Find` and `Set` do in a reader's section what changes leaves alone; what they
// leave to do is for a writer's. `Memory` reaches the guest's tables as for `GuestWalker`.
template <typename Entry, typename Memory>
class ShadowFetch {
 public:
  using Tables = ShadowTables<Entry>;
  using Path = ShadowPath<Entry>;
  using EntryAt = typename Tables::Ref;

  // `slots` looks tables up, by their frames.
  ShadowFetch(Tables& tables, Memory& memory, SlotReader& slots, ShadowStock& stock, ShadowZap& zap)
      : tables_(tables), memory_(memory), slots_(slots), stock_(stock), zap_(zap) {}

  // Returns where a fetch ended.
  ShadowPlace place() const { return {page_, index_, linked_}; }

  // After kNeedsTracking these say of which frame.
  const MemorySlot* slot_without_tracking = nullptr;
  Gfn gfn_without_tracking;

  // Goes from `root` to the page in which the 4 KiB leaf of `address` (a gva, or an L2 gpa) stands,
  // if all on the way is linked as `path` says. Returns no page if it is not. In any section.
  static ShadowPlace Find(const Tables& tables, ShadowPage& root, uint64_t address,
                          const Path& path) {
    ShadowPlace place{&root, 0};
    for (Level level = root.level();; level = level.below()) {
      place.index = level.IndexOf(Gfn(address >> kPageShift));
      if (level == kLevel4K) return place;
      place.page = LinkedChild(tables, place, ChildOf(place, path));
      if (place.page == nullptr) return place;
    }
  }

  // Goes from `root` to the page in which the leaf of `address` stands, at level `goal`, which is
  // not above `path.leaf_level`: `place`. In a writer's section. Makes and links what is missing;
  // pages that are made are tracked from here on. `sync(page, table)` is called for a
  // page out of sync, or one that is not tracked, that is about to be linked or to be reached
  // through what is, with the guest's table as it is; it may drop entries, and returns false where
  // the page had to go.
  template <typename Sync>
  FetchOutcome Reach(ShadowPage& root, uint64_t address, const Path& path, Level goal, Sync sync) {
    AssertWriting();
    page_ = &root;
    for (Level level = root.level();; level = level.below()) {
      index_ = level.IndexOf(Gfn(address >> kPageShift));
      if (level == goal) return FetchOutcome::kInstalled;
      const FetchOutcome outcome = Descend(path, sync);
      if (ABSL_PREDICT_FALSE(outcome != FetchOutcome::kInstalled)) return outcome;
    }
  }

  // Puts `leaf` at `place`: the entry for `path.gfn` at that level, `level`; `head` is that of its
  // frame in the reverse map of its slot. `guest_leaf` is where the guest's leaf stands, if that is
  // at hand. In a writer's section, or with the locks of head and page in a reader's. There it
  // returns kNeedsWriter if more than the leaf has to change.
  ABSL_ATTRIBUTE_ALWAYS_INLINE static FetchOutcome Set(Tables& tables, Memory& memory,
                                                       ShadowStock& stock, ShadowZap& zap,
                                                       ShadowSide side, ShadowPlace place,
                                                       const Path& path,
                                                       const std::byte* guest_leaf, Level level,
                                                       Entry leaf, RmapHead& head) {
    AssertInSection();
    ShadowPage& page = *place.page;
    if (!IsTrusted(tables, page, zap)) return FetchOutcome::kFlushFirst;
    if (guest_leaf == nullptr || level.raw() > path.leaf_level) {
      if (const FetchOutcome changed = Verify(memory, page, path, level);
          changed != FetchOutcome::kInstalled) {
        return changed;
      }
    } else if (ABSL_PREDICT_FALSE(LoadEntry(page, guest_leaf) != path.entry(path.leaf_level))) {
      return FetchOutcome::kChanged;
    }
    const LeafOrigin origin(path.gfn.AlignDown(level.pages()), path.rights);
    uint64_t* const where = page.entry(place.index);
    Entry old = EntryAt(where).Load();
    if (ABSL_PREDICT_FALSE(old.kind(level) != EntryKind::kHole)) {
      // Another frame of the guest's with the same host page has a head of its own.
      if (old.kind(level) == EntryKind::kLeaf && old.MapsAs(leaf) &&
          page.OriginOf(place.index).gfn() == origin.gfn()) {
        return Change(tables, zap, place, old, leaf, origin);
      }
      if (side == ShadowSide::kReader) return FetchOutcome::kNeedsWriter;
      tables.Drop(page, place.index, stock.descriptors, zap);
      old = tables.hole();
    }
    if (side == ShadowSide::kWriter && !tables.MakeRoomFor(page, head, stock)) {
      return FetchOutcome::kNeedsTables;
    }
    return tables.SetLeaf({page, place.index, where, old, Tables::OriginsOf(page)}, leaf, origin,
                          head, stock)
               ? FetchOutcome::kInstalled
               : FetchOutcome::kNeedsWriter;
  }

 private:
  // Says what an entry has to link.
  struct Wanted {
    Gfn gfn;
    PageRole role;
  };

  static Wanted ChildOf(ShadowPlace place, const Path& path) {
    const Level level = place.page->level();
    const PageRole role = place.page->role.WithLevel(level.below());
    if (level.raw() <= path.leaf_level) {
      return {path.gfn.AlignDown(level.pages()),
              role.WithDirect(true).WithQuadrant(0).WithAccess(AccessOf(path.rights))};
    }
    const int below = level.below().raw();
    // A page shadows half of what a 4-byte table maps: the entry that links it stands for the one
    // or the other half.
    const int quadrant = role.wide_entries() ? 0 : place.index & 1;
    return {Gfn::Of(path.address(below)),
            role.WithQuadrant(quadrant).WithAccess(path.table_rights(below))};
  }
  // Returns whether the page shadows an EPT12, which is not tracked: what L1 takes away stays until
  // it executes INVEPT. But nothing is kept from a time at which the table was not linked here.
  static bool IsUntracked(PageRole role) { return role.guest_mode() && !role.direct(); }
  static Access AccessOf(uint32_t rights) { return Access::FromRaw(static_cast<uint8_t>(rights)); }

  // Returns the child at `place` if it is what is wanted; else null. What is linked already was
  // derived from an entry that nobody can have changed unseen; that it is the right child says that
  // the walk saw the same entry.
  static ShadowPage* LinkedChild(const Tables& tables, ShadowPlace place, const Wanted& wanted) {
    const Entry entry = Tables::At(*place.page, place.index).Load();
    if (ABSL_PREDICT_FALSE(entry.kind(place.page->level()) != EntryKind::kTable)) return nullptr;
    const TablePage* table = tables.TableOf(entry);
    if (ABSL_PREDICT_FALSE(table->base != wanted.gfn || table->role != wanted.role)) return nullptr;
    table->shadow->NoteUse();
    return table->shadow;
  }

  // Goes to the child that the guest's entry asks for, made and linked where it is missing.
  template <typename Sync>
  FetchOutcome Descend(const Path& path, Sync sync) {
    const Wanted wanted = ChildOf(place(), path);
    if (ShadowPage* child = LinkedChild(tables_, place(), wanted)) {
      page_ = child;
      return FetchOutcome::kInstalled;
    }
    return LinkChild(path, wanted, sync);
  }

  // Returns whether entries may be derived from the page's guest table: it must not be written
  // unseen. Where it may be for a moment yet, the flush that is to come, or one of our own, ends
  // that.
  static bool IsTrusted(const Tables& tables, const ShadowPage& page, ShadowZap& zap) {
    if (ABSL_PREDICT_TRUE(tables.IsTrusted(page))) return true;
    zap.flush = true;
    return false;
  }

  template <typename Sync>
  FetchOutcome LinkChild(const Path& path, const Wanted& wanted, Sync sync) {
    if (!IsTrusted(tables_, *page_, zap_)) return FetchOutcome::kFlushFirst;
    if (const FetchOutcome changed = Verify(memory_, *page_, path, page_->level());
        changed != FetchOutcome::kInstalled) {
      return changed;
    }
    tables_.Drop(*page_, index_, stock_.descriptors, zap_);
    ShadowPage* child = tables_.Find(wanted.gfn, wanted.role);
    if (child == nullptr) {
      const FetchOutcome made = MakeChild(wanted, child);
      if (made != FetchOutcome::kInstalled) return made;
    } else if (const FetchOutcome synced = SyncChild(*child, sync);
               synced != FetchOutcome::kInstalled) {
      return synced;
    }
    if (!tables_.Link(*page_, index_, *child, stock_)) return FetchOutcome::kNeedsTables;
    page_ = child;
    linked_ = true;
    return FetchOutcome::kInstalled;
  }

  // Syncs what is about to be linked. Nothing may be found through the child that its guest table
  // does not say now: no CPU can have cached anything on this way, since it was none. Below an
  // upper table that may be any page out of sync; there are few, and links to upper tables that are
  // shadowed already are rare.
  template <typename Sync>
  FetchOutcome SyncChild(ShadowPage& child, Sync sync) {
    if (child.sync != ShadowSync::kSynced || IsUntracked(child.role)) {
      return SyncPage(child, sync) ? FetchOutcome::kInstalled : sync_outcome_;
    }
    if (child.is_direct() || child.level() == kLevel4K) return FetchOutcome::kInstalled;
    for (ShadowPage* page = tables_.unsync().first(); page != nullptr;) {
      ShadowPage* next = ShadowSideList::Next(page);
      // A page that went is not below the child any more.
      if (!SyncPage(*page, sync) && sync_outcome_ == FetchOutcome::kNeedsPage) {
        return sync_outcome_;
      }
      page = next;
    }
    return FetchOutcome::kInstalled;
  }
  // Returns false, with `sync_outcome_`, if the guest's table is not at hand or the page had to go.
  template <typename Sync>
  bool SyncPage(ShadowPage& page, Sync sync) {
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    const std::byte* table = memory_.Reach(page.gfn.address(), false, why);
    sync_outcome_ = table == nullptr ? FetchOutcome::kNeedsPage : FetchOutcome::kChanged;
    return table != nullptr && sync(page, table);
  }

  FetchOutcome MakeChild(const Wanted& wanted, ShadowPage*& child) {
    LargePagePermits* tracking = nullptr;
    if (!wanted.role.direct() && !IsUntracked(wanted.role)) {
      const MemorySlot* slot = slots_.Find(wanted.role.address_space(), wanted.gfn);
      if (slot == nullptr || slot->invalid) return FetchOutcome::kChanged;
      tracking = &slot->state->permits();
      if (!tracking->IsWriteTrackingPrepared(wanted.gfn)) {
        slot_without_tracking = slot;
        gfn_without_tracking = wanted.gfn;
        return FetchOutcome::kNeedsTracking;
      }
    }
    child = tables_.Make(wanted.gfn, wanted.role, tracking, stock_, zap_);
    return child == nullptr ? FetchOutcome::kNeedsTables : FetchOutcome::kInstalled;
  }

  // Returns kInstalled if the guest's entry behind the shadow's entries of `level` is as it was
  // walked.
  ABSL_ATTRIBUTE_ALWAYS_INLINE static FetchOutcome Verify(Memory& memory, const ShadowPage& page,
                                                          const Path& path, Level level) {
    if (ABSL_PREDICT_FALSE(path.leaf_level == Path::kNoTables)) return FetchOutcome::kInstalled;
    const int at = std::max(level.raw(), path.leaf_level);
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    const std::byte* place = memory.Reach(path.address(at), false, why);
    if (ABSL_PREDICT_FALSE(place == nullptr)) return FetchOutcome::kNeedsPage;
    return LoadEntry(page, place) == path.entry(at) ? FetchOutcome::kInstalled
                                                    : FetchOutcome::kChanged;
  }
  static uint64_t LoadEntry(const ShadowPage& page, const std::byte* place) {
    return ABSL_PREDICT_TRUE(page.role.wide_entries()) ? LoadAtomic<uint64_t>(place)
                                                       : LoadAtomic<uint32_t>(place);
  }
  template <typename Word>
  static Word LoadAtomic(const std::byte* place) {
    auto* word = reinterpret_cast<Word*>(const_cast<std::byte*>(place));
    return AtomicRef<Word>(*word).load(std::memory_order_acquire);
  }

  // A leaf for this page is already here. Keeps it if it has the same origin and is the leaf that
  // is wanted, with or without W: a read must not take away the W that an earlier write fault gave.
  static FetchOutcome Change(Tables& tables, ShadowZap& zap, ShadowPlace place, Entry old,
                             Entry leaf, LeafOrigin origin) {
    const bool same_origin = place.page->OriginOf(place.index) == origin;
    if (same_origin && (old == leaf || old.WithoutWrite() == leaf)) {
      return place.is_linked_anew ? FetchOutcome::kInstalled : FetchOutcome::kSpurious;
    }
    tables.ChangeLeaf(*place.page, place.index, leaf, origin, zap);
    return FetchOutcome::kInstalled;
  }

  Tables& tables_;
  Memory& memory_;
  SlotReader& slots_;
  ShadowStock& stock_;
  ShadowZap& zap_;
  ShadowPage* page_ = nullptr;
  int index_ = 0;
  bool linked_ = false;  // a page, on the way
  FetchOutcome sync_outcome_ = FetchOutcome::kInstalled;
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_SHADOW_FETCH_H_
