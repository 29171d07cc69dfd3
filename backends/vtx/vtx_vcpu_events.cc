// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tells a vCPU at its entries of events: exceptions, interrupts, NMIs; and ends instructions that
// the host has carried out.

#include <cstdint>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/backends/vtx/pending_events.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/backends/vtx/vmx_capabilities.h"
#include "tdp/backends/vtx/vmx_instructions.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint32_t kVectoringReserved = 1u << 12;  // IDT-vectoring information has a bit here
// These are bits of the interruptibility state.
constexpr uint64_t kBlockedBySti = 1 << 0;
constexpr uint64_t kBlockedByMovSs = 1 << 1;
constexpr uint64_t kBlockedBySmi = 1 << 2;
constexpr uint64_t kBlockedByNmi = 1 << 3;
constexpr uint64_t kTrapFlag = 1 << 8;            // of RFLAGS
constexpr uint64_t kInterruptFlag = 1 << 9;       // of RFLAGS
constexpr uint64_t kBranchTrap = 1 << 1;          // of IA32_DEBUGCTL: TF traps at branches only
constexpr uint64_t kPendingSingleStep = 1 << 14;  // of the pending debug exceptions
constexpr uint64_t kLongCode = 1 << 13;           // of the rights of CS

}  // namespace

// Blocking ends with the instruction after STI or MOV SS, which this one is.
absl::Status VtxVcpu::SkipInstruction(const VmExit& exit) {
  TDP_ASSIGN_OR_RETURN(const uint64_t rip, Read(VmcsField::kGuestRip));
  TDP_ASSIGN_OR_RETURN(const uint64_t next, BehindInstruction(rip, exit.instruction_bytes));
  TDP_RETURN_IF_ERROR(Write(VmcsField::kGuestRip, next));
  TDP_ASSIGN_OR_RETURN(const uint64_t state, Read(VmcsField::kGuestInterruptibility));
  if ((state & (kBlockedBySti | kBlockedByMovSs)) != 0) {
    TDP_RETURN_IF_ERROR(
        Write(VmcsField::kGuestInterruptibility, state & ~(kBlockedBySti | kBlockedByMovSs)));
  }
  TDP_ASSIGN_OR_RETURN(const uint64_t flags, Read(VmcsField::kGuestRflags));
  if ((flags & kTrapFlag) == 0) return absl::OkStatus();
  TDP_ASSIGN_OR_RETURN(const uint64_t debug, Read(VmcsField::kGuestDebugControl));
  if ((debug & kBranchTrap) != 0) return absl::OkStatus();
  TDP_ASSIGN_OR_RETURN(const uint64_t pending, Read(VmcsField::kGuestPendingDebug));
  return Write(VmcsField::kGuestPendingDebug, pending | kPendingSingleStep);
}

// Returns where the instruction of `bytes` at `rip` ends. Outside of 64-bit mode the address space
// goes on at 0 behind 4 GiB, and the CPU takes no entry with more in RIP (SDM vol. 3C, 27.3.1.4).
absl::StatusOr<uint64_t> VtxVcpu::BehindInstruction(uint64_t rip, uint64_t bytes) const {
  constexpr uint64_t kLow = 0xffffffff;
  const uint64_t next = rip + bytes;
  if ((rip & ~kLow) == (next & ~kLow)) return next;
  TDP_ASSIGN_OR_RETURN(const uint64_t entry, Read(VmcsField::kEntryControls));
  TDP_ASSIGN_OR_RETURN(const uint64_t rights, Read(FieldAfter(VmcsField::kGuestEsRights, kCs)));
  const bool is_64_bit = (entry & entry_control::kGuest64) != 0 && (rights & kLongCode) != 0;
  return is_64_bit ? next : next & kLow;
}

void VtxVcpu::InjectException(uint8_t vector, int64_t error_code) {
  events_.AddException(vector, error_code);
}

bool VtxVcpu::InjectInterrupt(uint8_t vector) { return events_.AddInterrupt(vector); }

bool VtxVcpu::InjectNmi() {
  TDP_CHECK(options_.virtual_nmis);
  return events_.AddNmi();
}

