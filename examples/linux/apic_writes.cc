// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/apic_writes.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/mmio_instruction.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/linux_guest.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/guest/guest_walk.h"

namespace tdp::linux_example {
namespace {

constexpr uint64_t kLocalApic = 0xfee00000;
constexpr uint32_t kLocalApicSlot = 1;
constexpr uint64_t kCommandLow = 0x300;
constexpr uint64_t kCommandHigh = 0x310;
constexpr uint32_t kDeliveryMode = 7 << 8;
constexpr uint32_t kInit = 5 << 8;
constexpr uint32_t kAssert = 1 << 14;

volatile uint32_t& Register(uint64_t offset) {
  return *reinterpret_cast<volatile uint32_t*>(kLocalApic + offset);
}

// Fetches the bytes at the guest's RIP, as far as their page goes. Unavailable while memory moves.
absl::StatusOr<size_t> Fetch(const LinuxGuest& guest, Vcpu& mmu, const vtx::VtxVcpu& vcpu,
                             absl::Span<uint8_t> code) {
  GuestControls controls;
  GuestRoots roots;
  TDP_ASSIGN_OR_RETURN(controls.cr0, vcpu.Read(vtx::VmcsField::kGuestCr0));
  TDP_ASSIGN_OR_RETURN(controls.cr4, vcpu.Read(vtx::VmcsField::kGuestCr4));
  TDP_ASSIGN_OR_RETURN(controls.efer, vcpu.Read(vtx::VmcsField::kGuestEfer));
  TDP_ASSIGN_OR_RETURN(roots.cr3, vcpu.Read(vtx::VmcsField::kGuestCr3));
  TDP_ASSIGN_OR_RETURN(const uint64_t rip, vcpu.Read(vtx::VmcsField::kGuestRip));
  GuestWalk walk;
  TDP_RETURN_IF_ERROR(
      mmu.WalkGuest(GuestPaging(controls), roots, Gva(rip), GuestAccess::Fetch(), walk));
  const size_t size = std::min<size_t>(code.size(), kPageSize - rip % kPageSize);
  if (walk.outcome != GuestWalkOutcome::kMapped || !guest.Read(walk.gpa, code.first(size))) {
    return absl::UnavailableError("the instruction is not there any more");
  }
  return size;
}

}  // namespace

absl::Status MapLocalApic(Vm& vm) {
  MemoryRegion region;
  region.slot = kLocalApicSlot;
  region.flags = kSlotHostFrames | kSlotReadOnly;
  region.gpa = Gpa(kLocalApic);
  region.hpa = Hpa(kLocalApic);
  region.size = kPageSize;
  region.memory_type = MemoryType::kUncacheable;
  return vm.SetMemoryRegion(region);
}

absl::Status OnApicWrite(const vtx::VmExit& exit, const LinuxGuest& guest, Vcpu& mmu,
                         vtx::VtxVcpu& vcpu, absl::FunctionRef<void(vtx::ApicId)> init) {
  constexpr size_t kLongestInstruction = 15;
  const uint64_t offset = exit.gpa.raw() - kLocalApic;
  if (offset >= kPageSize) {
    return absl::UnimplementedError(absl::StrFormat("gpa 0x%x: nothing is there", exit.gpa.raw()));
  }
  std::array<uint8_t, kLongestInstruction> code = {};
  const absl::StatusOr<size_t> size = Fetch(guest, mmu, vcpu, absl::MakeSpan(code));
  if (absl::IsUnavailable(size.status())) return absl::OkStatus();  // the guest tries again
  TDP_RETURN_IF_ERROR(size.status());
  TDP_ASSIGN_OR_RETURN(const uint64_t rsp, vcpu.Read(vtx::VmcsField::kGuestRsp));
  TDP_ASSIGN_OR_RETURN(
      const vtx::MmioInstruction write,
      vtx::DecodeMmioInstruction(absl::MakeSpan(code).first(*size), vcpu.registers(), rsp));
  const auto value = static_cast<uint32_t>(write.value);
  if (!write.is_write || write.size != 4) {
    return absl::UnimplementedError(
        absl::StrFormat("gpa 0x%x: no write of a register of the APIC", exit.gpa.raw()));
  }
  const bool is_init = offset == kCommandLow && (value & kDeliveryMode) == kInit;
  if (!is_init) {
    Register(offset) = value;
  } else if ((value & kAssert) != 0) {
    init(Register(kCommandHigh) >> 24);
  }
  vtx::VmExit skipped = exit;
  skipped.instruction_bytes = static_cast<uint32_t>(write.length);  // a violation does not say it
  return vcpu.SkipInstruction(skipped);
}

}  // namespace tdp::linux_example
