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
    : SimWorld({.vm = options.vm,
                .cpu = {.features = FeaturesOf(capabilities)},
                .memory = {.size = kSimMemory},
                .is_watched = false}) {
  CheckOk(SetRam(options.ram, options.max_order));
}

void SimGuest::CopyMemory(Machine& machine, ByteCount bytes) {
  for (Gpa gpa{0}; gpa < Gpa(bytes); gpa = gpa + kPageSize) {
    memcpy(ValueOrDie(memory().AtHva(HvaOf(gpa))), &machine.At<uint8_t>(gpa), kPageSize);
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
  bool is_memory = true;
  const auto answer = [&](const sim::Exit& exit) {
    const bool violation = exit.event == sim::Event::kEptViolation;
    TDP_CHECK(violation || exit.event == sim::Event::kEptMisconfiguration);
    const FaultResult result = AnswerEptExit(vcpu(), exit);
    CheckOk(result.status);
    faults_.push_back({violation ? ExitReason::kEptViolation : ExitReason::kEptMisconfiguration,
                       exit.gpa, exit.qualification, result.outcome});
    is_memory = result.outcome != FaultOutcome::kMmio;
    return is_memory;
  };
  Run(0, attempt, answer, kAnyNumberOfExits);
  return is_memory;
}

bool SimGuest::Access(Gva gva, sim::AccessKind kind, unsigned size, const void* bytes) {
  return Repeat([&] {
    const sim::AccessResult result = cpu().Access(gva, kind, size);
    if (result.ok() && bytes != nullptr) memcpy(memory().At(result.hpa), bytes, size);
    return result.event;
  });
}

void SimGuest::TurnPagingOn(Gva rip, uint64_t cr4, uint64_t cr3) {
  TDP_CHECK(Fetch(rip));
  TDP_CHECK(Repeat([&] { return cpu().WriteCr4(cr4); }));
  TDP_CHECK(Repeat([&] { return cpu().WriteCr3(cr3); }));
  TDP_CHECK(Repeat([&] { return cpu().WriteCr0(cpu().registers().cr0 | sim::kCr0Pg); }));
}

}  // namespace tdp::vtx
