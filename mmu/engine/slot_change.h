// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A slot is made, deleted, moved or flagged anew: publication of slots and tables together.

#ifndef TDP_MMU_ENGINE_SLOT_CHANGE_H_
#define TDP_MMU_ENGINE_SLOT_CHANGE_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_update.h"
#include "tdp/mmu/engine/engine.h"

namespace tdp {

// `Vm::SetMemoryRegion`. Takes the slots mutex; waits for vCPUs to leave the guest. `deleted_log`
// (null: nobody asks) becomes the bitmap of the slot that is deleted, if it has one: no later than
// the slot goes, so that it is the one in which its last writes are.
absl::Status ChangeSlot(Engine& engine, const MemoryRegion& region,
                        std::shared_ptr<DirtyLog>* deleted_log = nullptr);

// --- The steps of that, for batches

// The reverse map of a slot that is made or moves; null where none is needed. ResourceExhausted.
absl::StatusOr<std::shared_ptr<SlotRmap>> MakeRmap(const Engine& engine, SlotChange kind,
                                                   const MemorySlot& slot);

// Inside a writer's section, of a slot whose flags show already: it logs now, or does not any more,
// and `logged` says what it did before. Returns whether anything was taken away.
bool ProtectForLog(Engine& engine, const MemorySlot& slot, bool logged, TableList& detached);

// The generation of an address space as it was before the change that is under way, if one is.
uint64_t SettledGeneration(const Engine& engine, AddressSpaceId space);

// Inside a writer's section, after the generation has gone on from `before`: takes the entries of
// MMIO away before their bits say the same of another generation. Returns whether any were there.
bool DetachOldMmio(Engine& engine, AddressSpaceId space, uint64_t before, TableList& detached);

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_SLOT_CHANGE_H_
