// SPDX-License-Identifier: Apache-2.0

#include "tdp/backends/vtx/vtx_vcpu.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_instructions.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint64_t kNoVmcsLink = ~uint64_t{0};
constexpr uint64_t kEptpSwitchingFunction = 1;
constexpr uint32_t kEventValid = 1u << 31;
constexpr uint32_t kEventHasErrorCode = 1u << 11;
constexpr uint32_t kEventTypeException = 3u << 8;
constexpr uint32_t kEventReserved = 1u << 12;  // IDT-vectoring information has a bit here
constexpr uint32_t kEntryFailed = 1u << 31;    // of the exit reason
constexpr uint64_t kBlockedByNmi = 1 << 3;     // of the interruptibility state

constexpr uint32_t kMsrPat = 0x277;
constexpr uint32_t kMsrEfer = 0xc0000080;
constexpr uint32_t kMsrFsBase = 0xc0000100;
constexpr uint32_t kMsrGsBase = 0xc0000101;
constexpr uint32_t kMsrSysenterCs = 0x174;
constexpr uint32_t kMsrSysenterEsp = 0x175;
constexpr uint32_t kMsrSysenterEip = 0x176;
constexpr uint64_t kPatAtReset = 0x0007040600070406;

// The base of the TSS descriptor `selector` names.
uint64_t TaskBase(uint64_t gdt, uint16_t selector) {
  const auto* descriptor = reinterpret_cast<const uint64_t*>(gdt + (selector & ~7));
  return (descriptor[0] >> 16 & 0xffffff) | (descriptor[0] >> 56) << 24 | descriptor[1] << 32;
}

bool HasXsave() { return (tdp_read_cr4() & (1 << 18)) != 0; }

// The bits of the secondary word that `options` asks for.
uint32_t WantedSecondary(const VtxVcpuOptions& options) {
  uint32_t wanted = secondary::kEpt;
  if (options.unrestricted_guest) wanted |= secondary::kUnrestrictedGuest;
  if (options.vpid != 0) wanted |= secondary::kVpid;
  if (options.pml) wanted |= secondary::kPml;
  if (options.mbec) wanted |= secondary::kMbec;
  if (options.spp) wanted |= secondary::kSpp;
  if (options.ve) wanted |= secondary::kEptViolationVe;
  if (options.eptp_switching) wanted |= secondary::kVmFunctions;
  return wanted;
}

}  // namespace

absl::StatusOr<VtxVcpu::Controls> VtxVcpu::Choose(const VmxMsrs& msrs,
                                                  const VtxVcpuOptions& options) {
  Controls controls;
  TDP_ASSIGN_OR_RETURN(
      controls.pin,
      ChooseControls(msrs, ControlWord::kPin, pin::kNmiExiting | pin::kExternalInterruptExiting));
  TDP_ASSIGN_OR_RETURN(
      controls.primary,
      ChooseControls(msrs, ControlWord::kPrimary,
                     primary::kSecondaryControls | primary::kUnconditionalIoExiting |
                         primary::kMovDrExiting | (options.hlt_exiting ? primary::kHltExiting : 0),
                     0, primary::kCr3LoadExiting | primary::kCr3StoreExiting));
  TDP_ASSIGN_OR_RETURN(controls.secondary,
                       ChooseControls(msrs, ControlWord::kSecondary, WantedSecondary(options)));
  TDP_ASSIGN_OR_RETURN(
      controls.exit,
      ChooseControls(msrs, ControlWord::kExit,
                     exit_control::kHost64 | exit_control::kSavePat | exit_control::kLoadPat |
                         exit_control::kSaveEfer | exit_control::kLoadEfer));
  TDP_ASSIGN_OR_RETURN(controls.entry,
                       ChooseControls(msrs, ControlWord::kEntry,
                                      entry_control::kLoadPat | entry_control::kLoadEfer));
  if (options.eptp_switching && (msrs.vm_functions & kEptpSwitchingFunction) == 0) {
    return absl::UnimplementedError("this CPU has no VM function \"EPTP switching\"");
  }
  return controls;
}

absl::StatusOr<std::unique_ptr<VtxVcpu>> VtxVcpu::Create(FrameArena& arena, const VmxMsrs& msrs,
                                                         const VtxVcpuOptions& options) {
  TDP_ASSIGN_OR_RETURN(const Controls controls, Choose(msrs, options));
  auto vcpu = absl::WrapUnique(new VtxVcpu(arena, msrs, options, controls));
  TDP_RETURN_IF_ERROR(vcpu->AllocatePages());
  *arena.PointerTo<uint32_t>(vcpu->vmcs_) = msrs.revision();
  return vcpu;
}

