// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/kernel/guest_machine.h"

#include <cstring>

#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::kernel {

// There is no flush oracle: the guest, not the oracle, is to find out who forgets flushes.
GuestMachine::GuestMachine(const MachineOptions& options)
    : SimWorld({.vm = options.vm,
                .vcpus = options.cpus,
                .memory = {.size = GiB(1), .shuffled = true, .fragmentation = 0.3},
                .is_watched = options.mistake != Mistake::kForgetsFlushes}),
      options_(options) {
  backend().forgets_flushes = Makes(Mistake::kForgetsFlushes);
  TDP_CHECK(SetRam(kGuestBytes, options.host_order).ok());
}

uint64_t GuestMachine::Peek(Gpa gpa, unsigned bytes) {
  uint64_t value = 0;
  std::memcpy(&value, *memory().AtHva(kRam + gpa.raw()), bytes);
  return value;
}

void GuestMachine::Poke(Gpa gpa, unsigned bytes, uint64_t value) {
  std::memcpy(*memory().AtHva(kRam + gpa.raw()), &value, bytes);
}

void GuestMachine::SetAlignment(int cpu, bool alignment) {
  sim::Cpu& hardware = SimWorld::cpu(cpu);
  sim::Registers registers = hardware.registers();
  if (registers.ac == alignment) return;
  registers.ac = alignment;
  hardware.SetRegisters(registers);
}

sim::AccessResult GuestMachine::Try(int cpu, const MachineAccess& access, AccessOutcome& outcome) {
  sim::AccessRequest request;
  request.gva = access.gva;
  request.kind = access.kind;
  request.accessor = access.user ? sim::Accessor::kUser : sim::Accessor::kSupervisor;
  request.size = access.bytes;
  const sim::AccessResult result = SimWorld::cpu(cpu).Access(request);
  if (!result.ok()) return result;
  const sim::PhysicalMemory physical = memory().physical();
  const uint64_t hpa = result.hpa.raw();
  const bool is_narrow = access.bytes == 4;
  if (!sim::Writes(access.kind)) {
    outcome.value = is_narrow ? physical.Load<uint32_t>(hpa) : physical.Load(hpa);
  } else if (is_narrow) {
    physical.Store(hpa, static_cast<uint32_t>(access.value));
  } else {
    physical.Store(hpa, access.value);
  }
  return result;
}

absl::Status GuestMachine::Disturb(unsigned what, uint64_t where) {
  // Most of the guest's frames lie in these pieces of 64 KiB.
  const Hva start = kRam + where % 16 * KiB(64);
  absl::Status status;
  switch (what % 6) {
    case 0:
    case 1:
      status = Migrate(start, KiB(64));
      break;
    case 2:
      Settle(vm().ZapRange(Gfn(where % 16 * 16), PageCount(16)));
      break;
    case 3:
      Settle(vm().ZapAll());
      break;
    case 4:
      is_logging_ = !is_logging_;
      status = SetRam(kGuestBytes, -1, is_logging_ ? kSlotLogDirtyPages : 0);
      break;
    default:
      if (is_logging_) status = vm().TakeDirtyLog(0, [](uint64_t, uint64_t) {});
      break;
  }
  oracle().SettleAll();
  return status;
}

}  // namespace tdp::kernel
