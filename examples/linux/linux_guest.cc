// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/linux_guest.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/boot/bare.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/apic_writes.h"

namespace tdp::linux_example {
namespace {

bool IsComplaint(const std::string& line) {
  for (const char* word : {"BUG:", "Oops", "Kernel panic", "general protection", "WARNING:"}) {
    if (line.find(word) != std::string::npos) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinuxGuest>> LinuxGuest::Create(Host& host, vtx::VmxCpu& cpu,
                                                               const GuestOptions& options) {
  auto guest = absl::WrapUnique(new LinuxGuest(host, options));
  TDP_ASSIGN_OR_RETURN(guest->memory_, guest->MakeMemory());
  TDP_ASSIGN_OR_RETURN(guest->cpu_, LinuxCpu::Create(*guest, cpu, guest->mmu()));
  return guest;
}

MemoryRegion LinuxGuest::RegionAt(Hva ram, uint32_t flags) const {
  MemoryRegion region;
  region.flags = flags;
  region.size = options_.ram;
  region.hva = ram;
  return region;
}

// The emulated machine's memory is zero where it has not been used.
absl::StatusOr<GuestMemory> LinuxGuest::MakeMemory() const {
  GuestMemory memory;
  TDP_ASSIGN_OR_RETURN(memory.ram, host_.Allocate(options_.ram));
  TDP_ASSIGN_OR_RETURN(memory.vm, Vm::Create(host_, options_.vm));
  TDP_RETURN_IF_ERROR(memory.vm->SetMemoryRegion(RegionAt(memory.ram, 0)));
  if (options_.cpus > 1) TDP_RETURN_IF_ERROR(MapLocalApic(*memory.vm));
  if (options_.ring_entries != 0) {
    TDP_RETURN_IF_ERROR(memory.vm->EnableDirtyRing(options_.ring_entries));
  }
  TDP_ASSIGN_OR_RETURN(memory.mmu, memory.vm->CreateVcpu());
  return memory;
}

absl::StatusOr<GuestMemory> LinuxGuest::Adopt(GuestMemory memory) {
  report_.Add(memory_.vm->Stats().faults);
  TDP_RETURN_IF_ERROR(cpu_->Adopt(*memory.mmu));
  std::swap(memory, memory_);
  return memory;
}

absl::Status LinuxGuest::Load(const LinuxImage& image) {
  const absl::Span<uint8_t> ram(reinterpret_cast<uint8_t*>(memory_.ram.raw()), options_.ram);
  TDP_ASSIGN_OR_RETURN(const LinuxStart start, LoadLinux(image, options_.cpus, ram));
  return cpu_->Start(start);
}

bool LinuxGuest::Read(Gpa gpa, absl::Span<uint8_t> to) const {
  if (gpa.raw() >= options_.ram) return false;
  host_.Read(memory_.ram + gpa.raw(), to);
  return true;
}

absl::Status LinuxGuest::Run(Scenario& scenario) {
  report_.Start();
  // First of all, so that they are the machine's first ones: Linux is told of those.
  others_ = std::make_unique<OtherCpus>(*this, scenario);
  others_->Start(options_.cpus - 1);
  absl::Status status = scenario.OnStart(*this);
  const bool has_started = status.ok();
  if (has_started) status = cpu_->Run(scenario);
  End();
  status.Update(others_->End());
  const absl::Status end = has_started ? scenario.OnEnd(*this) : absl::OkStatus();
  others_.reset();
  if (status.ok()) status = Shutdown();
  return status.ok() ? end : status;
}

void LinuxGuest::OnLine(const std::string& line, Scenario& scenario) {
  vtx::Print(absl::StrFormat("linux| %s\n", line));
  if (line == "INIT: done") init_is_done_ = true;
  if (IsComplaint(line)) is_broken_ = true;
  scenario.OnLine(line);
}

absl::Status LinuxGuest::Shutdown() const {
  if (is_broken_) return absl::DataLossError("Linux complained: see its console");
  if (!init_is_done_) return absl::DataLossError("Linux ended before its init had all it wanted");
  return absl::OkStatus();
}

void LinuxGuest::Stop() {
  gate_.Close();
  for (VcpuId id = 0; id < static_cast<VcpuId>(options_.cpus); ++id) host_.Kick({&id, 1});
  gate_.WaitUntilOut();
}

void LinuxGuest::Say(const std::string& text) const {
  vtx::Print(absl::StrFormat(" host| %s\n", text));
}

void LinuxGuest::PrintTable() const {
  report_.Print(memory_.vm->Stats(), host_.kicks(), options_.vm.paging == Paging::kShadow);
}

}  // namespace tdp::linux_example
