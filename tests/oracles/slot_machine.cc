// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/oracles/slot_machine.h"

#include <cstdint>
#include <cstring>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::oracles {
namespace {

sim::HostMemoryOptions MemoryOptions() {
  sim::HostMemoryOptions options;
  options.size = GiB(4);
  return options;
}

}  // namespace

SlotMachine::SlotMachine(DirtyTracking tracking) : tracking_(tracking), memory_(MemoryOptions()) {
  TDP_CHECK(memory_.Map(kHostBase, kHostSize).ok());
  Reset();
}

void SlotMachine::Reset() {
  world_.reset();
  VmOptions options;
  options.ept_levels = 5;
  options.guest_physical_bits = 52;
  options.dirty_tracking = tracking_;
  // With A and D bits in the EPT every visit of a guest table counts as a write to it (SDM vol. 3C,
  // 29.3.5); the machines of the recordings have none.
  if (tracking_ == DirtyTracking::kWriteProtection) options.accessed_dirty = Use::kNever;
  world_.emplace(
      SimWorldOptions{.vm = options, .cpu = {}, .shared_memory = &memory_, .is_watched = false});
}

absl::StatusOr<uint64_t> SlotMachine::Peek(Hva hva) {
  TDP_ASSIGN_OR_RETURN(const std::byte* place, memory_.AtHva(hva));
  uint64_t value;
  std::memcpy(&value, place, sizeof(value));
  return value;
}

absl::Status SlotMachine::Poke(Hva hva, uint64_t value) {
  TDP_ASSIGN_OR_RETURN(std::byte * place, memory_.AtHva(hva));
  std::memcpy(place, &value, sizeof(value));
  return absl::OkStatus();
}

void SlotMachine::TurnPagingOff() { world_->cpu().SetRegisters(sim::Registers()); }

// Loading CR3 drops what the guest's tables were before.
void SlotMachine::TurnPagingOn(uint64_t cr3, bool write_protect) {
  sim::Registers registers;
  registers.cr0 = sim::kCr0Pe | sim::kCr0Pg | (write_protect ? sim::kCr0Wp : 0);
  registers.cr3 = cr3;
  registers.cr4 = sim::kCr4Pae;
  registers.efer = sim::kEferLme | sim::kEferLma | sim::kEferNxe;
  world_->cpu().SetRegisters(registers);
  TDP_CHECK(world_->cpu().WriteCr3(cr3) == sim::Event::kNone);
}

absl::StatusOr<AccessAnswer> SlotMachine::Access(uint64_t address, sim::AccessKind kind,
                                                 unsigned size) {
  using Kind = AccessAnswer::Kind;
  sim::Cpu& cpu = world_->cpu();
  absl::StatusOr<AccessAnswer> end = absl::InternalError("the access never ends");
  const auto attempt = [&] {
    const sim::AccessResult result = cpu.Access(Gva(address), kind, size);
    if (result.ok()) end = AccessAnswer{Kind::kMemory, Gpa(0), memory_.At(result.hpa)};
    return result.event;
  };
  const auto answer = [&](const sim::Exit& exit) {
    if (exit.event == sim::Event::kPageFault || exit.event == sim::Event::kGeneralProtection) {
      end = AccessAnswer{Kind::kFault};
      return false;
    }
    const FaultResult result = AnswerEptExit(world_->vcpu(), exit);
    if (result.outcome == FaultOutcome::kError) end = result.status;
    if (result.outcome == FaultOutcome::kMmio) end = AccessAnswer{Kind::kMmio, exit.gpa};
    return result.outcome != FaultOutcome::kError && result.outcome != FaultOutcome::kMmio;
  };
  if (!world_->Run(0, attempt, answer)) {
    return absl::InternalError(absl::StrFormat("the access to 0x%x goes on faulting", address));
  }
  return end;
}

}  // namespace tdp::oracles
