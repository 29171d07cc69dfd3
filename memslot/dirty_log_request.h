// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The checks of the dirty log calls, in KVM's order. All need the slots mutex, as writers of the
// `SlotSet` do.

#ifndef TDP_MEMSLOT_DIRTY_LOG_REQUEST_H_
#define TDP_MEMSLOT_DIRTY_LOG_REQUEST_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/memslot/dirty_pages.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_set.h"

namespace tdp {

// Returns the slot whose log KVM_GET_DIRTY_LOG would read. FailedPrecondition where the VM logs in
// rings; InvalidArgument for an id or address space beyond the limits; NotFound if there is no such
// slot or it keeps no log.
absl::StatusOr<MemorySlot> SlotToGetDirtyLog(const SlotSet& slots, AddressSpaceId address_space,
                                             uint32_t id);

// Returns the slot whose log KVM_CLEAR_DIRTY_LOG would clear. It is checked as above, with
// InvalidArgument for a `first_page` that is no multiple of 64 before NotFound, and for a range
// beyond the slot, or one that ends short of its end on no multiple of 64, after it.
absl::StatusOr<MemorySlot> SlotToClearDirtyLog(const SlotSet& slots, AddressSpaceId address_space,
                                               uint32_t id, const DirtyLogRange& range);

// Returns InvalidArgument unless `flags` are 0, 1 or 3.
absl::Status CheckManualProtectFlags(uint64_t flags);

}  // namespace tdp

#endif  // TDP_MEMSLOT_DIRTY_LOG_REQUEST_H_
