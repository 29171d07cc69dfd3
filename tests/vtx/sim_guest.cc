// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tests/vtx/sim_guest.h"

#include <cstring>

#include "tdp/base/check.h"

namespace tdp::vtx {
namespace {

constexpr ByteCount kSimMemory = MiB(32);

sim::CpuFeatures FeaturesOf(const Capabilities& capabilities) {
  sim::CpuFeatures features;
  features.physical_address_bits = capabilities.physical_address_bits;
  features.ept = capabilities.ept;
  features.mbec = capabilities.mbec;
  features.pml = capabilities.pml;
  features.spp = capabilities.spp;
  features.ve = capabilities.ve;
  features.eptp_switching = capabilities.eptp_switching;
  return features;
}

}  // namespace

SimGuest::SimGuest(const MachineOptions& options, const Capabilities& capabilities)
    : memory_(std::make_unique<sim::HostMemory>(sim::HostMemoryOptions{.size = kSimMemory})) {
  sim::SimBackendOptions backend;
  backend.cpu.features = FeaturesOf(capabilities);
  backend_ = std::make_unique<sim::SimBackend>(*memory_, backend);
  CheckOk(memory_->Map(kRam, options.ram, {.order = options.max_order}));
  vm_ = ValueOrDie(Vm::Create(*backend_, options.vm));
  CheckOk(vm_->SetMemoryRegion({.gpa = Gpa(0), .size = options.ram, .hva = kRam}));
  vcpu_ = ValueOrDie(vm_->CreateVcpu());
}

void SimGuest::CopyMemory(Machine& machine, ByteCount bytes) {
  for (Gpa gpa{0}; gpa < Gpa(bytes); gpa = gpa + kPageSize) {
    memcpy(ValueOrDie(memory_->AtHva(HvaOf(gpa))), &machine.At<uint8_t>(gpa), kPageSize);
  }
}

void SimGuest::SetState(const GuestState& state) {
  sim::Registers registers;
  registers.cr0 = state.cr0;
  registers.cr3 = state.cr3;
  registers.cr4 = state.cr4;
  registers.efer = state.efer;
  registers.pdptes = state.pdptes;
  cpu().SetRegisters(registers);
}

bool SimGuest::Store32(Gva gva, uint32_t value) {
  return Access(gva, sim::AccessKind::kStore, 4, &value);
}

bool SimGuest::Repeat(absl::FunctionRef<sim::Event()> attempt) {
  for (;;) {
    sim::Event event;
    {
      GuestEntry entry = vcpu_->EnterGuest();
      TDP_CHECK(cpu().Enter(entry.eptp()) == sim::Event::kNone);
      event = attempt();
    }
    if (event == sim::Event::kNone) return true;
    if (!Answer()) return false;
  }
}

bool SimGuest::Access(Gva gva, sim::AccessKind kind, unsigned size, const void* bytes) {
  return Repeat([&] {
    const sim::AccessResult result = cpu().Access(gva, kind, size);
    if (result.ok() && bytes != nullptr) memcpy(memory_->At(result.hpa), bytes, size);
    return result.event;
  });
}

void SimGuest::TurnPagingOn(Gva rip, uint64_t cr4, uint64_t cr3) {
  TDP_CHECK(Fetch(rip));
  TDP_CHECK(Repeat([&] { return cpu().WriteCr4(cr4); }));
  TDP_CHECK(Repeat([&] { return cpu().WriteCr3(cr3); }));
  TDP_CHECK(Repeat([&] { return cpu().WriteCr0(cpu().registers().cr0 | sim::kCr0Pg); }));
}

// Whether the access is to be tried again.
bool SimGuest::Answer() {
  const sim::Exit& exit = cpu().exit();
  const bool violation = exit.event == sim::Event::kEptViolation;
  TDP_CHECK(violation || exit.event == sim::Event::kEptMisconfiguration);
  const FaultResult result = violation ? vcpu_->HandleEptViolation(exit.gpa, exit.qualification)
                                       : vcpu_->HandleEptMisconfiguration(exit.gpa);
  CheckOk(result.status);
  faults_.push_back({violation ? ExitReason::kEptViolation : ExitReason::kEptMisconfiguration,
                     exit.gpa, exit.qualification, result.outcome});
  return result.outcome != FaultOutcome::kMmio;
}

}  // namespace tdp::vtx
