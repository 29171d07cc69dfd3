// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Direct tables with a reverse map: the MMU of the textbook, as Linux 3.11 had it
// (tdp_page_fault, mmu_set_spte, rmap_add, pte_list_add; kvm_unmap_rmapp, rmap_write_protect).
//
// Direct tables need none: a frame's place follows from its number. This one is kept because every
// account of KVM's MMU begins with it, and as the baseline that the direct engine is measured
// against.

#ifndef TDP_MMU_REVERSE_MAPPED_REVERSE_MAPPED_MMU_H_
#define TDP_MMU_REVERSE_MAPPED_REVERSE_MAPPED_MMU_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/level.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"
#include "tdp/rmap/rmap_list.h"
#include "tdp/rmap/slot_rmap.h"

namespace tdp {

// Leaves of `mmu` are installed and taken away through this object alone; everything else is asked
// of `mmu` itself.
//
// An entry and its place in the reverse map change together, so faults hold the lock of the head
// (`SlotRmap::Hold`, one for each table) while they put a leaf into its entry or take it out:
// faults in two tables do not meet. docs/locking.md, "With a reverse map", has the timeline.
// Structural operations have the writer's side and need no more.
//
// Invariants, where no fault holds a lock: a leaf is in the reverse map of its frame and level,
// once; nothing else is.
class ReverseMappedMmu {
 public:
  explicit ReverseMappedMmu(DirectMmu& mmu) : mmu_(mmu) {}
  // The tables are gone or going, so heads are forgotten, not taken out entry by entry.
  ~ReverseMappedMmu() { ForgetAll(); }

  ReverseMappedMmu(const ReverseMappedMmu&) = delete;
  ReverseMappedMmu& operator=(const ReverseMappedMmu&) = delete;

  // --- Slots: under the slots mutex, and the writer's side where it says so ---

  // Makes the reverse map for a slot that is about to be published.
  static absl::StatusOr<std::shared_ptr<SlotRmap>> MakeRmap(const MemorySlot& slot);
  // Puts `rmap` (null: none) in the place of slot `id`, whose leaves are gone. Writer's side.
  void SetRmap(uint32_t id, std::shared_ptr<SlotRmap> rmap);

  // --- Readers' side ---

  // Returns the reverse map of a slot that was looked up after the change sequence that the section
  // checked.
  const std::shared_ptr<SlotRmap>& RmapOf(const MemorySlot& slot) const {
    AssertInSection();
    return rmaps_[slot.id];
  }

  // Puts the 4 KiB `leaf` of `gfn`, a frame of `rmap`'s slot, where `memo`, which is near, leads
  // to, if a hole is there and the map has been prepared for it. False leaves everything as it is.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool FillHole(Gfn gfn, EptEntry leaf, SlotRmap& rmap,
                                             const LeafMemo& memo) {
    const SlotRmap::Hold hold(rmap, gfn, kLevel4K);
    if (ABSL_PREDICT_FALSE(!hold.is_there())) return false;
    if (ABSL_PREDICT_FALSE(!mmu_.FillHoleNear(gfn, kLevel4K, leaf, memo))) return false;
    NotePlace(memo.entry(gfn, kLevel4K), hold);
    return true;
  }
  // Does what `DirectMmu::Map` does for a frame of `rmap`'s slot, which has been prepared for it. A
  // large leaf that stands where a smaller one is asked for is dropped, not split: `flush_owed`
  // says so, and the clock has to move before the section ends, so that whoever finds the hole
  // finds the debt.
  MapResult Map(const LeafRequest& request, SlotRmap& rmap, LeafMemo& memo, TableCache& cache);

  // --- Writer's side ---

  // Takes every leaf that touches [first, end) away, one by one, and what `DirectMmu::Detach` finds
  // then: tables without leaves. Returns whether anything was there.
  bool Detach(Gfn first, Gfn end, TableCache& spare, TableList& detached);
  // Takes W from every leaf that touches [first, end), one by one. Returns whether any had it.
  bool WriteProtect(Gfn first, Gfn end);
  // Empties every head, where every table is being detached at once.
  void ForgetAll();

  // Returns Internal, saying which entry, if an invariant does not hold. Writer's side.
  absl::Status CheckInvariants() const;
  // Returns the bytes of the reverse maps.
  size_t bytes() const;

 private:
  // Each frame of an address space is mapped at one place, so no chain ever comes to be.
  struct NoPlaces {
    RmapPlace& operator()(uint64_t* entry) const;
  };
  using Leaves = RmapList<NoPlaces>;

  MapOutcome SetLeaf(const EntryPosition& at, EptEntry old, const LeafRequest& request,
                     SlotRmap& rmap, LeafMemo& memo, TableCache& cache);
  // Notes that the leaf of the head stands at `leaf` now. A descriptor is needed for a second entry
  // alone, and there is none.
  static void NotePlace(EntryRef leaf, const SlotRmap::Hold& hold) {
    TDP_CHECK(hold.head().is_empty());
    hold.head() = RmapHead::Single(leaf.where());
  }
  bool DropLarge(const EntryPosition& at, EptEntry old, Gfn gfn, SlotRmap& rmap);
  // Calls `visit(head)` for the heads of all leaves that touch [first, end).
  template <typename Visit>
  void ForEachHead(Gfn first, Gfn end, Visit visit) const;

  DirectMmu& mmu_;
  std::vector<std::shared_ptr<SlotRmap>> rmaps_;  // by slot id
};

}  // namespace tdp

#endif  // TDP_MMU_REVERSE_MAPPED_REVERSE_MAPPED_MMU_H_
