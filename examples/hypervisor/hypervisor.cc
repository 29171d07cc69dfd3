// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A small hypervisor on bare metal: one guest with three slots and a console device in memory.
//
// Here is in full what an embedder of libtdp writes: slots (SetUpGuest), the run loop with its exit
// handler (RunGuest), and the device. It is linked to the freestanding core, without a C library,
// and boots under Bochs: `./run vtx`.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/boot/bare.h"
#include "tdp/backends/vtx/boot/interrupts.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/backends/vtx/mmio_instruction.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/backends/vtx/vtx_backend.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"

extern "C" const uint8_t guest_start[], guest_end[];

namespace tdp {
namespace {

constexpr ByteCount kHostMemory = MiB(64);
constexpr Gpa kCode{0x1000};
constexpr uint64_t kStack = 0x8000;
constexpr Gpa kPageTables{0x10000};
constexpr Gpa kConsole{0x10000000};
constexpr std::string_view kRomText = "The ROM is as it was.\n";  // and a zero behind it

// One slot of the guest, and where its memory is.
struct Slot {
  const char* name;
  MemoryRegion region;
};

struct Guest {
  std::unique_ptr<Vm> vm;
  std::vector<Slot> slots;
};

// A fault as the report shows it.
struct Fault {
  const char* exit;
  Gpa gpa;
  std::string qualification;
  FaultOutcome outcome;
  int level;
};

struct Report {
  std::vector<Fault> faults;
  std::string console;
  int entries = 0;
  int emulated = 0;
};

// --- The guest's memory --------------------------------------------------------------------------

// `skew` bytes off a 2 MiB boundary: a slot whose host memory is not aligned with its guest frames
// can only be mapped by 4 KiB pages.
absl::StatusOr<Hva> HostMemoryFor(vtx::FrameArena& arena, ByteCount size, ByteCount skew) {
  TDP_ASSIGN_OR_RETURN(const Hpa hpa, arena.AllocateZeroed(size + skew, MiB(2)));
  return arena.HvaOf(hpa + skew);
}

absl::Status AddSlot(Guest& guest, vtx::FrameArena& arena, const char* name, Gpa gpa,
                     ByteCount size, uint32_t flags, ByteCount skew) {
  TDP_ASSIGN_OR_RETURN(const Hva hva, HostMemoryFor(arena, size, skew));
  MemoryRegion region;
  region.slot = static_cast<uint32_t>(guest.slots.size());
  region.flags = flags;
  region.gpa = gpa;
  region.size = size;
  region.hva = hva;
  TDP_RETURN_IF_ERROR(guest.vm->SetMemoryRegion(region));
  guest.slots.push_back({name, region});
  return absl::OkStatus();
}

// Returns the host's pointer to guest memory; null where no slot is.
uint8_t* At(const Guest& guest, Gpa gpa) {
  for (const Slot& slot : guest.slots) {
    if (gpa >= slot.region.gpa && gpa - slot.region.gpa < slot.region.size) {
      return reinterpret_cast<uint8_t*>((slot.region.hva + (gpa - slot.region.gpa)).raw());
    }
  }
  return nullptr;
}

// The guest's own page tables: the low GiB mapped to itself, in pages of 2 MiB.
void WritePageTables(const Guest& guest) {
  constexpr uint64_t kPresentWrite = 3, kLarge = 0x80;
  auto* words = reinterpret_cast<uint64_t*>(At(guest, kPageTables));
  words[0] = (kPageTables.raw() + 0x1000) | kPresentWrite;
  words[512] = (kPageTables.raw() + 0x2000) | kPresentWrite;
  for (uint64_t i = 0; i < 512; ++i) words[1024 + i] = i * MiB(2) | kPresentWrite | kLarge;
}

absl::StatusOr<Guest> SetUpGuest(vtx::VtxBackend& backend) {
  constexpr Gpa kRam{0}, kData{0x400000}, kRom{0x600000};
  Guest guest;
  TDP_ASSIGN_OR_RETURN(guest.vm, Vm::Create(backend));
  vtx::FrameArena& arena = backend.arena();
  TDP_RETURN_IF_ERROR(AddSlot(guest, arena, "RAM", kRam, MiB(4), 0, 0));
  TDP_RETURN_IF_ERROR(AddSlot(guest, arena, "data", kData, MiB(1), 0, kPageSize));
  TDP_RETURN_IF_ERROR(AddSlot(guest, arena, "ROM", kRom, KiB(64), kSlotReadOnly, 0));
  memcpy(At(guest, kCode), guest_start, static_cast<size_t>(guest_end - guest_start));
  memcpy(At(guest, kRom), kRomText.data(), kRomText.size());
  WritePageTables(guest);
  return guest;
}

// --- The run loop --------------------------------------------------------------------------------

// Emulates the console: byte 0 prints, byte 1 counts. A write anywhere else (the ROM) is ignored.
absl::Status EmulateMmio(const Guest& guest, const vtx::VmExit& exit, vtx::VtxVcpu& vcpu,
                         Report& report) {
  TDP_ASSIGN_OR_RETURN(const uint64_t rip, vcpu.Read(vtx::VmcsField::kGuestRip));
  TDP_ASSIGN_OR_RETURN(const uint64_t rsp, vcpu.Read(vtx::VmcsField::kGuestRsp));
  constexpr size_t kLongestInstruction = 15;
  TDP_ASSIGN_OR_RETURN(
      const vtx::MmioInstruction instruction,
      vtx::DecodeMmioInstruction(absl::MakeSpan(At(guest, Gpa(rip)), kLongestInstruction),
                                 vcpu.registers(), rsp));
  if (!instruction.is_write) {
    vtx::CompleteRead(instruction, exit.gpa == kConsole + 1 ? report.console.size() : 0,
                      vcpu.registers());
  } else if (exit.gpa == kConsole) {
    report.console += static_cast<char>(instruction.value);
  }
  ++report.emulated;
  return vcpu.Write(vtx::VmcsField::kGuestRip, rip + static_cast<uint64_t>(instruction.length));
}

// Exits 48 and 49: the engine says what they were.
absl::Status HandleFault(const Guest& guest, const vtx::VmExit& exit, Vcpu& mmu, vtx::VtxVcpu& vcpu,
                         Report& report) {
  const bool violation = exit.reason == vtx::ExitReason::kEptViolation;
  const FaultResult result = violation ? mmu.HandleEptViolation(exit.gpa, exit.ept_qualification())
                                       : mmu.HandleEptMisconfiguration(exit.gpa);
  if (violation) {
    report.faults.push_back({"violation", exit.gpa, exit.ept_qualification().DebugString(),
                             result.outcome, result.level.raw()});
  }
  switch (result.outcome) {
    case FaultOutcome::kFixed:
    case FaultOutcome::kSpurious:
    case FaultOutcome::kRetry:
      return absl::OkStatus();  // run on
    case FaultOutcome::kMmio:
      return EmulateMmio(guest, exit, vcpu, report);
    case FaultOutcome::kBlocked:
    case FaultOutcome::kDirtyRingFull:
    case FaultOutcome::kViewDenied:
    case FaultOutcome::kMemoryFault:
      return absl::InternalError("this host's pages are always there, and nothing is restricted");
    case FaultOutcome::kError:
      return result.status;
  }
  return absl::OkStatus();
}

absl::Status RunGuest(const Guest& guest, Vcpu& mmu, vtx::VtxVcpu& vcpu, Report& report) {
  for (;;) {
    vtx::VmExit exit;
    {
      // While `entry` lives, whoever changes the tables kicks this CPU and waits for it.
      const GuestEntry entry = mmu.EnterGuest();
      TDP_ASSIGN_OR_RETURN(exit, vcpu.Run(entry.eptp()));
    }
    ++report.entries;
    switch (exit.reason) {
      case vtx::ExitReason::kEptViolation:
      case vtx::ExitReason::kEptMisconfiguration:
        TDP_RETURN_IF_ERROR(HandleFault(guest, exit, mmu, vcpu, report));
        break;
      case vtx::ExitReason::kHlt:
        return absl::OkStatus();
      default:
        if (exit.is_kick()) break;
        return absl::UnimplementedError(
            absl::StrFormat("exit reason %d", static_cast<int>(exit.reason)));
    }
  }
}

// --- The report ----------------------------------------------------------------------------------

template <typename... Args>
void Say(const absl::FormatSpec<Args...>& format, const Args&... args) {
  vtx::Print(absl::StrFormat(format, args...));
}

void PrintIndented(const std::string& text) {
  std::string lines = "  | ";
  for (size_t i = 0; i < text.size(); ++i) {
    lines += text[i];
    if (text[i] == '\n' && i + 1 < text.size()) lines += "  | ";
  }
  vtx::Print(lines);
}

void PrintSlots(const Guest& guest) {
  Say("slots:\n");
  for (const Slot& slot : guest.slots) {
    Say("  %d %-4s gpa 0x%08x + 0x%06x -> hva 0x%08x%s\n", slot.region.slot, slot.name,
        slot.region.gpa.raw(), slot.region.size, slot.region.hva.raw(),
        (slot.region.flags & kSlotReadOnly) != 0 ? " read-only" : "");
  }
}

void PrintFaults(const Report& report) {
  constexpr size_t kShown = 12;
  Say("faults, the first %d of %d:\n", std::min(kShown, report.faults.size()),
      report.faults.size());
  for (size_t i = 0; i < report.faults.size() && i < kShown; ++i) {
    const Fault& fault = report.faults[i];
    Say("  0x%08x %-34s -> %s, level %d\n", fault.gpa.raw(), fault.qualification,
        FaultOutcomeName(fault.outcome), fault.level);
  }
}

// The tables as runs of leaves that continue each other.
void PrintEpt(Vm& vm, Gpa end) {
  Say("ept:\n");
  for (Gpa gpa{0}; gpa < end;) {
    const absl::StatusOr<Translation> first = vm.Translate(gpa);
    if (!first.ok()) {
      gpa = gpa + kPageSize;
      continue;
    }
    const ByteCount step = first->level.bytes();
    int leaves = 1;
    for (;; ++leaves) {
      const Gpa next_gpa = gpa + static_cast<uint64_t>(leaves) * step;
      const absl::StatusOr<Translation> next = vm.Translate(next_gpa);
      if (!next.ok() || next->level != first->level || next->access != first->access ||
          next->entry.address() - first->entry.address() != static_cast<uint64_t>(leaves) * step) {
        break;
      }
    }
    Say("  0x%08x %3d x %s -> hpa 0x%08x %s\n", gpa.raw(), leaves,
        first->level == kLevel4K   ? "4K"
        : first->level == kLevel2M ? "2M"
                                   : "1G",
        first->entry.address().raw(), ToString(first->access));
    gpa = gpa + static_cast<uint64_t>(leaves) * step;
  }
}

absl::Status Main() {
  vtx::SetInterruptHandler(vtx::kNmiVector, &vtx::tdp_vmx_nmi_entry);
  vtx::FrameArena arena(vtx::TakeMemory(kHostMemory, MiB(2)), kHostMemory);
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<vtx::VmxCpu> cpu, vtx::VmxCpu::Enable(arena));
  TDP_ASSIGN_OR_RETURN(const Capabilities capabilities, vtx::DecodeCapabilities(cpu->msrs(), 0));
  vtx::VtxBackend backend(arena, capabilities);
  TDP_ASSIGN_OR_RETURN(const Guest guest, SetUpGuest(backend));
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<Vcpu> mmu, guest.vm->CreateVcpu());
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<vtx::VtxVcpu> vcpu,
                       vtx::VtxVcpu::Create(arena, cpu->msrs(), {}));
  TDP_RETURN_IF_ERROR(vcpu->Load(*cpu));
  TDP_RETURN_IF_ERROR(
      vcpu->SetState(vtx::GuestState::Long64(kCode.raw(), kStack, kPageTables.raw())));
  backend.SetRunningOn(mmu->id(), cpu->apic_id());

  Report report;
  const absl::Status end = RunGuest(guest, *mmu, *vcpu, report);
  Say("guest: %d entries, %d faults, %d accesses emulated\n", report.entries, report.faults.size(),
      report.emulated);
  PrintIndented(report.console);
  PrintSlots(guest);
  PrintFaults(report);
  PrintEpt(*guest.vm, Gpa(MiB(8)));
  backend.SetNotRunning(mmu->id());
  TDP_RETURN_IF_ERROR(vcpu->Unload());
  return end;
}

}  // namespace
}  // namespace tdp

int main() {
  const absl::Status status = tdp::Main();
  if (!status.ok()) tdp::Say("hypervisor: %s\n", status.ToString());
  return status.ok() ? 0 : 1;
}
