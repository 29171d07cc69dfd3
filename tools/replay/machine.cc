// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/machine.h"

#include <algorithm>
#include <optional>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/backends/sim/cache_presets.h"
#include "tdp/backends/sim/controls.h"
#include "tdp/backends/sim/cost_model.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"

namespace tdp::tools {
namespace {

// Guest memory stands here in host virtual memory. It is aligned to more than 1 GiB, so that RAM is
// as aligned there as it is in the guest and large pages are possible.
constexpr Hva kGuestMemory{0x1000'0000'0000};
// The memory stands here in which a hypervisor in the guest keeps its tables.
constexpr Hva kHypervisorMemory{0x3000'0000'0000};
// The CPUs' page-modification logs stand here, a page each.
constexpr Hva kLogMemory{0x4000'0000'0000};
// The memory that the host has beside the guest's: for tables, and so that broken blocks are not
// the last.
constexpr ByteCount kSpareHostMemory = GiB(4);

ByteCount HostBytes(const ReplayOptions& options, const MemoryMap& map) {
  // Natively the host's physical memory is the guest's, hole included.
  if (options.paging == Paging::kNative) return MemoryMap::kAboveHole + map.ram_above_hole();
  return 2 * options.ram + kSpareHostMemory;
}

int OrderOf(Level level) { return level.shift() - kPageShift; }

}  // namespace

absl::StatusOr<std::unique_ptr<Machine>> Machine::Create(const ReplayOptions& options) {
  TDP_RETURN_IF_ERROR(CheckReplayOptions(options));
  TDP_ASSIGN_OR_RETURN(MemoryMap map, MemoryMap::ForPc(options.ram));
  std::unique_ptr<Machine> machine(new Machine(options, map));
  TDP_RETURN_IF_ERROR(machine->MakeBackend());
  if (options.paging != Paging::kNative) {
    TDP_RETURN_IF_ERROR(machine->MakeVm());
  }
  if (options.paging == Paging::kNested) TDP_RETURN_IF_ERROR(machine->MakeHypervisor());
  TDP_RETURN_IF_ERROR(machine->MakeKernel());
  TDP_RETURN_IF_ERROR(machine->StartCpus());
  return machine;
}

Machine::Machine(const ReplayOptions& options, const MemoryMap& map)
    : options_(options),
      map_(map),
      host_(std::make_unique<sim::HostMemory>(sim::HostMemoryOptions{
          .size = HostBytes(options, map), .shuffled = options.shuffled, .seed = options.seed})) {}

Machine::~Machine() = default;

absl::Status Machine::MakeBackend() {
  sim::SimBackendOptions options;
  options.cpus = static_cast<int>(options_.cpus);
  TDP_ASSIGN_OR_RETURN(options.cpu.caches, MakeCacheConfig(options_.cache));
  TDP_ASSIGN_OR_RETURN(mmu_, MakeMmuConfig(options_.cache));
  backend_ = std::make_unique<sim::SimBackend>(*host_, options);
  TDP_ASSIGN_OR_RETURN(std::optional<sim::DataCacheConfig> cost, MakeCostModel(options_.cache));
  if (!cost.has_value()) return absl::OkStatus();
  for (int i = 0; i < cpus(); ++i) cpu(i).SetCostModel(*cost);
  return absl::OkStatus();
}

// One host mapping for each run of blocks that are alike, so that large pages can go over many.
absl::Status Machine::MapGuestMemory() {
  const Level host_page = options_.huge_host_pages ? options_.ept_page : kLevel4K;
  std::mt19937_64 random(options_.seed);
  std::bernoulli_distribution is_broken(options_.host_fragmentation);
  const ByteCount all = map_.backing_size();
  bool broken = is_broken(random);
  for (ByteCount begin = 0, end = 0; begin < all; begin = end) {
    const bool run = broken;
    while (end < all && broken == run) {
      end = std::min(all, end + kLevel2M.bytes());
      broken = is_broken(random);
    }
    const int order = run ? 0 : OrderOf(host_page);
    TDP_RETURN_IF_ERROR(host_->Map(kGuestMemory + begin, end - begin, {.order = order}));
  }
  return absl::OkStatus();
}

absl::Status Machine::MakeVm() {
  TDP_RETURN_IF_ERROR(MapGuestMemory());
  VmOptions options;
  options.paging = is_shadowed() ? tdp::Paging::kShadow : tdp::Paging::kEpt;
  options.ept_levels = options_.ept_levels;
  options.max_leaf_level = options_.ept_page;
  options.reverse_map = options_.reverse_map;
  options.nested = is_nested();
  options.dirty_tracking = options_.dirty_tracking;
  TDP_ASSIGN_OR_RETURN(vm_, Vm::Create(*backend_, options));
  if (options_.dirty_ring_entries != 0) {
    TDP_RETURN_IF_ERROR(vm_->EnableDirtyRing(options_.dirty_ring_entries));
  }
  TDP_RETURN_IF_ERROR(SetSlots());
  for (int i = 0; i < cpus(); ++i) {
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<Vcpu> vcpu, vm_->CreateVcpu());
    vcpus_.push_back(std::move(vcpu));
  }
  return options_.prefault && options_.paging == Paging::kEpt ? Prefault() : absl::OkStatus();
}

