// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Looking slots up while they change.

#ifndef TDP_MEMSLOT_SLOT_READER_H_
#define TDP_MEMSLOT_SLOT_READER_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/optimization.h"
#include "absl/functional/function_ref.h"
#include "tdp/base/address.h"
#include "tdp/base/host_range.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/interval_tree.h"
#include "tdp/memslot/large_page_permits.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_set.h"

namespace tdp {

// Looks slots up for one vCPU or thread; the set must outlive it. It never locks, waits or
// allocates, and the set does not know of it: a lookup works on a copy of what it read, and starts
// over in the rare case that a change was published in between.
class alignas(64) SlotReader {
 public:
  explicit SlotReader(const SlotSet& set) : set_(set) {}
  SlotReader(const SlotReader&) = delete;
  SlotReader& operator=(const SlotReader&) = delete;

  // Returns the slot that holds `gfn`, or null for a hole. It may be `invalid`: going away or
  // moving. The result is this reader's own copy and stands until its next call. `address_space` is
  // one that the VM offers.
  const MemorySlot* Find(AddressSpaceId address_space, Gfn gfn) {
    answer_generation_ = set_.generation(address_space);
    // No two address spaces ever have the same generation, so the compare answers for both.
    if (ABSL_PREDICT_TRUE(answer_generation_ == hit_generation_ && hit_.Contains(gfn))) {
      return &hit_;
    }
    return Search(address_space, gfn);
  }

  // Returns what `Find` would answer if it is what it answered last; else null, and nothing has
  // changed.
  const MemorySlot* LastHit(AddressSpaceId address_space, Gfn gfn) const {
    const bool same = set_.generation(address_space) == hit_generation_ && hit_.Contains(gfn);
    return ABSL_PREDICT_TRUE(same) ? &hit_ : nullptr;
  }

  // Looks `gfn` up anew and returns whether it lies in a slot without flags that is not going away;
  // `HvaOfPlain` then says what stands behind it. `sequence` is the caller's, read before: a number
  // that moves after each change of the slots. Touches `MemorySlot::state`, so call it inside a
  // section.
  bool FindPlain(AddressSpaceId address_space, Gfn gfn, uint64_t sequence);
  // Returns whether `gfn` lies in the slot of the last `FindPlain`, of this address space and
  // `sequence`.
  bool IsInPlain(Gfn gfn, uint64_t sequence) const {
    return gfn - plain_.base < plain_.pages && plain_.sequence == sequence;
  }
  uint64_t plain_sequence() const { return plain_.sequence; }
  Hva HvaOfPlain(Gfn gfn) const { return Hva(gfn.address().raw() + plain_.to_hva); }
  // Returns whether a leaf of 2 MiB may map `gfn`. Ask only where `MemorySlot::state` may be
  // touched.
  bool IsLargeInPlain(Gfn gfn) const {
    return gfn - plain_.large.first < plain_.large.pages &&
           ABSL_PREDICT_TRUE(!plain_.permits->is_tracking());
  }
  // Forgets the slot of the last `FindPlain`: the next question is about another address space.
  void ForgetPlain() { plain_ = Plain(); }

  // Returns the slot that holds `gfn`, or the next one below it if `gfn` is in a hole; null if
  // there is none.
  const MemorySlot* FindAtOrBelow(AddressSpaceId address_space, Gfn gfn);

  // Returns the generation of the slots that the last `Find` answered from: keep it with an MMIO
  // entry.
  uint64_t generation() const { return answer_generation_; }

  // Calls `visit(slot, first, pages)` for the part of each slot that `range` of host memory backs,
  // in no order. A slot that stands during the whole call is visited; one that comes or goes
  // meanwhile may be.
  void ForEachInHostRange(
      HostRange range,
      absl::FunctionRef<void(const MemorySlot& slot, Gfn first, PageCount pages)> visit) const;

 private:
  // No generation has this value: all its bits are set.
  static constexpr uint64_t kNoGeneration = ~uint64_t{0};

  // Holds what `FindPlain` has found, for as long as `sequence` stands.
  struct Plain {
    Gfn base;
    PageCount pages;  // none: nothing was found yet
    uint64_t sequence = kNoGeneration;
    uint64_t to_hva = 0;
    LargePagePermits::Frames large;  // where all that may forbid a leaf of 2 MiB is in `permits`
    const LargePagePermits* permits = nullptr;
  };

  // Holds all slots of an address space, where they are few: they are found without a look at nodes
  // that a writer may fill again. `generation` names the address space, too.
  struct Few {
    static constexpr size_t kMost = 32;

    // Nothing is set but the generation: most readers never come to a copy.
    Few() {}  // NOLINT(modernize-use-equals-default)

    // Returns the last that begins at or below `gfn`, or the first if none does. No branch depends
    // on it, and the steps are written out, since compilers keep a small loop.
    const MemorySlot& At(Gfn gfn) const { return slots[LastOf<16, 8, 4, 2, 1>(gfn.raw())]; }
    template <size_t... kSteps>
    size_t LastOf(uint64_t gfn) const {
      static_assert((kSteps + ...) + 1 == kMost);
      size_t at = 0;
      ((at = bases[at + kSteps] <= gfn ? at + kSteps : at), ...);
      return at;
    }

    uint64_t generation = kNoGeneration;
    std::array<uint64_t, kMost> bases;  // ascending; those beyond the last are no frame's
    union {
      std::array<MemorySlot, kMost> slots;
    };
  };

  const MemorySlot* Search(AddressSpaceId address_space, Gfn gfn);
  const MemorySlot* SearchTree(AddressSpaceId address_space, Gfn gfn);
  const MemorySlot* CopyFew(AddressSpaceId address_space);
  bool CopySlots(AddressSpaceId address_space, uint64_t generation);
  // Finds the cell of the slot at or below `gfn`, from one generation. Returns false if there is
  // none.
  bool FindCell(AddressSpaceId address_space, Gfn gfn, internal::IntervalCell* cell);
  const MemorySlot* Keep(const internal::IntervalCell& cell);
  bool FindHostSlot(HostRange range, uint64_t min_key, internal::IntervalCell* cell) const;

  const SlotSet& set_;
  Plain plain_;
  uint64_t answer_generation_ = kNoGeneration;
  uint64_t hit_generation_ = kNoGeneration;
  MemorySlot hit_;
  // Counts searches of the tree. One copy costs as much as 32 of them, and is tried once in as
  // many, once for a generation.
  uint32_t searches_ = 0;
  uint64_t copied_generation_ = kNoGeneration;
  Few few_;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_READER_H_
