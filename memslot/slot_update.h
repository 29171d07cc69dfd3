// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A slot change that has been checked and built, and waits to be published.

#ifndef TDP_MEMSLOT_SLOT_UPDATE_H_
#define TDP_MEMSLOT_SLOT_UPDATE_H_

#include <memory>
#include <utility>

#include "tdp/memslot/interval_tree.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {

class SlotSet;

// Says what a request does to the slot that it names; with `kNone` it asks for what is there.
enum class SlotChange { kNone, kCreate, kDelete, kMove, kFlagsOnly };

// Each returns whether such a change brings a slot to a place, or takes one away; a move does both.
constexpr bool Brings(SlotChange kind) {
  return kind == SlotChange::kCreate || kind == SlotChange::kMove;
}
constexpr bool TakesAway(SlotChange kind) {
  return kind == SlotChange::kDelete || kind == SlotChange::kMove;
}

// `SlotSet::Prepare` makes it, and `SlotSet::Publish` ends it or, on every other path, the
// destructor, which leaves the slots as they were. A set has one at a time.
class SlotUpdate {
 public:
  SlotUpdate(SlotUpdate&& other) noexcept
      : set_(std::exchange(other.set_, nullptr)),
        kind_(other.kind_),
        old_slot_(other.old_slot_),
        new_slot_(other.new_slot_),
        new_state_(std::move(other.new_state_)),
        gfn_root_(other.gfn_root_),
        hva_root_(other.hva_root_),
        invalid_published_(other.invalid_published_) {}
  SlotUpdate& operator=(SlotUpdate&&) = delete;
  ~SlotUpdate() { Abandon(); }

  SlotChange kind() const { return kind_; }

  // Return the slot before and after. There is no `old_slot` for kCreate and no `new_slot` for
  // kDelete (0 pages).
  const MemorySlot& old_slot() const { return old_slot_; }
  const MemorySlot& new_slot() const { return new_slot_; }

  // Returns whether the old slot's mappings must go: publish it as invalid first, zap, then
  // publish.
  bool takes_away() const { return TakesAway(kind_); }

  // Drops the change. If the invalid slot was published, the old one is published again. Does
  // nothing to an update that was published or moved from.
  inline void Abandon();

 private:
  friend class SlotSet;

  explicit SlotUpdate(SlotSet* set, SlotChange kind) : set_(set), kind_(kind) {}

  SlotSet* set_;  // null once ended
  SlotChange kind_;
  MemorySlot old_slot_;
  MemorySlot new_slot_;
  std::unique_ptr<SlotState> new_state_;
  // The two trees of the result. The set keeps what nodes were made for them.
  internal::IntervalRoot gfn_root_;
  internal::IntervalRoot hva_root_;
  bool invalid_published_ = false;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_UPDATE_H_
