// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two software CPUs share one guest's memory: one runs on shadow tables, the other on EPT with no
// caches. The guest must see the same on both.

#ifndef TDP_TESTS_MMU_SHADOW_SHADOW_MACHINE_H_
#define TDP_TESTS_MMU_SHADOW_SHADOW_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu_impl.h"
#include "tests/world/sim_world.h"

namespace tdp::shadow_test {

// Holds the guest's registers.
struct GuestCpu {
  uint64_t cr0 = sim::kCr0Pe;
  uint64_t cr3 = 0;
  uint64_t cr4 = 0;
  uint64_t efer = 0;
  int physical_address_bits = 46;
  bool pages_1g = true;

  GuestControls controls() const {
    return {.cr0 = cr0,
            .cr4 = cr4,
            .efer = efer,
            .physical_address_bits = physical_address_bits,
            .pages_1g = pages_1g};
  }
};

// Returns the registers of `mode` with every protection on but SMEP and SMAP.
inline GuestCpu GuestIn(PagingMode mode) {
  GuestCpu cpu;
  if (mode == PagingMode::kNone) return cpu;
  cpu.cr0 |= sim::kCr0Pg | sim::kCr0Wp;
  cpu.cr4 = mode == PagingMode::k32Bit ? sim::kCr4Pse : sim::kCr4Pae;
  if (mode == PagingMode::k5Level) cpu.cr4 |= sim::kCr4La57;
  if (mode >= PagingMode::kPae) cpu.efer |= sim::kEferNxe;
  if (mode >= PagingMode::k4Level) cpu.efer |= sim::kEferLme | sim::kEferLma;
  return cpu;
}

struct Request {
  Gva gva;
  sim::AccessKind kind = sim::AccessKind::kLoad;
  bool user = false;
  bool ac = false;
};

// Says what the guest sees of an access.
struct Seen {
  enum class What { kMemory, kPageFault, kMmio, kNoTable, kOther } what = What::kOther;
  uint64_t value = 0;  // hpa, error code, or gpa

  friend bool operator==(const Seen&, const Seen&) = default;
  friend void PrintTo(const Seen& seen, std::ostream* out) {
    static constexpr const char* kNames[] = {"memory", "fault", "mmio", "no table", "other"};
    *out << absl::StrFormat("%s 0x%x", kNames[static_cast<int>(seen.what)], seen.value);
  }
};

struct MachineOptions {
  VmOptions vm;
  int host_order = 0;
  ByteCount ram = MiB(16);
  sim::CpuConfig cpu;
  // The machine that earlier ones have left, made as `UsedAgain` says; null gives this one its own.
  SimMachine* machine = nullptr;
};
inline SimMachineOptions UsedAgain(const sim::CpuConfig& cpu) {
  return {.cpu = cpu, .is_watched = false};
}

class Machine : public SimWorld {
 public:
  explicit Machine(const MachineOptions& options = {})
      : SimWorld({.vm = Shadowed(options.vm),
                  .machine = options.machine,
                  .cpu = options.cpu,
                  .is_watched = false}),
        reference_(ReferenceOptions(options, memory())) {
    TDP_CHECK(memory().Map(kRam, options.ram, {.order = options.host_order}).ok());
    TDP_CHECK(SetRam(0, Gpa(0), options.ram, kRam).ok());
  }

  ShadowVcpu& shadow() { return *vcpu().shadow(); }
  const GuestCpu& guest() const { return guest_; }

  // Sets the slot in both VMs.
  absl::Status SetRam(uint32_t slot, Gpa gpa, ByteCount size, Hva hva, uint32_t flags = 0) {
    const MemoryRegion region = {
        .slot = slot, .flags = flags, .gpa = gpa, .size = size, .hva = hva};
    const absl::Status status = vm().SetMemoryRegion(region);
    if (!status.ok()) return status;
    MemoryRegion plain = region;
    plain.flags &= ~kSlotLogDirtyPages;
    return reference_.vm().SetMemoryRegion(plain);
  }

  // Moves pages to other frames, as the host, and tells both VMs.
  absl::Status Migrate(Hva hva, ByteCount size) {
    absl::Status moved = reference_.vm().BeginHostInvalidation(hva, size);
    if (!moved.ok()) return moved;
    moved = SimWorld::Migrate(hva, size);
    reference_.vm().EndHostInvalidation();
    return moved;
  }

  // --- the guest ---

  // Writes CR0, CR4, EFER and CR3 at once.
  GuestEvent Load(const GuestCpu& guest) {
    const auto event = shadow().SetPaging(guest.controls(), guest.cr3);
    TDP_CHECK(event.ok());
    if (*event != GuestEvent::kNone) return *event;
    guest_ = guest;
    sim::CpuFeatures features = reference_.cpu(0).features();
    features.physical_address_bits = guest.physical_address_bits;
    features.guest_pages_1g = guest.pages_1g;
    reference_.cpu(0).SetFeatures(features);
    return GuestEvent::kNone;
  }
  GuestEvent WriteCr3(uint64_t value) {
    const auto event = shadow().WriteCr3(value);
    TDP_CHECK(event.ok());
    if (*event == GuestEvent::kNone) guest_.cr3 = value & ~(uint64_t{1} << 63);
    return *event;
  }
  void Invlpg(Gva gva) { TDP_CHECK(shadow().Invlpg(gva).ok()); }