absl::Status Machine::Prefault() {
  for (const MapRegion& region : map_.regions()) {
    if (region.kind != RegionKind::kRam) continue;
    for (ByteCount done = 0; done < region.size;) {
      TDP_ASSIGN_OR_RETURN(
          const ByteCount more,
          vcpu(0).Prefault(region.base + done, region.size - done, Access::Write()));
      done += more;
    }
  }
  return absl::OkStatus();
}

absl::Status Machine::LogDirtyPages() {
  uint32_t slot = 0;
  for (const MapRegion& region : map_.regions()) {
    if (region.kind == RegionKind::kMmio) continue;
    const uint32_t number = slot++;
    if (region.kind != RegionKind::kRam) continue;
    TDP_RETURN_IF_ERROR(vm_->SetMemoryRegion({.slot = number,
                                              .flags = kSlotLogDirtyPages,
                                              .gpa = region.base,
                                              .size = region.size,
                                              .hva = HvaOf(region, region.base)}));
    logged_slots_.emplace_back(number, region.base);
  }
  return absl::OkStatus();
}

absl::Status Machine::SetSlots() {
  const ByteCount base = is_nested() ? GuestHypervisor::kL2Memory : 0;
  uint32_t slot = 0;
  for (const MapRegion& region : map_.regions()) {
    if (region.kind == RegionKind::kMmio) continue;
    TDP_RETURN_IF_ERROR(
        vm_->SetMemoryRegion({.slot = slot++,
                              .flags = region.kind == RegionKind::kRom ? kSlotReadOnly : 0,
                              .gpa = region.base + base,
                              .size = region.size,
                              .hva = HvaOf(region, region.base)}));
  }
  if (!is_nested()) return absl::OkStatus();
  return vm_->SetMemoryRegion({.slot = slot,
                               .gpa = Gpa(0),
                               .size = GuestHypervisor::TableMemory(options_.ram),
                               .hva = kHypervisorMemory});
}

absl::Status Machine::MakeHypervisor() {
  const ByteCount bytes = GuestHypervisor::TableMemory(options_.ram);
  TDP_RETURN_IF_ERROR(host_->Map(kHypervisorMemory, bytes, {.order = 0}));
  const auto memory = [this](Gfn gfn) { return HypervisorPage(gfn); };
  TDP_ASSIGN_OR_RETURN(hypervisor_, GuestHypervisor::Create(map_, memory, bytes,
                                                            {.page = options_.ept_page,
                                                             .levels = options_.ept_levels}));
  for (int i = 0; i < cpus(); ++i) TDP_RETURN_IF_ERROR(EnterL2(i));
  return absl::OkStatus();
}

absl::StatusOr<std::byte*> Machine::HypervisorPage(Gfn gfn) {
  return host_->AtHva(kHypervisorMemory + gfn.address().raw());
}

// The hypervisor sees a CPU that can do what the real one can.
NestedContext Machine::ContextOfL2() const {
  const Capabilities& can = backend_->capabilities();
  NestedContext context;
  context.eptp = hypervisor_->eptp();
  context.rules.capabilities = can.ept;
  context.rules.physical_address_bits = can.physical_address_bits;
  context.vpid = 1;
  return context;
}

absl::Status Machine::EnterL2(int index) { return vcpu(index).nested()->Enter(ContextOfL2()); }

absl::StatusOr<bool> Machine::Invept(int index) {
  constexpr uint64_t kSingleContext = 1;
  const NestedContext context = ContextOfL2();
  NestedVcpu& nested = *vcpu(index).nested();
  TDP_RETURN_IF_ERROR(nested.Leave());
  TDP_ASSIGN_OR_RETURN(const bool done, nested.Invept(kSingleContext, context.eptp, context.rules));
  TDP_RETURN_IF_ERROR(nested.Enter(context));
  return done;
}

absl::Status Machine::MakeKernel() {
  const GuestKernel::Options options = {.page = options_.guest_page,
                                        .levels = options_.guest_levels,
                                        .shared_kernel = options_.processes.count != 0,
                                        .frames = {.gigabytes = options_.guest_page == kLevel1G,
                                                   .shuffled = options_.shuffled,
                                                   .fragmentation = options_.guest_fragmentation,
                                                   .seed = options_.seed}};
  TDP_ASSIGN_OR_RETURN(kernel_, GuestKernel::Create(
                                    map_, [this](Gfn gfn) { return GuestPage(gfn); }, options));
  for (uint64_t i = 1; i < options_.processes.count; ++i) {
    TDP_RETURN_IF_ERROR(kernel_->AddSpace().status());
  }
  return absl::OkStatus();
}

