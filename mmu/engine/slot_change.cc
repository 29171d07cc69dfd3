// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/slot_change.h"

#include <memory>
#include <utility>

#include "absl/status/statusor.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {

absl::StatusOr<std::shared_ptr<SlotRmap>> MakeRmap(Engine& engine, SlotChange kind,
                                                   const MemorySlot& slot) {
  if (!Brings(kind)) return std::shared_ptr<SlotRmap>();
  return engine.space(slot.address_space).MakeRmap(slot);
}

// Logging may have been switched on or off, or neither. W goes wherever it is on now.
bool ProtectForLog(Engine& engine, const MemorySlot& slot, bool logged, TableList& detached) {
  AssertWriting(engine.mmu_lock());
  AddressSpace& space = engine.space(slot.address_space);
  const FrameRange range{slot.base, slot.end()};
  bool any = false;
  if (slot.logs_dirty_pages() != logged) any = space.DetachRaising(range, detached);
  if (slot.logs_dirty_pages()) any |= space.WriteProtect(range);
  return any;
}

uint64_t SettledGeneration(const Engine& engine, AddressSpaceId space) {
  return engine.slots().generation(space) & ~kSlotUpdateInProgress;
}

bool DetachOldMmio(Engine& engine, AddressSpaceId space, uint64_t before, TableList& detached) {
  AssertWriting(engine.mmu_lock());
  return !EptEntry::TellsApart(before, engine.slots().generation(space)) &&
         engine.space(space).DetachMmio(detached);
}

namespace {

// Sets the reverse map of a slot that comes: no fault sees the slot before it has one.
void SetRmap(Engine& engine, const MemoryRegion& region, const std::shared_ptr<SlotRmap>& rmap) {
  if (rmap == nullptr) return;
  const MmuWriteSection section(engine.mmu_lock());
  engine.space(region.address_space).SetRmap(region.slot, rmap);
}

// Takes away what is mapped of a slot that goes, or is on its way to the place that `rmap` is for.
// Faults that saw it valid cannot install after this, and nothing they had installed is left.
void ZapSlot(Engine& engine, const MemorySlot& slot, const std::shared_ptr<SlotRmap>& rmap) {
  // This pays for what others had taken out of the slot before, too: the D bits of their tables go
  // to the log while the slot still stands where those tables say.
  const auto replace_rmap = [&] { engine.space(slot.address_space).SetRmap(slot.id, rmap); };
  engine.ZapSlot(slot, replace_rmap).Settle();
  // A log that moves with its slot has every page by now.
  engine.clock().WaitForReclaims();
}

void PublishSlot(Engine& engine, SlotUpdate& update) {
  const SlotChange kind = update.kind();
  const MemorySlot& slot = update.new_slot();
  const bool logged = update.old_slot().logs_dirty_pages();
  const AddressSpaceId space =
      kind == SlotChange::kDelete ? update.old_slot().address_space : slot.address_space;
  const uint64_t generation = SettledGeneration(engine, space);
  if (slot.logs_dirty_pages()) engine.logging().Add();
  // The old state lives until faults that may still use it are over: until the section has been.
  const std::unique_ptr<SlotState> retired = engine.slots().Publish(std::move(update));
  PendingFlush flush;
  {
    MmuWriteSection section(engine.mmu_lock());
    engine.sequence().Move();
    TableList detached;
    bool any = kind == SlotChange::kFlagsOnly && ProtectForLog(engine, slot, logged, detached);
    any |= DetachOldMmio(engine, space, generation, detached);
    flush = engine.clock().AdvanceIf(any);
    if (!detached.empty()) engine.clock().Retire(std::move(detached), flush);
  }
  if (logged) engine.logging().Remove();
  flush.Settle();
}

}  // namespace

absl::Status ChangeSlot(Engine& engine, const MemoryRegion& region,
                        std::shared_ptr<DirtyLog>* deleted_log) {
  MutexLock lock(engine.slots_mutex());
  absl::StatusOr<SlotUpdate> prepared = engine.slots().Prepare(region);
  if (!prepared.ok()) return std::move(prepared).status();
  SlotUpdate& update = *prepared;
  TDP_ASSIGN_OR_RETURN(std::shared_ptr<SlotRmap> rmap,
                       MakeRmap(engine, update.kind(), update.new_slot()));
  const SlotChange kind = update.kind();
  const MemorySlot& old = update.old_slot();
  if (deleted_log != nullptr && old.state != nullptr && old.state->dirty_log() != nullptr) {
    *deleted_log = old.state->shared_log();
  }
  switch (kind) {
    case SlotChange::kNone:
      return absl::OkStatus();  // whoever made it so has settled: under the mutex
    case SlotChange::kDelete:
    case SlotChange::kMove:
      engine.slots().PublishInvalid(update);
      ZapSlot(engine, old, rmap);
      break;
    case SlotChange::kCreate:
      SetRmap(engine, region, rmap);
      break;
    case SlotChange::kFlagsOnly:
      break;
  }
  // Counts the quotas that the new slot allows before there can be a fault in it, and the lower
  // ones without the old slot when that is gone.
  if (Brings(kind)) {
    engine.ChangeQuotas([&](MemoryQuotas& quotas) { quotas.AddSlot(update.new_slot()); });
  }
  PublishSlot(engine, update);
  if (TakesAway(kind)) {
    engine.ChangeQuotas([&](MemoryQuotas& quotas) { quotas.RemoveSlot(old); });
    engine.TrimShadows();
  }
  return absl::OkStatus();
}

}  // namespace tdp