  // Stores to guest-physical memory through `gva`, as the guest. Returns what it saw.
  Seen Store(Gva gva, uint64_t value, size_t bytes = 8, bool user = false) {
    const Seen seen = Access({gva, sim::AccessKind::kStore, user});
    if (emulate_) {
      TDP_CHECK(shadow()
                    .EmulateWrite(emulated_gpa_, bytes,
                                  [&](std::byte* place) { std::memcpy(place, &value, bytes); })
                    .ok());
    } else if (seen.what == Seen::What::kMemory) {
      std::memcpy(memory().At(Hpa(seen.value)), &value, bytes);
    }
    return seen;
  }

  // Makes the access on the shadow.
  Seen Access(const Request& request) {
    emulate_ = false;
    Seen seen;
    SetAccessor(cpu(), request);
    const auto attempt = [&] {
      const sim::AccessResult result = cpu().Access(request.gva, request.kind, 1);
      if (result.ok()) seen = {Seen::What::kMemory, result.hpa.raw()};
      return result.event;
    };
    const auto answer = [&](const sim::Exit& exit) {
      TDP_CHECK(exit.event == sim::Event::kPageFault);
      const bool excused = request.ac && !request.user;
      last_ = shadow().HandlePageFault(exit.gva, exit.error_code, excused);
      ++faults_;
      switch (last_.outcome) {
        case PagingOutcome::kFixed:
        case PagingOutcome::kSpurious:
        case PagingOutcome::kRetry:
          return true;
        case PagingOutcome::kGuestFault:
          seen = {Seen::What::kPageFault, last_.error_code};
          break;
        case PagingOutcome::kMmio:
          seen = {Seen::What::kMmio, last_.gpa.raw()};
          break;
        case PagingOutcome::kNoTable:
          seen = {Seen::What::kNoTable, 0};
          break;
        case PagingOutcome::kEmulateWrite:
          emulate_ = true;
          emulated_gpa_ = last_.gpa;
          seen = {Seen::What::kMemory, HpaOf(last_.gpa)};
          break;
        case PagingOutcome::kBlocked:
        case PagingOutcome::kError:
          break;
      }
      return false;
    };
    Run(0, attempt, answer);
    return seen;
  }

  // Makes the access on EPT, with nothing cached.
  Seen Reference(const Request& request) {
    Seen seen;
    sim::Cpu& plain = reference_.cpu();
    sim::Registers registers = plain.registers();
    registers.cr0 = guest_.cr0;
    registers.cr3 = guest_.cr3;
    registers.cr4 = guest_.cr4;
    registers.efer = guest_.efer;
    registers.pdptes = shadow().roots().pdptes;
    plain.SetRegisters(registers);
    SetAccessor(plain, request);
    const auto attempt = [&] {
      plain.ClearCaches();
      const sim::AccessResult result = plain.Access(request.gva, request.kind, 1);
      if (result.ok()) seen = {Seen::What::kMemory, result.hpa.raw()};
      return result.event;
    };
    const auto answer = [&](const sim::Exit& exit) {
      if (exit.event == sim::Event::kPageFault) {
        seen = {Seen::What::kPageFault, exit.error_code};
        return false;
      }
      TDP_CHECK(exit.event == sim::Event::kEptViolation);
      if (AnswerEptExit(reference_.vcpu(), exit).outcome != FaultOutcome::kMmio) return true;
      const bool final = (exit.qualification.raw() & ept::kQualFinalAddress) != 0;
      seen = final ? Seen{Seen::What::kMmio, exit.gpa.raw()} : Seen{Seen::What::kNoTable, 0};
      return false;
    };
    reference_.Run(0, attempt, answer);
    return seen;
  }

  bool wants_emulation() const { return emulate_; }
  Gpa emulated_gpa() const { return emulated_gpa_; }
  uint64_t faults() const { return faults_; }
  const PagingFaultResult& last_fault() const { return last_; }

  // --- guest memory, as the host sees it ---

  uint64_t HpaOf(Gpa gpa) {
    const auto page = memory().Resolve(kRam + gpa.raw(), tdp::Access::Read());
    TDP_CHECK(page.ok());
    return page->hfn.address().raw() + gpa.page_offset();
  }

 private:
  static VmOptions Shadowed(VmOptions options) {
    options.paging = Paging::kShadow;
    return options;
  }
  static SimWorldOptions ReferenceOptions(const MachineOptions& options, sim::HostMemory& memory) {
    SimWorldOptions reference = {.cpu = options.cpu, .shared_memory = &memory, .is_watched = false};
    // A violation says what was accessed, a misconfiguration does not.
    reference.vm.mmio_caching = false;
    reference.cpu.caches = *sim::CachePreset("none");
    return reference;
  }
  static void SetAccessor(sim::Cpu& cpu, const Request& request) {
    sim::Registers registers = cpu.registers();
    registers.cpl = request.user ? 3 : 0;
    registers.ac = request.ac;
    if (!(registers == cpu.registers())) cpu.SetRegisters(registers);
  }

  SimWorld reference_;
  GuestCpu guest_;
  bool emulate_ = false;
  Gpa emulated_gpa_;
  uint64_t faults_ = 0;
  PagingFaultResult last_;
};

}  // namespace tdp::shadow_test

#endif  // TDP_TESTS_MMU_SHADOW_SHADOW_MACHINE_H_
