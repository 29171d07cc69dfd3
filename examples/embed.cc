// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The ten lines that an embedder writes, around a guest on the software CPU. A hypervisor has a
// VMCS where this program has `TinyGuest`, and its own `Backend` where this one takes the
// simulator's.

#include <cstdint>
#include <cstdio>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"

namespace {

constexpr tdp::Hva kRam{0x7f00'0000'0000};

// A guest without paging that writes one word in each MiB of its memory, then to a device.
class TinyGuest {
 public:
  explicit TinyGuest(tdp::sim::Cpu& cpu) : cpu_(cpu) {}

  bool is_running() const { return next_ <= kDevice; }

  // Runs until the next exit.
  tdp::sim::Exit Run(tdp::Eptp eptp) {
    if (cpu_.Enter(eptp) != tdp::sim::Event::kNone) return cpu_.exit();
    while (is_running()) {
      if (!cpu_.Access(next_, tdp::sim::AccessKind::kStore, 8).ok()) return cpu_.exit();
      Advance();
    }
    return {};
  }

  void EmulateStore() {
    absl::PrintF("the guest wrote to the device at 0x%x\n", next_.raw());
    Advance();
  }

 private:
  static constexpr tdp::Gva kDevice{tdp::MiB(512)};

  void Advance() { next_ = next_ + tdp::MiB(1); }

  tdp::sim::Cpu& cpu_;
  tdp::Gva next_;
};

absl::Status RunGuest() {
  tdp::sim::HostMemory host;
  TDP_RETURN_IF_ERROR(host.Map(kRam, tdp::MiB(512), {.order = 9}));
  tdp::sim::SimBackend backend(host);
  TinyGuest guest(backend.cpu(0));

  // [README]
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<tdp::Vm> vm, tdp::Vm::Create(backend));
  TDP_RETURN_IF_ERROR(
      vm->SetMemoryRegion({.slot = 0, .gpa = tdp::Gpa(0), .size = tdp::MiB(512), .hva = kRam}));
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<tdp::Vcpu> vcpu, vm->CreateVcpu());
  while (guest.is_running()) {
    tdp::GuestEntry entry = vcpu->EnterGuest();
    const tdp::sim::Exit exit = guest.Run(entry.eptp());
    entry.Leave();
    if (exit.event != tdp::sim::Event::kEptViolation) continue;
    tdp::FaultResult fault = vcpu->HandleEptViolation(exit.gpa, exit.qualification);
    if (fault.outcome == tdp::FaultOutcome::kMmio) guest.EmulateStore();
    if (fault.outcome == tdp::FaultOutcome::kError) return fault.status;
  }
  // [README]

  const tdp::FaultStats faults = vm->Stats().faults;
  absl::PrintF("the engine answered %d violations with %d pages of 2 MiB\n",
               faults.fixed + faults.mmio, faults.leaves_installed[1]);
  return vm->CheckInvariants();
}

}  // namespace

int main() {
  const absl::Status status = RunGuest();
  if (!status.ok()) absl::FPrintF(stderr, "embed: %s\n", status.message());
  return status.ok() ? 0 : 1;
}
