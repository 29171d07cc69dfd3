// SPDX-License-Identifier: Apache-2.0
//
// What changes about a slot while the slot stands: its dirty log and its large-page permits.

#ifndef TDP_MEMSLOT_SLOT_STATE_H_
#define TDP_MEMSLOT_SLOT_STATE_H_

#include <cstddef>
#include <memory>
#include <optional>
#include <utility>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/large_page_permits.h"

namespace tdp {

// Both parts outlive the state where the next one of the same slot carries on with them: a move
// keeps the dirty log, a change of flags the permits. The state itself never changes.
//
// A `SlotSet` makes states and hands the last reference out when the slot changes; the caller frees
// it when no fault can touch it any more.
class SlotState {
 public:
  SlotState(std::shared_ptr<LargePagePermits> permits, std::shared_ptr<DirtyLog> dirty_log,
            std::optional<Hva> private_hva = std::nullopt)
      : permits_(std::move(permits)), dirty_log_(std::move(dirty_log)), private_hva_(private_hva) {}

  // The largest level, 1 to 3, at which a leaf may map `gfn`, a frame of the slot.
  Level MaxLevel(Gfn gfn) const { return permits_->MaxLevel(gfn); }

  LargePagePermits& permits() const { return *permits_; }

  // Null if the slot keeps no bitmap: it does not log dirty pages, or the VM logs them in rings.
  DirtyLog* dirty_log() const { return dirty_log_.get(); }

  // Where the slot's memory for private frames begins, if it has any.
  std::optional<Hva> private_hva() const { return private_hva_; }

  const std::shared_ptr<LargePagePermits>& shared_permits() const { return permits_; }
  const std::shared_ptr<DirtyLog>& shared_dirty_log() const { return dirty_log_; }

  // Memory in use, this object included.
  size_t bytes() const {
    return sizeof(*this) + permits_->bytes() + (dirty_log_ == nullptr ? 0 : dirty_log_->bytes());
  }

 private:
  std::shared_ptr<LargePagePermits> permits_;
  std::shared_ptr<DirtyLog> dirty_log_;
  const std::optional<Hva> private_hva_;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_SLOT_STATE_H_
