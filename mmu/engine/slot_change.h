// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A slot is made, deleted, moved or flagged anew: publication of slots and tables together.

#ifndef TDP_MMU_ENGINE_SLOT_CHANGE_H_
#define TDP_MMU_ENGINE_SLOT_CHANGE_H_

#include "absl/status/status.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/engine/engine.h"

namespace tdp {

// `Vm::SetMemoryRegion`. Takes the slots mutex; waits for vCPUs to leave the guest.
absl::Status ChangeSlot(Engine& engine, const MemoryRegion& region);

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_SLOT_CHANGE_H_
