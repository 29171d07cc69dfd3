// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/world/sim_world.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/backends/sim/page_modification_log.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/format/guest_format.h"

namespace tdp {

SimWorld::SimWorld(const SimWorldOptions& options)
    : oracle_(options.oracle),
      memory_(options.shared_memory != nullptr ? *options.shared_memory
                                               : own_memory_.emplace(options.memory)),
      backend_(memory_, {.cpus = std::max({options.cpus, options.vcpus, 1}),
                         .cpu = options.cpu,
                         .oracle = options.is_watched ? &oracle_ : nullptr}) {
  if (options.is_watched) hook_.emplace(oracle_, memory_);
  vm_ = *Vm::Create(backend_, options.vm);
  const bool is_shadowed = options.vm.paging == Paging::kShadow;
  for (int i = 0; is_shadowed && i < backend_.cpus(); ++i) {
    TDP_CHECK(cpu(i).SetControls({.ept = false}).ok());
  }
  const bool has_pml = options.vm.dirty_tracking == DirtyTracking::kPml;
  for (int i = 0; has_pml && i < backend_.cpus(); ++i) EnablePml(i);
  for (int i = 0; i < options.vcpus; ++i) AddVcpu();
}

void SimWorld::ReplaceVcpu(int i) {
  std::unique_ptr<Vcpu>& vcpu = vcpus_[static_cast<size_t>(i)];
  vcpu.reset();
  vcpu = *vm_->CreateVcpu();
}

absl::Status SimWorld::SetRam(ByteCount size, int order, uint32_t flags) {
  if (order >= 0) TDP_RETURN_IF_ERROR(memory_.Map(kRam, size, {.order = order}));
  return vm_->SetMemoryRegion({.flags = flags, .size = size, .hva = kRam});
}

absl::Status SimWorld::Migrate(Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(vm_->BeginHostInvalidation(start, size));
  oracle_.Settle();
  const absl::Status moved = memory_.Migrate(start, size);
  vm_->EndHostInvalidation();
  return moved;
}

// The log lies in host memory that no slot uses.
void SimWorld::EnablePml(int i) {
  const Hva hva = kRam + TiB(1) + static_cast<uint64_t>(i) * kPageSize;
  TDP_CHECK(memory_.Map(hva, kPageSize).ok());
  pml_.push_back(memory_.Resolve(hva, Access::Write())->hfn.address());
  sim::Controls controls = cpu(i).controls();
  controls.pml = true;
  controls.pml_address = pml_.back();
  TDP_CHECK(cpu(i).SetControls(controls).ok());
}

// Entries above the index were written, the newest last.
absl::Status SimWorld::DrainPml(int i) {
  if (pml_.empty()) return absl::OkStatus();
  constexpr int kLast = sim::kPmlEntries - 1;
  std::vector<Gpa> logged;
  for (int at = kLast; at > static_cast<int16_t>(cpu(i).pml_index()); --at) {
    const Hpa entry = pml_[static_cast<size_t>(i)] + 8 * static_cast<uint64_t>(at);
    logged.push_back(Gpa(memory_.physical().Load(entry.raw())));
  }
  cpu(i).set_pml_index(kLast);
  return vcpu(i).LogPml(logged);
}

void SimWorld::Settle(absl::StatusOr<PendingFlush> flush) {
  TDP_CHECK(flush.ok());
  flush->Settle();
  oracle_.SettleAll();
}

absl::Status SimWorld::Check() {
  if (oracle_.report_count() != 0) {
    return absl::InternalError(
        absl::StrCat("a stale translation was used: ", oracle_.reports()[0].DebugString()));
  }
  return vm_->CheckInvariants();
}

NestedContext NestedOn(Backend& backend, Eptp eptp) {
  NestedContext context;
  context.eptp = eptp;
  context.rules.capabilities = backend.capabilities().ept;
  context.rules.physical_address_bits = backend.capabilities().physical_address_bits;
  context.vpid = 1;
  return context;
}

GuestControls FourLevelPaging() {
  return {.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect | guest::kCr0ProtectionEnable,
          .cr4 = guest::kCr4PhysicalAddressExtension,
          .efer = guest::kEferLongModeActive | guest::kEferLongModeEnable | guest::kEferNoExecute,
          .physical_address_bits = 46};
}

}  // namespace tdp
