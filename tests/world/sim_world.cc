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

SimMachine::SimMachine(const SimMachineOptions& options)
    : is_watched_(options.is_watched),
      oracle_(options.oracle),
      memory_(options.shared_memory != nullptr ? *options.shared_memory
                                               : own_memory_.emplace(options.memory)),
      backend_(memory_, {.cpus = options.cpus,
                         .cpu = options.cpu,
                         .oracle = options.is_watched ? &oracle_ : nullptr}) {}

void SimMachine::Reset() {
  for (int i = 0; i < backend_.cpus(); ++i) {
    sim::Cpu& cpu = backend_.cpu(static_cast<VcpuId>(i));
    cpu.SetRegisters(sim::Registers());
    TDP_CHECK(cpu.SetControls(sim::Controls()).ok());
    cpu.set_pml_index(sim::kPmlEntries - 1);
    cpu.set_eptp_index(0);
    cpu.Reset();
  }
  oracle_.Reset();
  backend_.ForgetHooks();
  TDP_CHECK(own_memory_.has_value());
  own_memory_->Reset();
}

SimWorld::SimWorld(const SimWorldOptions& options)
    : own_machine_(options.machine != nullptr
                       ? nullptr
                       : std::make_unique<SimMachine>(
                             SimMachineOptions{.cpus = std::max({options.cpus, options.vcpus, 1}),
                                               .cpu = options.cpu,
                                               .memory = options.memory,
                                               .shared_memory = options.shared_memory,
                                               .is_watched = options.is_watched,
                                               .oracle = options.oracle})),
      machine_(own_machine_ != nullptr ? *own_machine_ : *options.machine) {
  if (options.machine != nullptr) machine_.Reset();
  if (machine_.is_watched()) hook_.emplace(oracle(), memory());
  vm_ = *Vm::Create(backend(), options.vm);
  for (int i = 0; i < backend().cpus(); ++i) {
    if (options.vm.paging == Paging::kShadow) {
      TDP_CHECK(cpu(i).SetControls({.ept = false}).ok());
    }
    if (options.vm.dirty_tracking == DirtyTracking::kPml) EnablePml(i);
  }
  for (int i = 0; i < options.vcpus; ++i) AddVcpu();
}

void SimWorld::ReplaceVcpu(int i) {
  std::unique_ptr<Vcpu>& vcpu = vcpus_[static_cast<size_t>(i)];
  vcpu.reset();
  vcpu = *vm_->CreateVcpu();
}

absl::Status SimWorld::SetRam(ByteCount size, int order, uint32_t flags) {
  if (order >= 0) TDP_RETURN_IF_ERROR(memory().Map(kRam, size, {.order = order}));
  return vm_->SetMemoryRegion({.flags = flags, .size = size, .hva = kRam});
}

absl::Status SimWorld::Migrate(Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(vm_->BeginHostInvalidation(start, size));
  oracle().Settle();
  const absl::Status moved = memory().Migrate(start, size);
  vm_->EndHostInvalidation();
  return moved;
}

// The log lies in host memory that no slot uses.
void SimWorld::EnablePml(int i) {
  const Hva hva = kRam + TiB(1) + static_cast<uint64_t>(i) * kPageSize;
  TDP_CHECK(memory().Map(hva, kPageSize).ok());
  pml_.push_back(memory().Resolve(hva, Access::Write())->hfn.address());
  sim::Controls controls = cpu(i).controls();
  controls.pml = true;
  controls.pml_address = pml_.back();
  TDP_CHECK(cpu(i).SetControls(controls).ok());
}

// The entries above the index were written, the newest last.
absl::Status SimWorld::DrainPml(int i) {
  if (pml_.empty()) return absl::OkStatus();
  constexpr int kLast = sim::kPmlEntries - 1;
  std::vector<Gpa> logged;
  for (int at = kLast; at > static_cast<int16_t>(cpu(i).pml_index()); --at) {
    const Hpa entry = pml_[static_cast<size_t>(i)] + 8 * static_cast<uint64_t>(at);
    logged.push_back(Gpa(memory().physical().Load(entry.raw())));
  }
  cpu(i).set_pml_index(kLast);
  return vcpu(i).LogPml(logged);
}

void SimWorld::Settle(absl::StatusOr<PendingFlush> flush) {
  TDP_CHECK(flush.ok());
  flush->Settle();
  oracle().SettleAll();
}

absl::Status SimWorld::Check() {
  if (oracle().report_count() != 0) {
    return absl::InternalError(
        absl::StrCat("a stale translation was used: ", oracle().reports()[0].DebugString()));
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
