// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/vm.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/engine/invariants.h"
#include "tdp/mmu/engine/slot_change.h"
#include "tdp/mmu/vm/checks.h"
#include "tdp/mmu/vm/vcpu_impl.h"

namespace tdp {
namespace {

// Returns whether the invalidation has ended: not unless it may, and if some vCPU had to be waited
// for only the caller ends it, as long as faults may still bring the old pages back.
bool Invalidate(Engine& engine, HostRange range, bool end_at_once) {
  bool ended = false;
  engine.StockSpare();
  const auto begin = [&] {
    // The mutex keeps slot changes out: one under way would otherwise miss this, or be missed,
    // since it publishes what it has checked.
    MutexLock slots_lock(engine.slots_mutex());
    return engine.BeginInvalidation(range, end_at_once, ended);
  };
  begin().Settle();
  return ended;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Vm>> Vm::Create(Backend& backend, const VmOptions& options) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<Engine> engine, Engine::Create(backend, options));
  return absl::WrapUnique(new Vm(std::move(engine)));
}

Vm::Vm(std::unique_ptr<Engine> engine) : engine_(std::move(engine)) {}

Vm::~Vm() { TDP_CHECK(engine_->vcpus().is_empty()); }

absl::Status Vm::SetMemoryRegion(const MemoryRegion& region) {
  TDP_ASSIGN_OR_RETURN(const MemoryRegion checked, WithRights(*engine_, region));
  return ChangeSlot(*engine_, checked);
}

// --- vCPUs ---

// The vCPU is made with no lock held, since its first root may have to wait for others; it is seen
// when it is complete. Its destructor gives the id back, here too where something can not be had.
absl::StatusOr<std::unique_ptr<Vcpu>> Vm::CreateVcpu() {
  TDP_ASSIGN_OR_RETURN(const VcpuId id, engine_->vcpus().TakeId());
  auto impl = std::make_unique<VcpuImpl>(*engine_, id);
  TDP_RETURN_IF_ERROR(impl->Start());
  return absl::WrapUnique(new Vcpu(std::move(impl)));
}

// --- Taking mappings away ---

absl::StatusOr<PendingFlush> Vm::ZapRange(Gfn first, PageCount count, AddressSpaceId space) {
  if (ABSL_PREDICT_FALSE(space >= engine_->address_spaces())) return CheckSpace(*engine_, space);
  return engine_->Zap(space, FramesOf(*engine_, first, count, space));
}

absl::StatusOr<PendingFlush> Vm::ZapAll(AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckSpace(*engine_, space));
  return engine_->space(space).ZapAll();
}

absl::Status Vm::InvalidateHostRange(Hva start, ByteCount size) {
  if (ABSL_PREDICT_FALSE(!IsHostRange(start, size))) return CheckHostRange(start, size);
  if (!Invalidate(*engine_, HostRange(start, size), /*end_at_once=*/true)) EndHostInvalidation();
  return absl::OkStatus();
}

absl::Status Vm::BeginHostInvalidation(Hva start, ByteCount size) {
  if (ABSL_PREDICT_FALSE(!IsHostRange(start, size))) return CheckHostRange(start, size);
  Invalidate(*engine_, HostRange(start, size), /*end_at_once=*/false);
  return absl::OkStatus();
}

void Vm::EndHostInvalidation() {
  MmuWriteSection section(engine_->mmu_lock());
  TDP_CHECK(engine_->sequence().in_progress() != 0);
  engine_->sequence().End();
}

// --- Looking ---

absl::StatusOr<Translation> Vm::Translate(Gpa gpa, AddressSpaceId space, ViewId id) {
  TDP_ASSIGN_OR_RETURN(const View* view, FindView(*engine_, id, space));
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

Eptp Vm::eptp(AddressSpaceId space, ViewId view) const {
  return engine_->views(space)[view].mmu().eptp();
}

const VmOptions& Vm::options() const { return engine_->options(); }

VmStats Vm::Stats() const {
  VmStats stats;
  stats.faults = engine_->vcpus().SumStats([](const VcpuImpl* vcpu) { return vcpu->stats(); });
  engine_->AddTo(stats);
  return stats;
}

absl::Status Vm::SetTableQuota(size_t tables) {
  if (tables == 0) return absl::InvalidArgumentError("tables: a quota of 0 leaves no root");
  engine_->SetTableQuota(tables);
  const TablePool& pool = engine_->pool();
  const size_t quota = pool.quota();
  for (size_t taken = pool.taken(); taken > quota; taken = pool.taken()) {
    if (engine_->RecycleTables(taken - quota) == 0) break;
  }
  return absl::OkStatus();
}

// A fault has as many at hand as it could need. Where it needs fewer the rest must not be missing
// from what was promised.
absl::Status Vm::ReserveTables(size_t tables) {
  return engine_->pool().Reserve(tables, TableCache::kFaultMaximum - 1);
}

// A table that a vCPU has noted is kept: its next fault looks at it in no section, as a hint.
ByteCount Vm::ReleaseTableMemory() {
  return engine_->pool().ReleaseBlocks([this](TablePool::Keep keep) {
    engine_->vcpus().ForEach([keep](const VcpuImpl* vcpu) {
      if (const uint64_t* table = vcpu->noted_table()) keep(table);
    });
  });
}

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
