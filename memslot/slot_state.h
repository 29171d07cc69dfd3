// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds what changes about a slot while the slot stands, its dirty log and its large-page permits;
// and what few ask of it.

#ifndef TDP_MEMSLOT_SLOT_STATE_H_
#define TDP_MEMSLOT_SLOT_STATE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/large_page_permits.h"

namespace tdp {

// Holds what stands behind a slot besides `MemorySlot::hva`, as `MemoryRegion` has it; it never
// changes.
struct SlotBacking {
  std::optional<Hva> private_hva;  // of private frames, if there is memory for them
  Access rights = Access::All();   // of host frames
  MemoryType memory_type = MemoryType::kWriteBack;
  uint64_t cookie = 0;

  friend bool operator==(const SlotBacking&, const SlotBacking&) = default;
};

// The part of a slot that its readers may touch besides the `MemorySlot` itself. Log and permits
// outlive the state where the next one of the same slot carries on with them: a move keeps the
// dirty log, a change of flags the permits. The state itself never changes.
//
// A `SlotSet` makes states and hands the last reference out when the slot changes; the caller frees
// it when no fault can touch it any more.
class SlotState {
 public:
  // With `in_rings` the VM logs dirty pages in rings, and `log` is for pages that no ring has.
  SlotState(std::shared_ptr<LargePagePermits> permits, std::shared_ptr<DirtyLog> log,
            const SlotBacking& backing = {}, bool in_rings = false)
      : permits_(std::move(permits)),
        log_(std::move(log)),
        in_rings_(in_rings),
        backing_(backing) {}

  // Returns the largest level, 1 to `most`, at which a leaf may map `gfn`, a frame of the slot.
  Level MaxLevel(Gfn gfn, Level most = kLevel1G) const { return permits_->MaxLevel(gfn, most); }

  LargePagePermits& permits() const { return *permits_; }

  // Returns what the dirty log calls read. Null if the slot does not log dirty pages, or the VM
  // logs them in rings.
  DirtyLog* dirty_log() const { return in_rings_ ? nullptr : log_.get(); }

  // Returns that log, or with rings the bitmap of those pages that no ring has
  // (`Vm::HarvestDirtyRings`): pages that no vCPU wrote, and what the engine writes for a vCPU
  // whose ring is nearly full. Null if the slot does not log dirty pages.
  DirtyLog* any_log() const { return log_.get(); }

  const SlotBacking& backing() const { return backing_; }
  // Returns where the slot's memory for private frames begins, if it has any.
  std::optional<Hva> private_hva() const { return backing_.private_hva; }

  const std::shared_ptr<LargePagePermits>& shared_permits() const { return permits_; }
  const std::shared_ptr<DirtyLog>& shared_log() const { return log_; }

  // Returns memory in use, this object included.
  size_t bytes() const {
    return sizeof(*this) + permits_->bytes() + (log_ == nullptr ? 0 : log_->bytes());
  }

 private:
  std::shared_ptr<LargePagePermits> permits_;
  std::shared_ptr<DirtyLog> log_;
  const bool in_rings_;
  const SlotBacking backing_;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_STATE_H_
