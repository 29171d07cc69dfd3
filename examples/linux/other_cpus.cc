// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/other_cpus.h"

#include <cstdint>

#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/linux_guest.h"

namespace tdp::linux_example {
namespace {

void WaitFor(const std::atomic<bool>& flag) {
  while (!flag.load(std::memory_order_acquire)) __builtin_ia32_pause();
}

}  // namespace

OtherCpus::OtherCpus(LinuxGuest& guest, Scenario& scenario)
    : guest_(guest), scenario_(scenario), apic_(guest.host().arena().direct_map_offset()) {}

OtherCpus::~OtherCpus() {
  may_leave_.store(true, std::memory_order_release);
  for (Cpu& cpu : cpus_) cpu.processor.reset();
}

void OtherCpus::Start(int count) {
  for (int i = 0; i < count; ++i) {
    Cpu& cpu = cpus_.emplace_back(*this);
    const auto live = [](void* self) {
      auto& mine = *static_cast<Cpu*>(self);
      mine.others.Live(mine);
    };
    cpu.processor.emplace(live, &cpu);
    WaitFor(cpu.is_ready);
  }
}

// Ends the others. A CPU that waits for its start-up IPI hears that alone, and the others hear NMIs
// alone.
absl::Status OtherCpus::End() {
  absl::Status status;
  for (const Cpu& cpu : cpus_) {
    if (!cpu.is_out.load(std::memory_order_acquire)) {
      apic_.SendNmi(cpu.apic_id);
      apic_.SendStartUp(cpu.apic_id, 0);
    }
    WaitFor(cpu.is_out);
    status.Update(cpu.status);
  }
  return status;
}

void OtherCpus::Init(vtx::ApicId to) {
  for (const Cpu& cpu : cpus_) {
    if (cpu.apic_id == to && cpu.linux->RequestInit()) apic_.SendNmi(to);
  }
}

absl::StatusOr<OtherCpus::Parts> OtherCpus::MakeParts() {
  Parts parts;
  TDP_ASSIGN_OR_RETURN(parts.vmx, vtx::VmxCpu::Enable(guest_.host().arena()));
  TDP_ASSIGN_OR_RETURN(parts.mmu, guest_.vm().CreateVcpu());
  TDP_ASSIGN_OR_RETURN(parts.cpu, LinuxCpu::Create(guest_, *parts.vmx, *parts.mmu));
  TDP_RETURN_IF_ERROR(parts.cpu->AwaitStartUp());
  return parts;
}

// A processor's whole life. The end of one CPU is the end of Linux, and the first CPU may not have
// noticed.
void OtherCpus::Live(Cpu& cpu) {
  constexpr VcpuId kFirst = 0;
  const absl::StatusOr<Parts> parts = MakeParts();
  if (parts.ok()) {
    cpu.apic_id = parts->vmx->apic_id();
    cpu.linux = parts->cpu.get();
  }
  cpu.is_ready.store(true, std::memory_order_release);
  cpu.status = parts.ok() ? parts->cpu->Run(scenario_) : parts.status();
  guest_.End();
  guest_.host().Kick({&kFirst, 1});
  cpu.is_out.store(true, std::memory_order_release);
  WaitFor(may_leave_);
}

}  // namespace tdp::linux_example