// The fields hold what the last entry was given; the CPU has cleared the valid bit if that entry
// took place.
absl::Status VtxVcpu::WriteEvent() {
  // The guest gets a fault of its IRET, which has ended the blocking all the same.
  const bool is_fault =
      events_.now().is_valid() && events_.now().type() == PendingEvent::Type::kException;
  if (std::exchange(blocked_nmis_again_, false) && is_fault) {
    TDP_RETURN_IF_ERROR(EndBlocking(kBlockedByNmi));
  }
  bool after_sti = false;
  if (events_.interrupt_waits() || events_.nmi_waits()) {
    TDP_ASSIGN_OR_RETURN(const uint64_t state, VmRead(VmcsField::kGuestInterruptibility));
    TDP_ASSIGN_OR_RETURN(const uint64_t flags, VmRead(VmcsField::kGuestRflags));
    const bool is_blocked = (state & (kBlockedBySti | kBlockedByMovSs)) != 0;
    events_.Promote(!is_blocked && (flags & kInterruptFlag) != 0,
                    !is_blocked && (state & kBlockedByNmi) == 0);
    after_sti = (state & kBlockedBySti) != 0;
  }
  TDP_RETURN_IF_ERROR(OpenWindows(after_sti));
  const PendingEvent& event = events_.now();
  if (!event.is_valid()) return absl::OkStatus();
  TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kEntryInterruption, event.information));
  TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kEntryErrorCode, event.error_code));
  return VmWrite(VmcsField::kEntryInstructionLength, event.instruction_bytes);
}

// Sees to it that the guest comes back when it can take what still waits.
absl::Status VtxVcpu::OpenWindows(bool after_sti) {
  const PendingEvents::Windows windows = events_.windows(after_sti);
  uint32_t wanted = controls_.primary;
  if (windows.interrupt) wanted |= primary::kInterruptWindowExiting;
  if (windows.nmi) wanted |= primary::kNmiWindowExiting;
  if (wanted == primary_now_) return absl::OkStatus();
  primary_now_ = wanted;
  return VmWrite(VmcsField::kPrimaryControls, wanted);
}

// Keeps an event in the middle of whose delivery to the guest the exit came (its stack or IDT may
// be what was missing): the event is delivered again at the next entry. An NMI on its way already
// counts as blocking others, and it could not be entered with then.
absl::Status VtxVcpu::KeepInterruptedEvent(const VmExit& exit) {
  TDP_ASSIGN_OR_RETURN(const uint64_t vectoring, VmRead(VmcsField::kIdtVectoring));
  PendingEvent event;
  event.information = static_cast<uint32_t>(vectoring) & ~kVectoringReserved;
  if (!event.is_valid()) return BlockNmisAgain(exit);
  TDP_ASSIGN_OR_RETURN(const uint64_t error_code, VmRead(VmcsField::kIdtVectoringErrorCode));
  event.error_code = static_cast<uint32_t>(error_code);
  TDP_ASSIGN_OR_RETURN(const uint64_t bytes, VmRead(VmcsField::kExitInstructionLength));
  event.instruction_bytes = static_cast<uint32_t>(bytes);
  events_.Keep(event);
  return event.type() == PendingEvent::Type::kNmi ? EndBlocking(kBlockedByNmi) : absl::OkStatus();
}

// Blocks NMIs again where the guest's IRET had unblocked them before the exit cut it short: it is
// to be executed once more, and an NMI before that would come upon the stack of the one it ends.
absl::Status VtxVcpu::BlockNmisAgain(const VmExit& exit) {
  if (!options_.virtual_nmis || !exit.has_unblocked_nmis()) return absl::OkStatus();
  blocked_nmis_again_ = true;
  TDP_ASSIGN_OR_RETURN(const uint64_t state, VmRead(VmcsField::kGuestInterruptibility));
  return VmWrite(VmcsField::kGuestInterruptibility, state | kBlockedByNmi);
}

// Ends an NMI that was the host's and has done its work. Without virtual NMIs some CPUs save the
// blocking that it began as the guest's, which would keep the next one out; such a guest is never
// given NMIs and never blocks them.
absl::Status VtxVcpu::EndNmi() {
  tdp_unblock_nmi();
  return options_.virtual_nmis ? absl::OkStatus() : EndBlocking(kBlockedByNmi);
}

// A CPU that waits for its start-up IPI blocks NMIs and SMIs, and an emulated one goes on doing so
// when that has come: its NMIs end with the next IRET, and no entry is possible while a guest
// outside of SMM is said to block SMIs.
absl::Status VtxVcpu::EndWaitForSipi(const VmExit& exit) {
  if (exit.reason == ExitReason::kStartUpIpi) {
    tdp_unblock_nmi();
    has_waited_for_sipi_ = true;
  }
  return has_waited_for_sipi_ ? EndBlocking(kBlockedBySmi) : absl::OkStatus();
}

absl::Status VtxVcpu::EndBlocking(uint64_t kinds) {
  TDP_ASSIGN_OR_RETURN(const uint64_t state, VmRead(VmcsField::kGuestInterruptibility));
  return VmWrite(VmcsField::kGuestInterruptibility, state & ~kinds);
}

}  // namespace tdp::vtx
