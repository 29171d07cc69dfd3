// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/ept_machine.h"

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"

namespace tdp::kernel {

using sim::Event;

absl::Status EptMachine::HandleExit(int cpu) {
  const sim::Exit& exit = host_.cpu(cpu).exit();
  if (exit.event == Event::kKick) return absl::OkStatus();
  if (exit.event != Event::kEptViolation) {
    return absl::InternalError(absl::StrCat("unexpected exit: ", exit.DebugString()));
  }
  const FaultResult result = host_.vcpu(cpu).HandleEptViolation(exit.gpa, exit.qualification);
  if (result.outcome == FaultOutcome::kError) return result.status;
  if (result.outcome == FaultOutcome::kMmio) {
    return absl::InternalError(absl::StrCat("memory was taken for MMIO: ", exit.DebugString()));
  }
  return absl::OkStatus();
}

template <typename Attempt>
absl::Status EptMachine::RunUntilDone(int cpu, Attempt attempt) {
  constexpr int kTries = 64;  // a walk may fault on each of its tables, twice
  for (int i = 0; i < kTries; ++i) {
    Event event = Event::kNone;
    {
      const GuestEntry entry = host_.vcpu(cpu).EnterGuest();
      event = host_.cpu(cpu).Enter(entry.eptp());
      if (event == Event::kNone) event = attempt(host_.cpu(cpu));
    }
    if (event == Event::kNone || sim::IsGuestEvent(event)) return absl::OkStatus();
    TDP_RETURN_IF_ERROR(HandleExit(cpu));
  }
  return absl::InternalError("the CPU exits again and again");
}

absl::Status EptMachine::Start(int cpu, const sim::Registers& registers) {
  host_.cpu(cpu).SetRegisters(registers);
  return RunUntilDone(cpu, [](sim::Cpu& hardware) {
    const bool is_pae = sim::PagingModeOf(hardware.registers()) == sim::PagingMode::kPae;
    return is_pae ? hardware.LoadPdptes() : Event::kNone;
  });
}

absl::StatusOr<AccessOutcome> EptMachine::Access(int cpu, const MachineAccess& access) {
  sim::Registers registers = host_.cpu(cpu).registers();
  if (registers.ac != access.alignment) {
    registers.ac = access.alignment;
    host_.cpu(cpu).SetRegisters(registers);
  }
  AccessOutcome outcome;
  TDP_RETURN_IF_ERROR(RunUntilDone(cpu, [&](sim::Cpu& hardware) {
    sim::AccessRequest request;
    request.gva = access.gva;
    request.kind = access.kind;
    request.accessor = access.user ? sim::Accessor::kUser : sim::Accessor::kSupervisor;
    request.size = access.bytes;
    const sim::AccessResult result = hardware.Access(request);
    if (result.ok()) outcome.value = host_.Perform(result.hpa, access);
    if (result.event == Event::kPageFault) {
      outcome.page_fault = true;
      outcome.error_code = hardware.exit().error_code;
    }
    return result.event;
  }));
  return outcome;
}

absl::Status EptMachine::WriteCr0(int cpu, uint64_t value) {
  return RunUntilDone(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr0(value); });
}

absl::Status EptMachine::WriteCr3(int cpu, uint64_t value) {
  constexpr uint64_t kKeepTranslations = uint64_t{1} << 63;
  if (host_.options().mistake == Mistake::kKeepsOnCr3 &&
      (host_.cpu(cpu).registers().cr4 & sim::kCr4Pcide) != 0) {
    value |= kKeepTranslations;
  }
  return RunUntilDone(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr3(value); });
}

absl::Status EptMachine::WriteCr4(int cpu, uint64_t value) {
  return RunUntilDone(cpu, [value](sim::Cpu& hardware) { return hardware.WriteCr4(value); });
}

absl::Status EptMachine::Invlpg(int cpu, uint64_t gva) {
  if (host_.options().mistake != Mistake::kIgnoresInvlpg) host_.cpu(cpu).Invlpg(Gva(gva));
  return absl::OkStatus();
}

absl::Status EptMachine::Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) {
  if (host_.options().mistake == Mistake::kIgnoresInvpcid) return absl::OkStatus();
  return RunUntilDone(cpu,
                      [&](sim::Cpu& hardware) { return hardware.Invpcid(type, pcid, Gva(gva)); });
}

}  // namespace tdp::kernel
