// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm.h"

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/engine/dirty_push.h"
#include "tdp/mmu/engine/dirty_round.h"
#include "tdp/mmu/engine/invariants.h"

namespace tdp {

absl::StatusOr<std::unique_ptr<Vm>> Vm::Create(Backend& backend, const VmOptions& options) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Create(backend, options));
  return absl::WrapUnique(new Vm(std::move(engine)));
}

Vm::Vm(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

Vm::~Vm() { TDP_CHECK(engine_->vcpus().is_empty()); }

absl::Status Vm::CheckSpace(AddressSpaceId space) const {
  if (space < engine_->address_spaces()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("address space %u: the VM has %u", space, engine_->address_spaces()));
}

// --- Slots
// ----------------------------------------------------------------------------------------

absl::Status Vm::SetMemoryRegion(const MemoryRegion& region) {
  MutexLock lock(engine_->slots_mutex());
  TDP_ASSIGN_OR_RETURN(SlotUpdate update, engine_->slots().Prepare(region));
  TDP_ASSIGN_OR_RETURN(std::shared_ptr<SlotRmap> rmap, MakeRmap(update));
  const SlotChange kind = update.kind();
  const MemorySlot old = update.old_slot();
  switch (kind) {
    case SlotChange::kNone:
      return absl::OkStatus();  // whoever made it so has settled: under the mutex
    case SlotChange::kDelete:
    case SlotChange::kMove:
      engine_->slots().PublishInvalid(update);
      ZapSlot(old, rmap);
      break;
    case SlotChange::kCreate:
      SetRmap(region, rmap);
      break;
    case SlotChange::kFlagsOnly:
      break;
  }
  // The quotas that the new slot allows before there can be a fault in it, the lower ones without
  // the old one when it is gone.
  if (kind == SlotChange::kCreate || kind == SlotChange::kMove) {
    engine_->ChangeQuotas([&](MemoryQuotas& quotas) { quotas.AddSlot(update.new_slot()); });
  }
  PublishSlot(std::move(update));
  if (kind == SlotChange::kDelete || kind == SlotChange::kMove) {
    engine_->ChangeQuotas([&](MemoryQuotas& quotas) { quotas.RemoveSlot(old); });
    engine_->TrimShadows();
  }
  return absl::OkStatus();
}

// Null where none is needed: the VM keeps no reverse map, or no slot comes to a place.
absl::StatusOr<std::shared_ptr<SlotRmap>> Vm::MakeRmap(const SlotUpdate& update) const {
  const bool comes = update.kind() == SlotChange::kCreate || update.kind() == SlotChange::kMove;
  if (!comes || !KeepsReverseMap(engine_->paging_kind())) return std::shared_ptr<SlotRmap>();
  return ReverseMappedMmu::MakeRmap(update.new_slot());
}

// Of a slot that comes: no fault sees it before it has its reverse map.
void Vm::SetRmap(const MemoryRegion& region, const std::shared_ptr<SlotRmap>& rmap) {
  if (rmap == nullptr) return;
  const MmuWriteSection section(engine_->mmu_lock());
  engine_->space(region.address_space).SetRmap(region.slot, rmap);
}

// Of a slot that goes, or is on its way to the place that `rmap` is for. Faults that saw it valid
// cannot install after this, and nothing they had installed is left.
void Vm::ZapSlot(const MemorySlot& slot, const std::shared_ptr<SlotRmap>& rmap) {
  // This pays for what others had taken out of the slot before, too: the D bits of their tables go
  // to the log while the slot still stands where those tables say.
  const auto replace_rmap = [&] { engine_->space(slot.address_space).SetRmap(slot.id, rmap); };
  engine_->ZapSlot(slot, replace_rmap).Settle();
  // A log that moves with its slot has every page by now.
  engine_->clock().WaitForReclaims();
}

void Vm::PublishSlot(SlotUpdate update) {
  const SlotChange kind = update.kind();
  const MemorySlot slot = update.new_slot();
  const bool logged = update.old_slot().logs_dirty_pages();
  const AddressSpaceId space =
      kind == SlotChange::kDelete ? update.old_slot().address_space : slot.address_space;
  const uint64_t generation = engine_->slots().generation(space) & ~kSlotUpdateInProgress;
  if (slot.logs_dirty_pages()) engine_->logging().Add();
  // The old state lives until faults that may still use it are over: until the section has been.
  const std::unique_ptr<SlotState> retired = engine_->slots().Publish(std::move(update));
  PendingFlush flush;
  {
    MmuWriteSection section(engine_->mmu_lock());
    engine_->sequence().Move();
    TableList detached;
    bool any = kind == SlotChange::kFlagsOnly && ProtectForLog(slot, logged, detached);
    // Before their bits say the same of another generation.
    if (!EptEntry::TellsApart(generation, engine_->slots().generation(space))) {
      any |= engine_->space(space).DetachMmio(detached);
    }
    flush = engine_->clock().AdvanceIf(any);
    engine_->clock().Retire(std::move(detached), flush);
  }
  if (logged) engine_->logging().Remove();
  flush.Settle();
}

// Logging was switched on or off, or neither.
bool Vm::ProtectForLog(const MemorySlot& slot, bool logged, TableList& detached) {
  AddressSpace& space = engine_->space(slot.address_space);
  const FrameRange range{slot.base, slot.end()};
  bool any = false;
  if (slot.logs_dirty_pages() != logged) any = space.DetachRaising(range, detached);
  if (slot.logs_dirty_pages()) any |= space.WriteProtect(range);
  return any;
}

// --- vCPUs
// ----------------------------------------------------------------------------------------

// The vCPU is made with no lock held, since its first root may have to wait for others; it is seen
// when it is complete. Its destructor gives the id back, here too where something can not be had.
absl::StatusOr<std::unique_ptr<Vcpu>> Vm::CreateVcpu() {
  TDP_ASSIGN_OR_RETURN(const VcpuId id, engine_->vcpus().TakeId());
  auto vcpu = absl::WrapUnique(new Vcpu(*engine_, id));
  TDP_ASSIGN_OR_RETURN(vcpu->dirty_ring_, engine_->vcpus().TakeRing());
  vcpu->window_.SetDirtyRing(vcpu->dirty_ring_.get());
  TDP_RETURN_IF_ERROR(vcpu->StartShadows());
  engine_->vcpus().Add(id, vcpu.get(), vcpu->dirty_ring());
  return vcpu;
}

// --- Taking mappings away
// -------------------------------------------------------------------------

absl::StatusOr<PendingFlush> Vm::ZapRange(Gfn first, PageCount count, AddressSpaceId space) {
  TDP_ASSIGN_OR_RETURN(const FrameRange range, CheckFrames(first, count, space));
  return engine_->Zap(space, range.first, range.end);
}

absl::StatusOr<PendingFlush> Vm::ZapAll(AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(space));
  return engine_->space(space).ZapAll();
}

