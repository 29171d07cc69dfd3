// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This is a stranger's first program: a VM over the software CPU, and faults until the guest has
// what it wants. Every consumer in this folder builds it, each in its own build system.

#include <cstdint>
#include <cstdio>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/version.h"
#include "tdp/mmu/vm.h"

static_assert(TDP_VERSION >= TDP_MAKE_VERSION(0, 2, 0), "the version macro counts upwards");

namespace {

constexpr tdp::Hva kRam{0x7f00'0000'0000};
constexpr tdp::ByteCount kRamBytes = tdp::MiB(16);

absl::Status TouchEveryPage() {
  tdp::sim::HostMemory host;
  TDP_RETURN_IF_ERROR(host.Map(kRam, kRamBytes));
  tdp::sim::SimBackend backend(host);
  tdp::sim::Cpu& cpu = backend.cpu(0);

  TDP_ASSIGN_OR_RETURN(std::unique_ptr<tdp::Vm> vm, tdp::Vm::Create(backend));
  TDP_RETURN_IF_ERROR(
      vm->SetMemoryRegion({.slot = 0, .gpa = tdp::Gpa(0), .size = kRamBytes, .hva = kRam}));
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<tdp::Vcpu> vcpu, vm->CreateVcpu());

  tdp::Gva next;
  while (next < tdp::Gva(kRamBytes)) {
    tdp::GuestEntry entry = vcpu->EnterGuest();
    tdp::sim::Event event = cpu.Enter(entry.eptp());
    while (event == tdp::sim::Event::kNone && next < tdp::Gva(kRamBytes)) {
      if (cpu.Access(next, tdp::sim::AccessKind::kStore, 8).ok()) {
        next = next + tdp::kPageSize;
      } else {
        event = cpu.exit().event;
      }
    }
    entry.Leave();
    if (event == tdp::sim::Event::kNone) continue;
    const tdp::FaultResult fault =
        vcpu->HandleEptViolation(cpu.exit().gpa, cpu.exit().qualification);
    if (fault.outcome == tdp::FaultOutcome::kError) return fault.status;
  }

  const uint64_t fixed = vm->Stats().faults.fixed;
  if (fixed != kRamBytes / tdp::kPageSize) {
    return absl::InternalError("not one fault for each page");
  }
  std::printf("libtdp %d.%d.%d answered %llu violations\n", TDP_VERSION_MAJOR, TDP_VERSION_MINOR,
              TDP_VERSION_PATCH, static_cast<unsigned long long>(fixed));
  return vm->CheckInvariants();
}

}  // namespace

int main() {
  const absl::Status status = TouchEveryPage();
  if (!status.ok()) std::fprintf(stderr, "first_fault: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
