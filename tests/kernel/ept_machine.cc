// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/ept_machine.h"

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"

namespace tdp::kernel {

using sim::Event;

absl::Status EptMachine::HandleExit(int cpu, const sim::Exit& exit) {
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
absl::Status EptMachine::Execute(int cpu, Attempt attempt) {
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

absl::Status EptMachine::Start(int cpu, const sim::Registers& registers) {
  SimWorld::cpu(cpu).SetRegisters(registers);
  return Execute(cpu, [](sim::Cpu& hardware) {
    const bool is_pae = sim::PagingModeOf(hardware.registers()) == sim::PagingMode::kPae;
    return is_pae ? hardware.LoadPdptes() : Event::kNone;
  });
}

absl::StatusOr<AccessOutcome> EptMachine::Access(int cpu, const MachineAccess& access) {
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

absl::Status EptMachine::WriteCr0(int cpu, uint64_t value) {
  return Execute(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr0(value); });
}

absl::Status EptMachine::WriteCr3(int cpu, uint64_t value) {
  constexpr uint64_t kKeepTranslations = uint64_t{1} << 63;
  if (Makes(Mistake::kKeepsOnCr3) && (SimWorld::cpu(cpu).registers().cr4 & sim::kCr4Pcide) != 0) {
    value |= kKeepTranslations;
  }
  return Execute(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr3(value); });
}

absl::Status EptMachine::WriteCr4(int cpu, uint64_t value) {
  return Execute(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr4(value); });
}

absl::Status EptMachine::Invlpg(int cpu, uint64_t gva) {
  if (!Makes(Mistake::kIgnoresInvlpg)) SimWorld::cpu(cpu).Invlpg(Gva(gva));
  return absl::OkStatus();
}

absl::Status EptMachine::Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) {
  if (Makes(Mistake::kIgnoresInvpcid)) return absl::OkStatus();
  return Execute(cpu, [&](sim::Cpu& hardware) { return hardware.Invpcid(type, pcid, Gva(gva)); });
}

}  // namespace tdp::kernel
