// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The page tables of this guest are shadowed: the CPU runs on tables of the engine's, and the
// guest's faults, invalidations and loads of control registers come to the engine.

#include <cstddef>
#include <cstring>
#include <memory>
#include <vector>

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tests/kernel/guest_machine.h"

namespace tdp::kernel {
namespace {

MachineOptions Shadowed(MachineOptions options) {
  options.vm.paging = Paging::kShadow;
  return options;
}

absl::Status NoEvent(const absl::StatusOr<GuestEvent>& event) {
  TDP_RETURN_IF_ERROR(event.status());
  if (*event == GuestEvent::kNone) return absl::OkStatus();
  return absl::InternalError("a legal instruction of the guest ended in #GP");
}

class ShadowMachine : public GuestMachine {
 public:
  explicit ShadowMachine(const MachineOptions& options)
      : GuestMachine(Shadowed(options)), guests_(static_cast<size_t>(options.cpus)) {}

  absl::Status Start(int cpu, const sim::Registers& registers) override {
    return SetPaging(cpu, registers);
  }

  absl::StatusOr<AccessOutcome> Access(int cpu, const MachineAccess& access) override {
    AccessOutcome outcome;
    SetAlignment(cpu, access.alignment);
    absl::StatusOr<bool> is_done = true;
    const auto answer = [&](const sim::Exit& exit) {
      is_done = HandleFault(cpu, exit, access, outcome);
      return is_done.ok() && !*is_done;
    };
    if (!Run(
            cpu, [&] { return Try(cpu, access, outcome).event; }, answer)) {
      return absl::InternalError("the CPU faults again and again: " +
                                 SimWorld::cpu(cpu).exit().DebugString());
    }
    TDP_RETURN_IF_ERROR(is_done.status());
    return outcome;
  }

  absl::Status WriteCr0(int cpu, uint64_t value) override {
    sim::Registers registers = guest(cpu);
    registers.cr0 = value;
    return SetPaging(cpu, registers);
  }

  absl::Status WriteCr3(int cpu, uint64_t value) override {
    constexpr uint64_t kKeepTranslations = uint64_t{1} << 63;
    const bool pcids = (guest(cpu).cr4 & sim::kCr4Pcide) != 0;
    if (pcids && Makes(Mistake::kKeepsOnCr3)) value |= kKeepTranslations;
    TDP_RETURN_IF_ERROR(NoEvent(shadow(cpu).WriteCr3(value)));
    guest(cpu).cr3 = pcids ? value & ~kKeepTranslations : value;
    return absl::OkStatus();
  }

  absl::Status WriteCr4(int cpu, uint64_t value) override {
    sim::Registers registers = guest(cpu);
    registers.cr4 = value;
    return SetPaging(cpu, registers);
  }

  absl::Status Invlpg(int cpu, uint64_t gva) override {
    if (Makes(Mistake::kIgnoresInvlpg)) return absl::OkStatus();
    return shadow(cpu).Invlpg(Gva(gva));
  }

  absl::Status Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) override {
    if (Makes(Mistake::kIgnoresInvpcid)) return absl::OkStatus();
    return NoEvent(shadow(cpu).Invpcid(static_cast<uint64_t>(type), pcid, Gva(gva)));
  }

 private:
  // Returns the registers as the guest sees them.
  sim::Registers& guest(int cpu) { return guests_[static_cast<size_t>(cpu)]; }
  ShadowVcpu& shadow(int cpu) { return *vcpu(cpu).shadow(); }
  // Sets the shadow's registers and, if it takes them, the guest's.
  absl::Status SetPaging(int cpu, const sim::Registers& registers) {
    const GuestControls controls = {
        .cr0 = registers.cr0,
        .cr4 = registers.cr4,
        .efer = registers.efer,
        .physical_address_bits = SimWorld::cpu(cpu).features().physical_address_bits,
        .pages_1g = true};
    TDP_RETURN_IF_ERROR(NoEvent(shadow(cpu).SetPaging(controls, registers.cr3)));
    guest(cpu) = registers;
    return absl::OkStatus();
  }

  absl::StatusOr<bool> HandleFault(int cpu, const sim::Exit& exit, const MachineAccess& access,
                                   AccessOutcome& outcome) {
    if (exit.event != sim::Event::kPageFault) {
      return absl::InternalError("unexpected exit: " + exit.DebugString());
    }
    const bool excused = access.alignment && !access.user;
    const PagingFaultResult fault = shadow(cpu).HandlePageFault(exit.gva, exit.error_code, excused);
    switch (fault.outcome) {
      case PagingOutcome::kFixed:
      case PagingOutcome::kSpurious:
      case PagingOutcome::kRetry:
        return false;
      case PagingOutcome::kGuestFault:
        outcome.page_fault = true;
        outcome.error_code = fault.error_code;
        return true;
      case PagingOutcome::kEmulateWrite:
        TDP_RETURN_IF_ERROR(shadow(cpu).EmulateWrite(
            fault.gpa, access.bytes,
            [&access](std::byte* place) { std::memcpy(place, &access.value, access.bytes); }));
        return true;
      case PagingOutcome::kError:
        return fault.status;
      default:
        return absl::InternalError(absl::StrFormat("%s: unexpected outcome %s", exit.DebugString(),
                                                   PagingOutcomeName(fault.outcome)));
    }
  }

  std::vector<sim::Registers> guests_;
};

}  // namespace

std::unique_ptr<GuestMachine> MakeShadowMachine(const MachineOptions& options) {
  return std::make_unique<ShadowMachine>(options);
}

}  // namespace tdp::kernel