absl::Status Vm::CheckHostRange(Hva start, ByteCount size) const {
  if (!start.is_page_aligned()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("start 0x%x is not page aligned", start.raw()));
  }
  if (size == 0 || size % kPageSize != 0 || start.raw() + size - 1 < start.raw()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("size 0x%x from start 0x%x: must be whole pages, not none, and not wrap",
                        size, start.raw()));
  }
  return absl::OkStatus();
}

absl::Status Vm::InvalidateHostRange(Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(BeginHostInvalidation(start, size));
  EndHostInvalidation();
  return absl::OkStatus();
}

absl::Status Vm::BeginHostInvalidation(Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckHostRange(start, size));
  PendingFlush flush;
  {
    // A slot change under way would otherwise miss this, or be missed: it publishes what it has
    // checked.
    MutexLock slots_lock(engine_->slots_mutex());
    flush = engine_->BeginInvalidation(HostRange(start, size));
  }
  flush.Settle();
  return absl::OkStatus();
}

void Vm::EndHostInvalidation() {
  MmuWriteSection section(engine_->mmu_lock());
  TDP_CHECK(engine_->sequence().in_progress() != 0);
  engine_->sequence().End();
}

// --- Dirty logging
// --------------------------------------------------------------------------------

absl::StatusOr<MemorySlot> Vm::LoggingSlot(uint32_t slot, AddressSpaceId space) const {
  TDP_RETURN_IF_ERROR(CheckSpace(space));
  const std::optional<MemorySlot> found = engine_->slots().FindById(space, slot);
  if (!found || found->state->any_log() == nullptr) {
    return absl::NotFoundError(
        absl::StrFormat("slot %u of address space %u does not log dirty pages", slot, space));
  }
  return *found;
}

