// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tests/vtx/machine.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "tdp/backends/vtx/boot/interrupts.h"
#include "tdp/memslot/memory_slot.h"

namespace tdp::vtx {
namespace {

constexpr ByteCount kHostMemory = MiB(96);

constexpr uint64_t kPresentWrite = 3;
constexpr uint64_t kPresent = 1;
constexpr uint64_t kLarge = 0x80;

}  // namespace

void CheckOk(const absl::Status& status) {
  if (!status.ok()) internal::CheckFailed("test", 0, status.ToString());
}

Host& Host::Get() {
  static Host* const host = [] {
    SetInterruptHandler(kNmiVector, &tdp_vmx_nmi_entry);
    auto* arena = new FrameArena(std::aligned_alloc(MiB(2), kHostMemory), kHostMemory);
    return new Host{*arena, ValueOrDie(VmxCpu::Enable(*arena))};
  }();
  return *host;
}

absl::StatusOr<HostPage> TestBackend::Resolve(Hva hva, Access access) {
  const Hpa hpa = arena().HpaOf(hva);
  const bool pretended = hpa >= pretended_ && hpa < pretended_ + GiB(1);
  absl::StatusOr<HostPage> page = VtxBackend::Resolve(hva, access);
  if (pretended) page = HostPage{.hfn = Hfn::Of(hpa), .order = 18};  // the holes in it, too
  if (!page.ok()) return page;
  if (page->order > max_order_) page->order = max_order_;
  if (const auto moved = moved_.find(hva.AlignDown(kPageSize)); moved != moved_.end()) {
    page->hfn = moved->second;
    page->order = 0;
  }
  return page;
}

void TestBackend::Kick(absl::Span<const VcpuId> vcpus) {
  kicks_ += static_cast<int>(vcpus.size());
  if (!forget_kicks_) VtxBackend::Kick(vcpus);
}

GuestCpu::GuestCpu(Vm& vm, TestBackend& backend, VmxCpu& cpu, const VtxVcpuOptions& options)
    : backend_(backend),
      drains_pml_(options.pml),
      mmu_(ValueOrDie(vm.CreateVcpu())),
      vcpu_(ValueOrDie(VtxVcpu::Create(backend.arena(), cpu.msrs(), options))) {
  CheckOk(vcpu_->Load(cpu));
  backend_.SetRunningOn(mmu_->id(), cpu.apic_id());
}

GuestCpu::~GuestCpu() {
  backend_.SetNotRunning(mmu_->id());
  if (vcpu_->is_loaded()) CheckOk(vcpu_->Unload());
}

int64_t GuestCpu::FaultsAt(Gpa gpa) const {
  return std::count_if(faults_.begin(), faults_.end(), [gpa](const SeenFault& fault) {
    return Gfn::Of(fault.gpa) == Gfn::Of(gpa);
  });
}

Machine::Machine(const MachineOptions& options)
    : arena_(Host::Get().arena), vcpu_options_(options.vcpu), ram_bytes_(options.ram) {
  VmxCpu& cpu = *Host::Get().cpu;
  Capabilities capabilities = ValueOrDie(DecodeCapabilities(cpu.msrs(), 0));
  capabilities.ept = capabilities.ept.Without(options.without_ept_capabilities);
  backend_ = std::make_unique<TestBackend>(arena_, capabilities);
  backend_->LimitOrder(options.max_order);
  vm_ = ValueOrDie(Vm::Create(*backend_, options.vm));
  ram_ = arena_.PointerTo<uint8_t>(ValueOrDie(arena_.AllocateZeroed(ram_bytes_, MiB(2))));
  CheckOk(vm_->SetMemoryRegion({.gpa = Gpa(0), .size = ram_bytes_, .hva = HvaOf(Gpa(0))}));
  guest_ = std::make_unique<GuestCpu>(*vm_, *backend_, cpu, options.vcpu);
}

Machine::~Machine() {
  guest_.reset();
  vm_.reset();
  arena_.Free(arena_.HpaOf(HvaOf(Gpa(0))), ram_bytes_);
  for (const auto& [start, bytes] : more_memory_) arena_.Free(start, bytes);
}

uint8_t* Machine::AddSlot(uint32_t slot, Gpa gpa, ByteCount bytes, uint32_t flags) {
  const Hpa memory = ValueOrDie(arena_.AllocateZeroed(bytes, MiB(2)));
  more_memory_.push_back({memory, bytes});
  CheckOk(vm_->SetMemoryRegion(
      {.slot = slot, .flags = flags, .gpa = gpa, .size = bytes, .hva = arena_.HvaOf(memory)}));
  return arena_.PointerTo<uint8_t>(memory);
}

void Machine::Copy(absl::Span<const uint8_t> bytes, Gpa to) {
  memcpy(&At<uint8_t>(to), bytes.data(), bytes.size());
}

Gpa Machine::IdentityMap64(ByteCount bytes, bool large) {
  auto* words = &At<uint64_t>(kTables);
  const uint64_t base = kTables.raw();
  words[0] = (base + 0x1000) | kPresentWrite;
  words[512] = (base + 0x2000) | kPresentWrite;
  for (uint64_t i = 0; i < bytes / MiB(2); ++i) {
    words[2 * 512 + i] =
        large ? i * MiB(2) | kPresentWrite | kLarge : (base + 0x3000 + i * 0x1000) | kPresentWrite;
    for (uint64_t j = 0; !large && j < 512; ++j) {
      words[(3 + i) * 512 + j] = (i * 512 + j) * kPageSize | kPresentWrite;
    }
  }
  return kTables;
}

Gpa Machine::IdentityMapPae(ByteCount bytes) {
  auto* words = &At<uint64_t>(kTables);
  const uint64_t base = kTables.raw();
  words[0] = (base + 0x1000) | kPresent;  // a PDPTE's bits 2:1 are reserved
  for (uint64_t i = 0; i < bytes / MiB(2); ++i) {
    words[512 + i] = (base + 0x2000 + i * 0x1000) | kPresentWrite;
    for (uint64_t j = 0; j < 512; ++j) {
      words[(2 + i) * 512 + j] = (i * 512 + j) * kPageSize | kPresentWrite;
    }
  }
  return kTables;
}

Gpa Machine::IdentityMap32(ByteCount bytes) {
  auto* words = &At<uint32_t>(kTables);
  const auto base = static_cast<uint32_t>(kTables.raw());
  for (uint32_t i = 0; i < bytes / MiB(4); ++i) {
    words[i] = (base + 0x1000 + i * 0x1000) | kPresentWrite;
    for (uint32_t j = 0; j < 1024; ++j) {
      words[(1 + i) * 1024 + j] = (i * 1024 + j) * static_cast<uint32_t>(kPageSize) | kPresentWrite;
    }
  }
  return kTables;
}

void Machine::Start64(absl::Span<const uint8_t> program, bool large_guest_pages) {
  const Gpa root = IdentityMap64(kLinear, large_guest_pages);
  Start(program, GuestState::Long64(kCode.raw(), kStack, root.raw()));
}

void Machine::Start(absl::Span<const uint8_t> program, const GuestState& state) {
  Copy(program, kCode);
  CheckOk(vcpu().SetState(state));
}

FaultResult GuestCpu::Answer(const VmExit& exit) {
  if (exit.reason == ExitReason::kEptMisconfiguration) {
    return mmu_->HandleEptMisconfiguration(exit.gpa);
  }
  return mmu_->HandleEptViolation(exit.gpa, exit.ept_qualification());
}

VmExit GuestCpu::Step() {
  VmExit exit;
  {
    GuestEntry entry = mmu_->EnterGuest();
    exit = ValueOrDie(vcpu_->Run(entry.eptp()));
    if (drains_pml_) CheckOk(mmu_->LogPml(ValueOrDie(vcpu_->DrainPml())));
  }
  if (exit.reason == ExitReason::kEptViolation || exit.reason == ExitReason::kEptMisconfiguration) {
    const FaultResult result = Answer(exit);
    CheckOk(result.status);
    faults_.push_back({exit.reason, exit.gpa, exit.ept_qualification(), result.outcome});
  }
  return exit;
}

VmExit GuestCpu::Run() {
  for (;;) {
    const size_t faults = faults_.size();
    const VmExit exit = Step();
    if (exit.is_kick() || exit.reason == ExitReason::kPmlFull) continue;
    if (faults_.size() == faults || faults_.back().outcome == FaultOutcome::kMmio) return exit;
  }
}

OtherCpu::OtherCpu(Machine& machine, Gpa code, const GuestRegisters& registers)
    : registers_(registers), thread_([this, &machine, code] { Run(machine, code); }) {}

void OtherCpu::Join() {
  if (thread_.joinable()) thread_.join();
}

void OtherCpu::Run(Machine& machine, Gpa code) {
  const std::unique_ptr<VmxCpu> cpu = ValueOrDie(VmxCpu::Enable(machine.backend().arena()));
  VtxVcpuOptions options = machine.vcpu_options();
  options.vpid = 2;
  GuestCpu guest(machine.vm(), machine.backend(), *cpu, options);
  CheckOk(guest.vcpu().SetState(
      GuestState::Long64(code.raw(), Machine::kStack, Machine::kTables.raw())));
  guest.registers() = registers_;
  exit_ = guest.Run();
  registers_ = guest.registers();
  faults_ = guest.faults();
  done_ = true;
}

}  // namespace tdp::vtx
