// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Makes, deletes, moves or re-flags a slot: publication of slots and tables together.

#ifndef TDP_MMU_ENGINE_SLOT_CHANGE_H_
#define TDP_MMU_ENGINE_SLOT_CHANGE_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_update.h"
#include "tdp/mmu/engine/engine.h"

namespace tdp {

// Does what `Vm::SetMemoryRegion` promises. Takes the slots mutex; waits for vCPUs to leave the
// guest. `deleted_log` (null: nobody asks) becomes the bitmap of the slot that is deleted, if it
// has one, no later than the slot goes, so that its last writes are in it.
absl::Status ChangeSlot(Engine& engine, const MemoryRegion& region,
                        std::shared_ptr<DirtyLog>* deleted_log = nullptr);

// --- The steps of that, for batches

// Makes the reverse map of a slot that is made or moves; null where none is needed.
// ResourceExhausted without memory.
absl::StatusOr<std::shared_ptr<SlotRmap>> MakeRmap(Engine& engine, SlotChange kind,
                                                   const MemorySlot& slot);

// Protects a slot whose flags show already and that logs now, or opens one that does not log any
// more; `logged` says what it did before. Returns whether anything was taken away. Inside a
// writer's section.
bool ProtectForLog(Engine& engine, const MemorySlot& slot, bool logged, TableList& detached);

// Returns the generation of an address space as it was before the change that is under way, if one
// is.
uint64_t SettledGeneration(const Engine& engine, AddressSpaceId space);

// Takes the entries of MMIO away before their bits say the same of another generation, after the
// generation has gone on from `before`. Returns whether any were there. Inside a writer's section.
bool DetachOldMmio(Engine& engine, AddressSpaceId space, uint64_t before, TableList& detached);

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_SLOT_CHANGE_H_