absl::Status Vm::TakeDirtyLog(uint32_t slot, DirtyLog::Visitor visit, AddressSpaceId space) {
  MutexLock lock(engine_->slots_mutex());
  if (engine_->slots().dirty_bitmap_policy() == DirtyBitmapPolicy::kRings) {
    return absl::FailedPreconditionError("the VM logs dirty pages in rings, not in bitmaps");
  }
  TDP_ASSIGN_OR_RETURN(const MemorySlot found, LoggingSlot(slot, space));
  return TakeFrom(found, visit);
}

absl::Status Vm::TakeFrom(const MemorySlot& slot, DirtyLog::Visitor visit) {
  std::vector<std::pair<uint64_t, uint64_t>> taken;
  DirtyRound round(*engine_, slot);
  round.Gather();
  const absl::Status status = slot.state->dirty_log()->Take([&](uint64_t base, uint64_t mask) {
    round.Rearm(base, mask);
    taken.emplace_back(base, mask);
  });
  round.Finish();
  for (const auto& [base, mask] : taken) visit(base, mask);
  return status;
}

absl::Status Vm::PushDownDirtyLog(uint32_t slot, AddressSpaceId space) {
  MutexLock lock(engine_->slots_mutex());
  TDP_ASSIGN_OR_RETURN(const MemorySlot found, LoggingSlot(slot, space));
  return DirtyPush(*engine_, found).Run();
}

// --- Looking
// --------------------------------------------------------------------------------------

absl::StatusOr<Translation> Vm::Translate(Gpa gpa, AddressSpaceId space, ViewId id) {
  TDP_ASSIGN_OR_RETURN(const View* view, FindView(id, space));
  if (gpa >= engine_->guest_end()) {
    return absl::InvalidArgumentError(absl::StrFormat("gpa 0x%x is beyond the guest's width (0x%x)",
                                                      gpa.raw(), engine_->guest_end().raw()));
  }
  MmuLock::Reader reader(engine_->mmu_lock());
  MmuReadSection section(reader);
  const Translation found = view->mmu().Walk(Gfn::Of(gpa));
  if (found.is_mapped()) return found;
  return absl::NotFoundError(absl::StrFormat("gpa 0x%x is not mapped", gpa.raw()));
}

VmStats Vm::Stats() const {
  VmStats stats;
  stats.faults = engine_->vcpus().SumStats([](const Vcpu* vcpu) { return vcpu->stats(); });
  engine_->AddTo(stats);
  return stats;
}

absl::Status Vm::SetTableQuota(size_t tables) {
  if (tables == 0) return absl::InvalidArgumentError("tables: a quota of 0 leaves no root");
  engine_->FixTableQuota(tables);
  for (size_t taken = engine_->pool().taken(); taken > tables; taken = engine_->pool().taken()) {
    if (engine_->RecycleTables(taken - tables) == 0) break;
  }
  return absl::OkStatus();
}

absl::Status Vm::ReserveTables(size_t tables) { return engine_->pool().Reserve(tables); }

ByteCount Vm::ReleaseTableMemory() { return engine_->pool().ReleaseBlocks(); }

absl::Status Vm::CheckInvariants() {
  std::vector<MappedLeaf> leaves;
  uint64_t sequence;
  {
    MutexLock slots_lock(engine_->slots_mutex());
    MmuWriteSection section(engine_->mmu_lock());
    sequence = engine_->sequence().Current();
    TDP_RETURN_IF_ERROR(CheckEngineInvariants(*engine_, leaves));
  }
  return CheckHostFrames(*engine_, leaves, sequence);
}

}  // namespace tdp
