// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Under EPT the guest's page tables are the CPU's first dimension, and the engine sees violations.

#include <memory>

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"
#include "tests/kernel/guest_machine.h"

namespace tdp::kernel {
namespace {

using sim::Event;

class EptMachine : public GuestMachine {
 public:
  using GuestMachine::GuestMachine;

  absl::Status Start(int cpu, const sim::Registers& registers) override {
    SimWorld::cpu(cpu).SetRegisters(registers);
    return Execute(cpu, [](sim::Cpu& hardware) {
      const bool is_pae = sim::PagingModeOf(hardware.registers()) == sim::PagingMode::kPae;
      return is_pae ? hardware.LoadPdptes() : Event::kNone;
    });
  }

  absl::StatusOr<AccessOutcome> Access(int cpu, const MachineAccess& access) override {
    SetAlignment(cpu, access.alignment);
    AccessOutcome outcome;
    TDP_RETURN_IF_ERROR(Execute(cpu, [&](sim::Cpu& hardware) {
      const sim::AccessResult result = Try(cpu, access, outcome);
      if (result.event == Event::kPageFault) {
        outcome.page_fault = true;
        outcome.error_code = hardware.exit().error_code;
      }
      return result.event;
    }));
    return outcome;
  }

  absl::Status WriteCr0(int cpu, uint64_t value) override {
    return Execute(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr0(value); });
  }

  absl::Status WriteCr3(int cpu, uint64_t value) override {
    constexpr uint64_t kKeepTranslations = uint64_t{1} << 63;
    if (Makes(Mistake::kKeepsOnCr3) && (SimWorld::cpu(cpu).registers().cr4 & sim::kCr4Pcide) != 0) {
      value |= kKeepTranslations;
    }
    return Execute(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr3(value); });
  }

  absl::Status WriteCr4(int cpu, uint64_t value) override {
    return Execute(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr4(value); });
  }

  absl::Status Invlpg(int cpu, uint64_t gva) override {
    if (!Makes(Mistake::kIgnoresInvlpg)) SimWorld::cpu(cpu).Invlpg(Gva(gva));
    return absl::OkStatus();
  }

  absl::Status Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) override {
    if (Makes(Mistake::kIgnoresInvpcid)) return absl::OkStatus();
    return Execute(cpu, [&](sim::Cpu& hardware) { return hardware.Invpcid(type, pcid, Gva(gva)); });
  }

 private:
  absl::Status HandleExit(int cpu, const sim::Exit& exit) {
    if (exit.event != Event::kEptViolation) {
      return absl::InternalError(absl::StrCat("unexpected exit: ", exit.DebugString()));
    }
    const FaultResult result = AnswerEptExit(vcpu(cpu), exit);
    if (result.outcome == FaultOutcome::kError) return result.status;
    if (result.outcome == FaultOutcome::kMmio) {
      return absl::InternalError(absl::StrCat("memory was taken for MMIO: ", exit.DebugString()));
    }
    return absl::OkStatus();
  }

  template <typename Attempt>
  absl::Status Execute(int cpu, Attempt attempt) {
    absl::Status status;
    const auto answer = [&](const sim::Exit& exit) {
      if (sim::IsGuestEvent(exit.event)) return false;
      status = HandleExit(cpu, exit);
      return status.ok();
    };
    // A walk may fault on each of its tables, twice.
    const auto once = [&] { return attempt(SimWorld::cpu(cpu)); };
    return Run(cpu, once, answer) ? status : absl::InternalError("the CPU exits again and again");
  }
};

}  // namespace

std::unique_ptr<GuestMachine> MakeEptMachine(const MachineOptions& options) {
  return std::make_unique<EptMachine>(options);
}

}  // namespace tdp::kernel