absl::Status Machine::StartCpus() {
  for (int i = 0; i < cpus(); ++i) {
    sim::Controls controls;
    controls.ept = uses_ept();
    if (options_.dirty_tracking == DirtyTracking::kPml) {
      const Hva log = kLogMemory + static_cast<uint64_t>(i) * kPageSize;
      TDP_RETURN_IF_ERROR(host_->Map(log, kPageSize, {.order = 0}));
      TDP_ASSIGN_OR_RETURN(const HostPage page, host_->Resolve(log, Access::Write()));
      controls.pml = true;
      controls.pml_address = page.hfn.address();
    }
    TDP_RETURN_IF_ERROR(cpu(i).SetControls(controls));
    cpu(i).SetRegisters(ProgramRegisters());
    if (!is_shadowed()) continue;
    const sim::Registers guest = ProgramRegisters();
    const GuestControls of_guest = {
        .cr0 = guest.cr0,
        .cr4 = guest.cr4,
        .efer = guest.efer,
        .physical_address_bits = cpu(i).features().physical_address_bits};
    TDP_RETURN_IF_ERROR(vcpu(i).shadow()->SetPaging(of_guest, guest.cr3).status());
  }
  return absl::OkStatus();
}

void Machine::LoadShadowRegisters(int index) {
  const ShadowRegisters& shadow = vcpu(index).shadow()->registers();
  sim::Registers registers = cpu(index).registers();
  if (registers.cr3 == shadow.cr3 && registers.cr0 == shadow.cr0 && registers.cr4 == shadow.cr4) {
    return;
  }
  registers.cr0 = shadow.cr0;
  registers.cr3 = shadow.cr3;
  registers.cr4 = shadow.cr4;
  registers.efer = shadow.efer;
  cpu(index).SetRegisters(registers);
}

absl::StatusOr<bool> Machine::SwitchSpace(int index, size_t space, bool keep) {
  constexpr uint64_t kKeep = uint64_t{1} << 63;
  keep &= options_.processes.pcid;
  const uint64_t value = ProgramRegisters(space).cr3 | (keep ? kKeep : 0);
  if (is_shadowed()) {
    TDP_RETURN_IF_ERROR(vcpu(index).shadow()->WriteCr3(value).status());
  } else if (cpu(index).WriteCr3(value) != sim::Event::kNone) {
    return absl::InternalError(
        absl::StrCat("CPU ", index, " refuses CR3: ", cpu(index).exit().DebugString()));
  }
  return keep;
}

sim::Registers Machine::ProgramRegisters(size_t space) const {
  sim::Registers registers;
  registers.cr0 = sim::kCr0Pe | sim::kCr0Pg | sim::kCr0Wp;
  const bool pcids = options_.processes.count != 0 && options_.processes.pcid;
  registers.cr3 = kernel_->root(space).raw() | (pcids ? space + 1 : 0);
  registers.cr4 =
      sim::kCr4Pae | (kernel_->levels() == 5 ? sim::kCr4La57 : 0) | (pcids ? sim::kCr4Pcide : 0);
  registers.efer = sim::kEferLme | sim::kEferLma | sim::kEferNxe;
  registers.cpl = 3;
  return registers;
}

Hva Machine::HvaOf(const MapRegion& region, Gpa gpa) {
  return kGuestMemory + region.backing_offset + (gpa - region.base);
}

absl::StatusOr<Hva> Machine::HvaBySlots(Gpa gpa) const {
  const MapRegion* region = map_.Find(gpa);
  if (region == nullptr || region->kind == RegionKind::kMmio) {
    return absl::NotFoundError(absl::StrCat("no slot holds guest address ", ToString(gpa)));
  }
  return HvaOf(*region, gpa);
}

absl::StatusOr<Hpa> Machine::HpaBySlots(Gpa gpa) {
  if (vm_ == nullptr) return Hpa(gpa.raw());
  TDP_ASSIGN_OR_RETURN(Hva hva, HvaBySlots(gpa));
  TDP_ASSIGN_OR_RETURN(HostPage page, host_->Resolve(hva, Access::Read()));
  return page.hfn.address() + gpa.page_offset();
}

absl::StatusOr<std::byte*> Machine::GuestPage(Gfn gfn) {
  if (pager_ != nullptr) TDP_RETURN_IF_ERROR(pager_(gfn));
  TDP_ASSIGN_OR_RETURN(Hpa hpa, HpaBySlots(gfn.address()));
  return host_->At(hpa);
}

}  // namespace tdp::tools