VtxVcpu::VtxVcpu(FrameArena& arena, const VmxMsrs& msrs, const VtxVcpuOptions& options,
                 const Controls& controls)
    : arena_(arena), msrs_(msrs), options_(options), controls_(controls) {}

VtxVcpu::~VtxVcpu() {
  TDP_CHECK(!is_loaded());
  for (const Hpa page :
       {vmcs_, msr_bitmap_, pml_, eptp_list_, ve_information_, guest_vectors_, host_vectors_}) {
    if (page != Hpa(0)) arena_.Free(page, kPageSize);
  }
}

absl::Status VtxVcpu::AllocatePages() {
  const std::pair<Hpa*, bool> pages[] = {
      {&vmcs_, true},
      {&msr_bitmap_, true},
      {&guest_vectors_, true},
      {&host_vectors_, true},
      {&pml_, options_.pml},
      {&eptp_list_, options_.eptp_switching},
      {&ve_information_, options_.ve},
  };
  for (const auto& [page, wanted] : pages) {
    if (!wanted) continue;
    TDP_ASSIGN_OR_RETURN(*page, arena_.AllocateZeroed(kPageSize, kPageSize));
  }
  return absl::OkStatus();
}

absl::Status VtxVcpu::Load(VmxCpu& cpu) {
  TDP_CHECK(!is_loaded());
  if (!initialized_) TDP_RETURN_IF_ERROR(VmClear(vmcs_));
  TDP_RETURN_IF_ERROR(VmPtrLoad(vmcs_));
  cpu_ = &cpu;
  if (!initialized_) {
    TDP_RETURN_IF_ERROR(WriteControls());
    TDP_RETURN_IF_ERROR(WriteOptionalControls());
    initialized_ = true;
  }
  return WriteHostState();
}

absl::Status VtxVcpu::Unload() {
  TDP_CHECK(is_loaded());
  TDP_RETURN_IF_ERROR(VmClear(vmcs_));
  launched_ = false;
  cpu_ = nullptr;
  return absl::OkStatus();
}

absl::Status VtxVcpu::WriteControls() {
  const std::pair<VmcsField, uint64_t> fields[] = {
      {VmcsField::kPinControls, controls_.pin},
      {VmcsField::kPrimaryControls, controls_.primary},
      {VmcsField::kSecondaryControls, controls_.secondary},
      {VmcsField::kExitControls, controls_.exit},
      {VmcsField::kEntryControls, controls_.entry},
      {VmcsField::kExceptionBitmap, options_.exception_bitmap},
      {VmcsField::kPageFaultMask, 0},
      {VmcsField::kPageFaultMatch, 0},
      {VmcsField::kCr3TargetCount, 0},
      {VmcsField::kExitMsrStoreCount, 0},
      {VmcsField::kExitMsrLoadCount, 0},
      {VmcsField::kEntryMsrLoadCount, 0},
      {VmcsField::kEntryInterruption, 0},
      {VmcsField::kVmcsLink, kNoVmcsLink},
      {VmcsField::kGuestPat, kPatAtReset},
  };
  for (const auto& [field, value] : fields) TDP_RETURN_IF_ERROR(VmWrite(field, value));
  return absl::OkStatus();
}

absl::Status VtxVcpu::WriteOptionalControls() {
  if (options_.vpid != 0) TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kVpid, options_.vpid));
  if (options_.pml) {
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kPmlAddress, pml_.raw()));
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kPmlIndex, kPmlEntries - 1));
  }
  if (options_.ve) {
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kVeInformation, ve_information_.raw()));
  }
  if (options_.eptp_switching) {
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kVmFunctionControls, kEptpSwitchingFunction));
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kEptpList, eptp_list_.raw()));
  }
  return absl::OkStatus();
}

