// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// From a walk of the guest's tables to the same path in the shadow (KVM's FNAME(fetch)).

#ifndef TDP_MMU_SHADOW_SHADOW_FETCH_H_
#define TDP_MMU_SHADOW_SHADOW_FETCH_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/base/optimization.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/guest/guest_walker.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"

namespace tdp {

// Tells what a walk of the guest's tables has found, whatever their format.
struct ShadowPath {
  // A step of the walk: an entry, and the guest table in which it stands.
  struct Step {
    uint64_t entry = 0;
    Gpa address;          // of the entry
    uint32_t rights = 0;  // of the table: the AND over the entries above it
  };
  // By level, from that of the root down to `leaf_level`.
  std::array<Step, 6> steps;
  // Of the guest's leaf. Below it the shadow has direct pages. `kNoTables`, above every
  // level: the guest has no tables.
  int leaf_level = 1;
  static constexpr int kNoTables = 6;
  uint32_t rights = 0;  // of the leaf: as `LeafOrigin` keeps them
  Gfn gfn;              // of the 4 KiB page that is accessed
};

enum class FetchOutcome : uint8_t {
  kInstalled,
  kSpurious,       // it stood there already, with what is needed
  kChanged,        // the guest's tables are not what was walked: walk again
  kFlushFirst,     // a CPU may still write a table that is tracked: commit, settle, walk again
  kNeedsTables,    // the stock is used up: refill it
  kNeedsTracking,  // `short_of_tracking` and `gfn_without_tracking` have to be prepared
  kNeedsPage,      // `Memory` has to fetch a page
};

// One fetch, under the lock of `tables`. `Memory` reaches the guest's tables as for `GuestWalker`.
template <typename Entry, typename Memory>
class ShadowFetch {
 public:
  using Tables = ShadowTables<Entry>;

  // `slots` looks tables up, by their frames.
  ShadowFetch(Tables& tables, Memory& memory, SlotReader& slots, ShadowStock& stock, ShadowZap& zap)
      : tables_(tables), memory_(memory), slots_(slots), stock_(stock), zap_(zap) {}

  // Returns where a fetch ended: the page and the index of its leaf.
  ShadowPage* page() const { return page_; }
  int index() const { return index_; }

  // kNeedsTracking.
  std::shared_ptr<LargePagePermits> short_of_tracking;
  Gfn gfn_without_tracking;

  // Goes from `root` to the page in which the leaf of `address` (a gva, or an L2 gpa) stands:
  // `page` and `index`, at level `goal`, which is not above `path.leaf_level`. Makes and links what
  // is missing; pages that are made are tracked from here on. `sync(page, table)` is called for a
  // page out of sync, or one that is not tracked, that is about to be linked or to be reached
  // through what is, with the guest's table as it is; it may drop entries, and returns false where
  // the page had to go.
  template <typename Sync>
  FetchOutcome Reach(ShadowPage& root, uint64_t address, const ShadowPath& path, Level goal,
                     Sync sync) {
    page_ = &root;
    for (Level level = root.level();; level = level.below()) {
      index_ = level.IndexOf(Gfn(address >> kPageShift));
      if (level == goal) return FetchOutcome::kInstalled;
      const FetchOutcome outcome = Descend(path, sync);
      if (ABSL_PREDICT_FALSE(outcome != FetchOutcome::kInstalled)) return outcome;
    }
  }

  // Then puts `leaf` there, the entry for `path.gfn` at that level; `rmap` is that of its slot.
  FetchOutcome Set(const ShadowPath& path, Entry leaf, SlotRmap& rmap) {
    if (!IsTrusted()) return FetchOutcome::kFlushFirst;
    if (const FetchOutcome changed = Verify(path, page_->level());
        changed != FetchOutcome::kInstalled) {
      return changed;
    }
    const Level level = page_->level();
    const LeafOrigin origin(path.gfn.AlignDown(level.pages()), path.rights);
    const Entry old = Tables::At(*page_, index_).Load();
    if (old.kind(level) == EntryKind::kLeaf && old.MapsAs(leaf)) return Change(old, leaf, origin);
    tables_.Drop(*page_, index_, stock_.descriptors, zap_);
    return tables_.SetLeaf(*page_, index_, leaf, origin, rmap, stock_) ? FetchOutcome::kInstalled
                                                                       : FetchOutcome::kNeedsTables;
  }

 private:
  // Tells what an entry has to link.
  struct Wanted {
    Gfn gfn;
    PageRole role;
  };

  static size_t At(Level level) { return static_cast<size_t>(level.raw()); }

