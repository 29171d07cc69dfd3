// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/shadow_paging.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/instruction_reader.h"
#include "tdp/backends/vtx/write_instruction.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/guest/guest_walk.h"

namespace tdp::linux_example {
namespace {

using vtx::VmcsField;

constexpr uint8_t kGeneralProtectionVector = 13;
constexpr uint8_t kPageFaultVector = 14;
constexpr uint32_t kMsrPat = 0x277;
constexpr uint32_t kMsrEfer = 0xc0000080;
constexpr uint64_t kPatAtReset = 0x0007040600070406;

// Bits that the guest changes without an exit, for they have nothing to do with paging: TS of CR0;
// VME, PVI, TSD, DE, PCE, OSFXSR, OSXMMEXCPT and FSGSBASE of CR4.
constexpr uint64_t kGuestsOwnCr0 = 1 << 3;
constexpr uint64_t kGuestsOwnCr4 = 0xf | 1 << 8 | 3 << 9 | 1 << 16;
constexpr uint64_t kCr4Vmxe = 1 << 13;
constexpr uint64_t kEferSyscall = 1;
constexpr uint64_t kAlignmentCheck = 1 << 18;  // of RFLAGS
constexpr size_t kLongestInstruction = 15;

// Returns whether MOV to CR0 or CR4 or WRMSR to EFER takes the values (SDM vol. 3A, 2.5 and 5.1).
bool IsAllowed(const GuestControls& before, const GuestControls& controls, uint64_t cr3,
               uint64_t cr4_may_be_one) {
  using namespace guest;
  const bool pages = (controls.cr0 & kCr0Paging) != 0;
  const bool is_long = (controls.efer & kEferLongModeActive) != 0;
  const bool has_pcids = (controls.cr4 & kCr4ProcessContextIds) != 0;
  if ((controls.cr0 >> 32) != 0 || (pages && (controls.cr0 & kCr0ProtectionEnable) == 0)) {
    return false;
  }
  if ((controls.cr0 & kCr0NotWriteThrough) != 0 && (controls.cr0 & kCr0CacheDisable) == 0) {
    return false;
  }
  if ((controls.cr4 & (~cr4_may_be_one | kCr4Vmxe)) != 0) return false;
  if (is_long && (controls.cr4 & kCr4PhysicalAddressExtension) == 0) return false;
  const bool enables_pcids = has_pcids && (before.cr4 & kCr4ProcessContextIds) == 0;
  if (has_pcids && !is_long) return false;
  if (enables_pcids && (cr3 & kCr3ProcessContextIdMask) != 0) return false;
  return (controls.efer &
          ~(kEferSyscall | kEferLongModeEnable | kEferLongModeActive | kEferNoExecute)) == 0;
}

// LMA follows from LME and PG.
GuestControls WithLongMode(GuestControls controls) {
  using namespace guest;
  controls.efer &= ~kEferLongModeActive;
  if ((controls.efer & kEferLongModeEnable) != 0 && (controls.cr0 & kCr0Paging) != 0) {
    controls.efer |= kEferLongModeActive;
  }
  return controls;
}

}  // namespace

vtx::VtxVcpuOptions ShadowPaging::Options(vtx::VtxVcpuOptions options) {
  options.ept = false;
  options.unrestricted_guest = false;
  options.cr3_exiting = true;
  options.invlpg_exiting = true;
  options.exception_bitmap |= 1u << kPageFaultVector;
  return options;
}

absl::StatusOr<std::unique_ptr<ShadowPaging>> ShadowPaging::Create(vtx::FrameArena& arena,
                                                                   const vtx::VmxMsrs& msrs,
                                                                   vtx::VtxVcpu& vcpu,
                                                                   ReadMemory read) {
  TDP_ASSIGN_OR_RETURN(const Hpa page, arena.AllocateZeroed(kPageSize, kPageSize));
  TDP_RETURN_IF_ERROR(vcpu.SetMsrExits(kMsrEfer, true, true));
  TDP_RETURN_IF_ERROR(vcpu.SetMsrExits(kMsrPat, true, true));
  return absl::WrapUnique(
      new ShadowPaging(msrs, vcpu, std::move(read), arena.PointerTo<uint64_t>(page), page));
}

ShadowPaging::ShadowPaging(const vtx::VmxMsrs& msrs, vtx::VtxVcpu& vcpu, ReadMemory read,
                           uint64_t* pdptes, Hpa pdptes_at)
    : msrs_(msrs),
      vcpu_(vcpu),
      read_(std::move(read)),
      pdptes_(pdptes),
      pdptes_at_(pdptes_at),
      pat_(kPatAtReset) {}

// --- The registers -------------------------------------------------------------------------------

absl::Status ShadowPaging::Start(const vtx::GuestState& state, Vcpu& mmu) {
  mmu_ = &mmu;
  vtx::GuestState entered = state;
  const GuestControls controls = {.cr0 = state.cr0,
                                  .cr4 = state.cr4,
                                  .efer = state.efer,
                                  .physical_address_bits = msrs_.physical_address_bits};
  TDP_ASSIGN_OR_RETURN(const GuestEvent event, shadow().SetPaging(controls, state.cr3));
  if (event != GuestEvent::kNone) return absl::InvalidArgumentError("the state's PDPTEs");
  entered.cr0 = shadow().registers().cr0;
  entered.cr4 = shadow().registers().cr4;
  entered.efer = shadow().registers().efer;
  TDP_RETURN_IF_ERROR(vcpu_.SetState(entered));
  loaded_.reset();  // the VMCS has the guest's own CR3 now
  TDP_RETURN_IF_ERROR(vcpu_.Write(VmcsField::kCr0Mask, ~kGuestsOwnCr0));
  TDP_RETURN_IF_ERROR(vcpu_.Write(VmcsField::kCr4Mask, ~kGuestsOwnCr4));
  return WriteShadows();
}

absl::Status ShadowPaging::Adopt(Vcpu& mmu) {
  TDP_ASSIGN_OR_RETURN(const GuestControls controls, Controls());
  const uint64_t cr3 = shadow().roots().cr3;
  mmu_ = &mmu;
  loaded_.reset();
  return shadow().SetPaging(controls, cr3).status();
}

// Writes what the guest reads of its registers.
absl::Status ShadowPaging::WriteShadows() {
  const GuestControls& controls = shadow().paging().controls();
  TDP_RETURN_IF_ERROR(vcpu_.Write(VmcsField::kCr0Shadow, controls.cr0));
  return vcpu_.Write(VmcsField::kCr4Shadow, controls.cr4);
}

absl::Status ShadowPaging::Enter() {
  const ShadowRegisters& wanted = shadow().registers();
  if (loaded_ == wanted) return absl::OkStatus();
  const bool is_64_bit = (wanted.efer & guest::kEferLongModeActive) != 0;
  TDP_ASSIGN_OR_RETURN(const uint64_t cr0, vcpu_.Read(VmcsField::kGuestCr0));
  TDP_ASSIGN_OR_RETURN(const uint64_t cr4, vcpu_.Read(VmcsField::kGuestCr4));
  TDP_ASSIGN_OR_RETURN(const uint64_t entry, vcpu_.Read(VmcsField::kEntryControls));
  const uint64_t mode = is_64_bit ? uint64_t{vtx::entry_control::kGuest64} : 0;
  const std::pair<VmcsField, uint64_t> fields[] = {
      {VmcsField::kGuestCr0,
       (wanted.cr0 & ~kGuestsOwnCr0) | msrs_.cr0_must_be_one | (cr0 & kGuestsOwnCr0)},
      {VmcsField::kGuestCr4,
       (wanted.cr4 & ~kGuestsOwnCr4) | msrs_.cr4_must_be_one | (cr4 & kGuestsOwnCr4)},
      {VmcsField::kGuestCr3, is_64_bit ? wanted.cr3 : pdptes_at_.raw()},
      {VmcsField::kGuestEfer, wanted.efer},
      {VmcsField::kEntryControls, (entry & ~uint64_t{vtx::entry_control::kGuest64}) | mode},
  };
  for (const auto& [field, value] : fields) TDP_RETURN_IF_ERROR(vcpu_.Write(field, value));
  std::copy(wanted.pdptes.begin(), wanted.pdptes.end(), pdptes_);
  loaded_ = wanted;
  return absl::OkStatus();
}

// Returns the registers as they are now: the bits that make no exit are in the hardware's.
absl::StatusOr<GuestControls> ShadowPaging::Controls() {
  GuestControls controls = shadow().paging().controls();
  TDP_ASSIGN_OR_RETURN(const uint64_t cr0, vcpu_.Read(VmcsField::kGuestCr0));
  TDP_ASSIGN_OR_RETURN(const uint64_t cr4, vcpu_.Read(VmcsField::kGuestCr4));
  controls.cr0 = (controls.cr0 & ~kGuestsOwnCr0) | (cr0 & kGuestsOwnCr0);
  controls.cr4 = (controls.cr4 & ~kGuestsOwnCr4) | (cr4 & kGuestsOwnCr4);
  return controls;
}

// --- The exits -----------------------------------------------------------------------------------

absl::StatusOr<bool> ShadowPaging::Handle(const vtx::VmExit& exit) {
  absl::Status status;
  switch (exit.reason) {
    case vtx::ExitReason::kControlRegister:
      status = OnControlRegister(exit);
      break;
    case vtx::ExitReason::kInvlpg:
      status = shadow().Invlpg(Gva(exit.qualification));
      if (status.ok()) status = Finish(exit);
      break;
    case vtx::ExitReason::kInvpcid:
      status = OnInvpcid(exit);
      break;
    case vtx::ExitReason::kMsrRead:
    case vtx::ExitReason::kMsrWrite:
      return OnMsr(exit);
    default:
      if (!exit.is_exception(kPageFaultVector)) return false;
      status = OnPageFault(exit);
      break;
  }
  if (!status.ok()) return status;
  return true;
}

// Ends an instruction that has been carried out, or that raises #GP.
absl::Status ShadowPaging::Finish(const vtx::VmExit& exit, GuestEvent event) {
  if (event == GuestEvent::kNone) return vcpu_.SkipInstruction(exit);
  vcpu_.InjectException(kGeneralProtectionVector, 0);
  return absl::OkStatus();
}

absl::Status ShadowPaging::OnControlRegister(const vtx::VmExit& exit) {
  enum Access { kMoveTo = 0, kMoveFrom = 1, kClts = 2, kLmsw = 3 };
  const int number = exit.qualification & 0xf;
  const int operand = exit.qualification >> 8 & 0xf;
  switch (exit.qualification >> 4 & 3) {
    case kMoveTo: {
      TDP_ASSIGN_OR_RETURN(const uint64_t value, RegisterOf(operand));
      return MoveToRegister(exit, number, value);
    }
    case kMoveFrom:  // CR3 alone exits
      if (operand == vtx::kRspNumber) {
        TDP_RETURN_IF_ERROR(vcpu_.Write(VmcsField::kGuestRsp, shadow().roots().cr3));
      } else {
        vtx::RegisterAt(vcpu_.registers(), operand) = shadow().roots().cr3;
      }
      return Finish(exit);
    case kLmsw: {
      constexpr uint64_t kLoaded = 0xf, kProtection = 1;
      TDP_ASSIGN_OR_RETURN(const GuestControls controls, Controls());
      const uint64_t source = exit.qualification >> 16 & kLoaded;
      return MoveToRegister(exit, 0, (controls.cr0 & ~(kLoaded & ~kProtection)) | source);
    }
    default:
      return absl::InternalError("CLTS exits, though TS is the guest's own");
  }
}

absl::Status ShadowPaging::MoveToRegister(const vtx::VmExit& exit, int number, uint64_t value) {
  if (number == 3) {
    const bool has_pcids = (shadow().paging().controls().cr4 & guest::kCr4ProcessContextIds) != 0;
    const uint64_t address = has_pcids ? value & ~guest::kCr3KeepTranslations : value;
    if (address >> msrs_.physical_address_bits != 0) {
      return Finish(exit, GuestEvent::kGeneralProtection);
    }
    TDP_ASSIGN_OR_RETURN(const GuestEvent event, shadow().WriteCr3(value));
    return Finish(exit, event);
  }
  TDP_ASSIGN_OR_RETURN(const GuestControls before, Controls());
  GuestControls controls = before;
  (number == 0 ? controls.cr0 : controls.cr4) = value;
  controls = WithLongMode(controls);
  if (number != 0 && number != 4) return absl::UnimplementedError("MOV to CR8");
  if (!IsAllowed(before, controls, shadow().roots().cr3, msrs_.cr4_may_be_one)) {
    return Finish(exit, GuestEvent::kGeneralProtection);
  }
  TDP_ASSIGN_OR_RETURN(const GuestEvent event, shadow().SetPaging(controls, shadow().roots().cr3));
  if (event != GuestEvent::kNone) return Finish(exit, event);
  // The bits that are the guest's own are the hardware's at once; the rest follows at the entry.
  const VmcsField field = number == 0 ? VmcsField::kGuestCr0 : VmcsField::kGuestCr4;
  const uint64_t own = number == 0 ? kGuestsOwnCr0 : kGuestsOwnCr4;
  TDP_ASSIGN_OR_RETURN(const uint64_t hardware, vcpu_.Read(field));
  TDP_RETURN_IF_ERROR(vcpu_.Write(field, (hardware & ~own) | (value & own)));
  TDP_RETURN_IF_ERROR(WriteShadows());
  return Finish(exit);
}

absl::StatusOr<bool> ShadowPaging::OnMsr(const vtx::VmExit& exit) {
  vtx::GuestRegisters& r = vcpu_.registers();
  const auto msr = static_cast<uint32_t>(r.rcx);
  if (msr != kMsrEfer && msr != kMsrPat) return false;
  TDP_ASSIGN_OR_RETURN(const GuestControls before, Controls());
  GuestControls controls = before;
  if (exit.reason == vtx::ExitReason::kMsrRead) {
    const uint64_t value = msr == kMsrEfer ? controls.efer : pat_;
    r.rax = value & 0xffffffff;
    r.rdx = value >> 32;
    TDP_RETURN_IF_ERROR(Finish(exit));
    return true;
  }
  const uint64_t value = (r.rdx & 0xffffffff) << 32 | (r.rax & 0xffffffff);
  GuestEvent event = GuestEvent::kNone;
  if (msr == kMsrPat) {
    pat_ = value;
  } else {
    const bool enabled = (controls.efer & guest::kEferLongModeEnable) != 0;
    const bool enables = (value & guest::kEferLongModeEnable) != 0;
    const bool pages = (controls.cr0 & guest::kCr0Paging) != 0;
    controls.efer = value;
    controls = WithLongMode(controls);
    if ((pages && enabled != enables) || !IsAllowed(before, controls, 0, msrs_.cr4_may_be_one)) {
      event = GuestEvent::kGeneralProtection;
    } else {
      TDP_ASSIGN_OR_RETURN(event, shadow().SetPaging(controls, shadow().roots().cr3));
    }
  }
  TDP_RETURN_IF_ERROR(Finish(exit, event));
  return true;
}

// The descriptor lies in memory: its address is worked out from the instruction's information (SDM
// table 28-14) and the displacement in the qualification.
absl::Status ShadowPaging::OnInvpcid(const vtx::VmExit& exit) {
  TDP_ASSIGN_OR_RETURN(const uint64_t information,
                       vcpu_.Read(VmcsField::kExitInstructionInformation));
  const size_t segment = information >> 15 & 7;
  TDP_ASSIGN_OR_RETURN(uint64_t address,
                       vcpu_.Read(vtx::FieldAfter(VmcsField::kGuestEsBase, segment)));
  address += exit.qualification;
  if ((information & 1 << 27) == 0) {
    TDP_ASSIGN_OR_RETURN(const uint64_t base, RegisterOf(information >> 23 & 0xf));
    address += base;
  }
  if ((information & 1 << 22) == 0) {
    TDP_ASSIGN_OR_RETURN(const uint64_t index, RegisterOf(information >> 18 & 0xf));
    address += index << (information & 3);
  }
  std::array<uint64_t, 2> descriptor = {};
  const absl::Span<uint8_t> bytes(reinterpret_cast<uint8_t*>(descriptor.data()), 16);
  TDP_ASSIGN_OR_RETURN(const bool is_read, Read(Gva(address), GuestAccess::Read(), bytes));
  if (!is_read) return absl::UnimplementedError("INVPCID of a descriptor that is not mapped");
  TDP_ASSIGN_OR_RETURN(const uint64_t type, RegisterOf(information >> 28 & 0xf));
  TDP_ASSIGN_OR_RETURN(const GuestEvent event,
                       shadow().Invpcid(type, descriptor[0], Gva(descriptor[1])));
  return Finish(exit, event);
}

// --- Page faults ---------------------------------------------------------------------------------

absl::Status ShadowPaging::OnPageFault(const vtx::VmExit& exit) {
  const Gva gva(exit.qualification);
  TDP_ASSIGN_OR_RETURN(const uint64_t flags, vcpu_.Read(VmcsField::kGuestRflags));
  TDP_ASSIGN_OR_RETURN(const int privilege, Privilege());
  const bool excused = (flags & kAlignmentCheck) != 0 && privilege < 3;
  const PagingFaultResult result = shadow().HandlePageFault(gva, exit.error_code, excused);
  switch (result.outcome) {
    case PagingOutcome::kFixed:
    case PagingOutcome::kSpurious:
    case PagingOutcome::kRetry:
      return absl::OkStatus();
    case PagingOutcome::kGuestFault:
      vcpu_.registers().cr2 = gva.raw();
      vcpu_.InjectException(kPageFaultVector, result.error_code);
      return absl::OkStatus();
    case PagingOutcome::kEmulateWrite:
      return EmulateWrite(exit, result.gpa);
    case PagingOutcome::kError:
      return result.status;
    default:
      return absl::InternalError(absl::StrFormat("gva 0x%x, gpa 0x%x: %s", gva.raw(),
                                                 result.gpa.raw(),
                                                 PagingOutcomeName(result.outcome)));
  }
}

absl::Status ShadowPaging::EmulateWrite(const vtx::VmExit& exit, Gpa gpa) {
  constexpr uint64_t kLongCode = 1 << 13;  // of the rights of CS
  TDP_ASSIGN_OR_RETURN(const uint64_t rip, vcpu_.Read(VmcsField::kGuestRip));
  TDP_ASSIGN_OR_RETURN(const uint64_t base,
                       vcpu_.Read(vtx::FieldAfter(VmcsField::kGuestEsBase, vtx::kCs)));
  TDP_ASSIGN_OR_RETURN(const uint64_t rights,
                       vcpu_.Read(vtx::FieldAfter(VmcsField::kGuestEsRights, vtx::kCs)));
  TDP_ASSIGN_OR_RETURN(uint64_t flags, vcpu_.Read(VmcsField::kGuestRflags));
  TDP_ASSIGN_OR_RETURN(const uint64_t rsp, vcpu_.Read(VmcsField::kGuestRsp));
  std::array<uint8_t, kLongestInstruction> code = {};
  TDP_ASSIGN_OR_RETURN(const size_t fetched, Fetch(Gva(base + rip), absl::MakeSpan(code)));
  if (fetched == 0) return absl::OkStatus();  // the guest's own fault is next
  const absl::Span<const uint8_t> bytes(code.data(), fetched);
  vtx::GuestRegisters& registers = vcpu_.registers();
  absl::StatusOr<vtx::WriteInstruction> write =
      vtx::DecodeWriteInstruction(bytes, (rights & kLongCode) != 0, registers, rsp);
  if (!write.ok()) return GiveUpTable(gpa, write.status());
  const auto size = static_cast<ByteCount>(write->size);
  if (gpa.raw() % size != 0) return GiveUpTable(gpa, absl::InvalidArgumentError("not aligned"));
  if (write->kind == vtx::WriteInstruction::Kind::kMoveString) {
    const absl::Span<uint8_t> source(reinterpret_cast<uint8_t*>(&write->value), size);
    TDP_ASSIGN_OR_RETURN(const bool is_read, Read(Gva(registers.rsi), GuestAccess::Read(), source));
    if (!is_read) return absl::OkStatus();
  }
  if (write->kind == vtx::WriteInstruction::Kind::kMoveSegment) {
    const auto segment = static_cast<size_t>(write->target.number);
    TDP_ASSIGN_OR_RETURN(write->value,
                         vcpu_.Read(vtx::FieldAfter(VmcsField::kGuestEsSelector, segment)));
  }
  absl::StatusOr<bool> is_done = false;
  const absl::Status status = shadow().EmulateWrite(gpa, size, [&](std::byte* place) {
    is_done = vtx::ExecuteWrite(*write, place, registers, flags);
  });
  if (absl::IsUnavailable(status)) return absl::OkStatus();
  TDP_RETURN_IF_ERROR(status);
  TDP_RETURN_IF_ERROR(is_done.status());
  TDP_RETURN_IF_ERROR(vcpu_.Write(VmcsField::kGuestRflags, flags));
  if (!*is_done) return absl::OkStatus();
  vtx::VmExit done = exit;
  done.instruction_bytes = static_cast<uint32_t>(write->length);
  return Finish(done);
}

// Gives a table up where an instruction that is not understood writes to it: it is perhaps none any
// more. What shadows it goes, and the guest tries again.
absl::Status ShadowPaging::GiveUpTable(Gpa gpa, const absl::Status& why) {
  constexpr int kMost = 8;
  const Gpa table = gpa.AlignDown(kPageSize);
  times_given_up_ = table == given_up_ ? times_given_up_ + 1 : 1;
  given_up_ = table;
  if (times_given_up_ > kMost) {
    return absl::UnimplementedError(absl::StrFormat(
        "a write to the page table at gpa 0x%x, which is in use: %s", gpa.raw(), why.message()));
  }
  return shadow().OnWritten(table, kPageSize);
}

// --- The guest's registers and memory ------------------------------------------------------------

absl::StatusOr<uint64_t> ShadowPaging::RegisterOf(int number) {
  if (number == vtx::kRspNumber) return vcpu_.Read(VmcsField::kGuestRsp);
  return vtx::RegisterAt(vcpu_.registers(), number);
}

absl::StatusOr<int> ShadowPaging::Privilege() {
  TDP_ASSIGN_OR_RETURN(const uint64_t rights,
                       vcpu_.Read(vtx::FieldAfter(VmcsField::kGuestEsRights, vtx::kSs)));
  return static_cast<int>(rights >> 5 & 3);
}

// False if the guest's own tables or rights do not allow it.
absl::StatusOr<bool> ShadowPaging::Read(Gva gva, GuestAccess access, absl::Span<uint8_t> to) {
  TDP_ASSIGN_OR_RETURN(const int privilege, Privilege());
  if (privilege == 3) access = access.ByUser();
  while (!to.empty()) {
    const size_t inside = std::min<size_t>(to.size(), kPageSize - gva.raw() % kPageSize);
    GuestWalk walk;
    TDP_RETURN_IF_ERROR(mmu_->WalkGuest(shadow().paging(), shadow().roots(), gva, access, walk));
    if (walk.outcome != GuestWalkOutcome::kMapped) return false;
    if (!read_(walk.gpa, to.first(inside))) return false;
    gva = gva + inside;
    to.remove_prefix(inside);
  }
  return true;
}

// Fetches an instruction's bytes, as far as they are mapped: what is there of the next page may be
// none of it.
absl::StatusOr<size_t> ShadowPaging::Fetch(Gva gva, absl::Span<uint8_t> to) {
  const size_t inside = std::min<size_t>(to.size(), kPageSize - gva.raw() % kPageSize);
  TDP_ASSIGN_OR_RETURN(const bool has_first, Read(gva, GuestAccess::Fetch(), to.first(inside)));
  if (!has_first) return 0;
  if (inside == to.size()) return inside;
  TDP_ASSIGN_OR_RETURN(const bool has_rest,
                       Read(gva + inside, GuestAccess::Fetch(), to.subspan(inside)));
  return has_rest ? to.size() : inside;
}

}  // namespace tdp::linux_example