// Of the CPU and thread that loads the vCPU: FS is the thread's own storage.
absl::Status VtxVcpu::WriteHostState() {
  uint16_t selectors[7];
  uint64_t tables[2];
  tdp_read_selectors(selectors);
  tdp_read_table_bases(tables);
  // The order of tdp_read_selectors is that of the fields. An exit demands RPL and TI of 0.
  for (int i = 0; i < 7; ++i) {
    TDP_RETURN_IF_ERROR(VmWrite(FieldAfter(VmcsField::kHostEs, i), selectors[i] & ~7));
  }
  const std::pair<VmcsField, uint64_t> fields[] = {
      {VmcsField::kHostCr0, tdp_read_cr0()},
      {VmcsField::kHostCr3, tdp_read_cr3()},
      {VmcsField::kHostCr4, tdp_read_cr4()},
      {VmcsField::kHostFsBase, tdp_rdmsr(kMsrFsBase)},
      {VmcsField::kHostGsBase, tdp_rdmsr(kMsrGsBase)},
      {VmcsField::kHostTrBase, TaskBase(tables[0], selectors[6])},
      {VmcsField::kHostGdtrBase, tables[0]},
      {VmcsField::kHostIdtrBase, tables[1]},
      {VmcsField::kHostPat, tdp_rdmsr(kMsrPat)},
      {VmcsField::kHostEfer, tdp_rdmsr(kMsrEfer)},
      {VmcsField::kHostSysenterCs, tdp_rdmsr(kMsrSysenterCs)},
      {VmcsField::kHostSysenterEsp, tdp_rdmsr(kMsrSysenterEsp)},
      {VmcsField::kHostSysenterEip, tdp_rdmsr(kMsrSysenterEip)},
      {VmcsField::kHostRip, reinterpret_cast<uint64_t>(&tdp_vmx_exit)},
  };
  for (const auto& [field, value] : fields) TDP_RETURN_IF_ERROR(VmWrite(field, value));
  return absl::OkStatus();
}

absl::Status VtxVcpu::SetState(const GuestState& state) {
  TDP_CHECK(is_loaded());
  return WriteGuestState(state, msrs_, options_.unrestricted_guest);
}

absl::StatusOr<uint64_t> VtxVcpu::Read(VmcsField field) const {
  TDP_CHECK(is_loaded());
  return VmRead(field);
}

absl::Status VtxVcpu::Write(VmcsField field, uint64_t value) {
  TDP_CHECK(is_loaded());
  return VmWrite(field, value);
}

absl::Status VtxVcpu::SkipInstruction(const VmExit& exit) {
  TDP_ASSIGN_OR_RETURN(const uint64_t rip, Read(VmcsField::kGuestRip));
  return Write(VmcsField::kGuestRip, rip + exit.instruction_bytes);
}

void VtxVcpu::InjectException(uint8_t vector, int64_t error_code) {
  event_ = kEventValid | kEventTypeException | vector | (error_code >= 0 ? kEventHasErrorCode : 0);
  event_error_code_ = static_cast<uint32_t>(error_code);
}

absl::Status VtxVcpu::WriteEvent() {
  if (event_ == 0) return absl::OkStatus();
  TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kEntryInterruption, event_));
  TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kEntryErrorCode, event_error_code_));
  TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kEntryInstructionLength, event_instruction_bytes_));
  event_ = 0;
  return absl::OkStatus();
}

int VtxVcpu::Enter() {
  const int xsave = HasXsave() ? 1 : 0;
  tdp_save_vector_state(arena_.PointerTo<void>(host_vectors_), xsave);
  tdp_load_vector_state(arena_.PointerTo<void>(guest_vectors_), xsave);
  const int result = tdp_vmx_enter(&registers_, launched_ ? 1 : 0);
  tdp_save_vector_state(arena_.PointerTo<void>(guest_vectors_), xsave);
  tdp_load_vector_state(arena_.PointerTo<void>(host_vectors_), xsave);
  return result;
}

absl::StatusOr<VmExit> VtxVcpu::Run(Eptp eptp) {
  TDP_CHECK(is_loaded());
  if (!(eptp == eptp_)) {
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kEptPointer, eptp.raw()));
    eptp_ = eptp;
  }
  TDP_RETURN_IF_ERROR(WriteEvent());
  const int result = Enter();
  if (result == kVmxEnterKicked) {
    cpu_->TakeKick();
    return VmExit{};
  }
  TDP_RETURN_IF_ERROR(
      VmxStatus(static_cast<VmxResult>(result), launched_ ? "VMRESUME" : "VMLAUNCH"));
  launched_ = true;
  if (options_.eptp_switching) {
    TDP_ASSIGN_OR_RETURN(const uint64_t switched_to, VmRead(VmcsField::kEptPointer));
    eptp_ = Eptp(switched_to);
  }
  return ReadExit();
}