  Wanted ChildOf(const ShadowPath& path) const {
    const Level level = page_->level();
    const PageRole role = page_->role.WithLevel(level.below());
    if (level.raw() <= path.leaf_level) {
      return {path.gfn.AlignDown(level.pages()),
              role.WithDirect(true).WithQuadrant(0).WithAccess(AccessOf(path.rights))};
    }
    const ShadowPath::Step& step = path.steps[At(level.below())];
    // Half of what a 4-byte table maps: the entry that links it stands for the one or the other.
    const int quadrant = role.wide_entries() ? 0 : index_ & 1;
    return {Gfn::Of(step.address), role.WithQuadrant(quadrant).WithAccess(AccessOf(step.rights))};
  }
  // EPT12 is not tracked: what L1 takes away stays until it executes INVEPT. But nothing is kept
  // from a time at which the table was not linked here.
  static bool IsUntracked(PageRole role) { return role.guest_mode() && !role.direct(); }
  static Access AccessOf(uint32_t rights) { return Access::FromRaw(static_cast<uint8_t>(rights)); }

  // To the child that the guest's entry asks for, made and linked where it is missing. What is
  // linked already was derived from an entry that nobody can have changed unseen; that it is the
  // right child says that the walk saw the same entry.
  template <typename Sync>
  FetchOutcome Descend(const ShadowPath& path, Sync sync) {
    const Wanted wanted = ChildOf(path);
    const Entry entry = Tables::At(*page_, index_).Load();
    if (ABSL_PREDICT_TRUE(entry.kind(page_->level()) == EntryKind::kTable)) {
      const TablePage* table = tables_.TableOf(entry);
      if (ABSL_PREDICT_TRUE(table->base == wanted.gfn && table->role == wanted.role)) {
        page_ = table->shadow;
        page_->floods = 0;
        return FetchOutcome::kInstalled;
      }
    }
    return LinkChild(path, wanted, sync);
  }

  // What an entry is derived from must not be written unseen. Where it may be for a moment
  // yet, the flush that is to come, or one of our own, ends that.
  bool IsTrusted() {
    if (ABSL_PREDICT_TRUE(tables_.IsTrusted(*page_))) return true;
    zap_.flush = true;
    return false;
  }

  template <typename Sync>
  FetchOutcome LinkChild(const ShadowPath& path, const Wanted& wanted, Sync sync) {
    if (!IsTrusted()) return FetchOutcome::kFlushFirst;
    if (const FetchOutcome changed = Verify(path, page_->level());
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

  // Nothing may be found through the child that its guest table does not say now: no CPU can have
  // cached anything on this way, since it was none. Below an upper table that may be any page out
  // of sync; there are few, and links to upper tables that are shadowed already are rare.
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
  // False, with `sync_outcome_`, if the guest's table is not at hand or the page had to go.
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
        short_of_tracking = slot->state->shared_permits();
        gfn_without_tracking = wanted.gfn;
        return FetchOutcome::kNeedsTracking;
      }
    }
    child = tables_.Make(wanted.gfn, wanted.role, tracking, stock_, zap_);
    return child == nullptr ? FetchOutcome::kNeedsTables : FetchOutcome::kInstalled;
  }

  // kInstalled if the guest's entry behind the shadow's entries of `level` is as it was walked.
  FetchOutcome Verify(const ShadowPath& path, Level level) const {
    if (path.leaf_level == ShadowPath::kNoTables) return FetchOutcome::kInstalled;
    const size_t at = std::max(At(level), static_cast<size_t>(path.leaf_level));
    const ShadowPath::Step& step = path.steps[at];
    GuestWalkOutcome why = GuestWalkOutcome::kMapped;
    const std::byte* place = memory_.Reach(step.address, false, why);
    if (place == nullptr) return FetchOutcome::kNeedsPage;
    return LoadEntry(place) == step.entry ? FetchOutcome::kInstalled : FetchOutcome::kChanged;
  }
  uint64_t LoadEntry(const std::byte* place) const {
    return page_->role.wide_entries() ? LoadAtomic<uint64_t>(place) : LoadAtomic<uint32_t>(place);
  }
  template <typename Word>
  static Word LoadAtomic(const std::byte* place) {
    auto* word = reinterpret_cast<Word*>(const_cast<std::byte*>(place));
    return AtomicRef<Word>(*word).load(std::memory_order_acquire);
  }

  // The page is mapped already: a write that was not seen to be one before leaves W to who has it.
  FetchOutcome Change(Entry old, Entry leaf, LeafOrigin origin) {
    const bool same_origin = page_->OriginOf(index_) == origin;
    if (same_origin && (old == leaf || old.WithoutWrite() == leaf)) {
      return linked_ ? FetchOutcome::kInstalled : FetchOutcome::kSpurious;
    }
    tables_.ChangeLeaf(*page_, index_, leaf, origin, zap_);
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