absl::StatusOr<VmExit> VtxVcpu::ReadExit() {
  const auto read = [](VmcsField field) {
    uint64_t value = 0;
    tdp_vmread(static_cast<uint64_t>(field), &value);  // these fields always exist
    return value;
  };
  const uint64_t reason = read(VmcsField::kExitReason);
  VmExit exit;
  exit.reason = static_cast<ExitReason>(reason & 0xffff);
  exit.qualification = read(VmcsField::kExitQualification);
  if ((reason & kEntryFailed) != 0) {
    return absl::FailedPreconditionError(
        absl::StrFormat("VM entry failed with exit reason %d, qualification 0x%x", reason & 0xffff,
                        exit.qualification));
  }
  exit.gpa = Gpa(read(VmcsField::kGuestPhysicalAddress));
  exit.gva = Gva(read(VmcsField::kGuestLinearAddress));
  exit.interruption = static_cast<uint32_t>(read(VmcsField::kExitInterruption));
  exit.instruction_bytes = static_cast<uint32_t>(read(VmcsField::kExitInstructionLength));
  if (exit.is_nmi()) TDP_RETURN_IF_ERROR(EndNmi());
  TDP_RETURN_IF_ERROR(KeepInterruptedEvent());
  return exit;
}

// An exit in the middle of the delivery of an event to the guest (its stack or IDT may be what was
// missing): the event is delivered again at the next entry.
absl::Status VtxVcpu::KeepInterruptedEvent() {
  TDP_ASSIGN_OR_RETURN(const uint64_t vectoring, VmRead(VmcsField::kIdtVectoring));
  if ((vectoring & kEventValid) == 0) return absl::OkStatus();
  event_ = static_cast<uint32_t>(vectoring) & ~kEventReserved;
  TDP_ASSIGN_OR_RETURN(const uint64_t error_code, VmRead(VmcsField::kIdtVectoringErrorCode));
  event_error_code_ = static_cast<uint32_t>(error_code);
  TDP_ASSIGN_OR_RETURN(const uint64_t bytes, VmRead(VmcsField::kExitInstructionLength));
  event_instruction_bytes_ = static_cast<uint32_t>(bytes);
  return absl::OkStatus();
}

// The NMI was the host's and has done its work. Some CPUs save the blocking that it began as the
// guest's, which would keep the next one out; a guest that is never given NMIs never blocks them.
absl::Status VtxVcpu::EndNmi() {
  tdp_unblock_nmi();
  TDP_ASSIGN_OR_RETURN(const uint64_t state, VmRead(VmcsField::kGuestInterruptibility));
  return VmWrite(VmcsField::kGuestInterruptibility, state & ~kBlockedByNmi);
}

absl::Status VtxVcpu::SetEptpList(absl::Span<const Eptp> list) {
  TDP_CHECK(options_.eptp_switching);
  constexpr size_t kListEntries = 512;
  if (list.size() > kListEntries) {
    return absl::InvalidArgumentError(
        absl::StrFormat("EPTP list of %d entries: at most %d", list.size(), kListEntries));
  }
  auto* entries = arena_.PointerTo<uint64_t>(eptp_list_);
  for (size_t i = 0; i < kListEntries; ++i) entries[i] = i < list.size() ? list[i].raw() : 0;
  return absl::OkStatus();
}

absl::Status VtxVcpu::SetSppTable(Hpa root) {
  TDP_CHECK(options_.spp);
  return Write(VmcsField::kSppTablePointer, root.raw());
}

absl::StatusOr<absl::Span<const Gpa>> VtxVcpu::DrainPml() {
  TDP_CHECK(options_.pml);
  TDP_ASSIGN_OR_RETURN(const uint64_t index, Read(VmcsField::kPmlIndex));
  const auto* entries = arena_.PointerTo<const uint64_t>(pml_);
  // The index counts down and names the next free entry; all are used once it has wrapped.
  const uint32_t first = index < kPmlEntries ? static_cast<uint32_t>(index) + 1 : 0;
  size_t count = 0;
  for (uint32_t i = kPmlEntries; i-- > first;) {
    drained_[count++] = Gpa(entries[i] & ~kPageOffsetMask);  // Bochs keeps the offset
  }
  if (count != 0) TDP_RETURN_IF_ERROR(Write(VmcsField::kPmlIndex, kPmlEntries - 1));
  return absl::MakeConstSpan(drained_.data(), count);
}

}  // namespace tdp::vtx
