// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/vtx_vcpu.h"

#include <cpuid.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/exit_bitmaps.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/backends/vtx/vmx_instructions.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {
namespace {

constexpr uint64_t kNoVmcsLink = ~uint64_t{0};
constexpr uint64_t kEptpSwitchingFunction = 1;
constexpr uint32_t kEntryFailed = 1u << 31;  // of the exit reason

constexpr uint32_t kMsrPat = 0x277;
constexpr uint32_t kMsrEfer = 0xc0000080;
constexpr uint32_t kMsrFsBase = 0xc0000100;
constexpr uint32_t kMsrSysenterCs = 0x174;
constexpr uint32_t kMsrSysenterEsp = 0x175;
constexpr uint32_t kMsrSysenterEip = 0x176;
constexpr uint64_t kPatAtReset = 0x0007040600070406;

// Returns the base of the TSS descriptor that `selector` names.
uint64_t TaskBase(uint64_t gdt, uint16_t selector) {
  const auto* descriptor = reinterpret_cast<const uint64_t*>(gdt + (selector & ~uint64_t{7}));
  return (descriptor[0] >> 16 & 0xffffff) | (descriptor[0] >> 56) << 24 | descriptor[1] << 32;
}

constexpr uint32_t kExtendedLeaf = 0x80000001;
constexpr uint32_t kCpuidRdtscp = 1u << 27;

bool HasTscAux() {
  uint32_t eax, ebx, ecx, edx;
  return __get_cpuid(kExtendedLeaf, &eax, &ebx, &ecx, &edx) != 0 && (edx & kCpuidRdtscp) != 0;
}

bool HasXsave() { return (tdp_read_cr4() & (1 << 18)) != 0; }

// Each returns the bits of its word that `options` ask for.
uint32_t WantedPin(const VtxVcpuOptions& options) {
  uint32_t wanted = pin::kNmiExiting;
  if (options.external_interrupt_exiting) wanted |= pin::kExternalInterruptExiting;
  if (options.virtual_nmis) wanted |= pin::kVirtualNmis;
  if (options.preemption_timer) wanted |= pin::kPreemptionTimer;
  return wanted;
}

uint32_t WantedPrimary(const VtxVcpuOptions& options) {
  uint32_t wanted = primary::kSecondaryControls;
  wanted |= options.io_bitmaps ? primary::kIoBitmaps : primary::kUnconditionalIoExiting;
  if (options.msr_bitmap) wanted |= primary::kMsrBitmaps;
  if (options.mov_dr_exiting) wanted |= primary::kMovDrExiting;
  if (options.hlt_exiting) wanted |= primary::kHltExiting;
  if (options.cr3_exiting) wanted |= primary::kCr3LoadExiting | primary::kCr3StoreExiting;
  if (options.invlpg_exiting) wanted |= primary::kInvlpgExiting;
  return wanted;
}

// Controls that a CPU without the TRUE_ capability MSRs insists on, and this guest does without.
uint32_t UnwantedPrimary(const VtxVcpuOptions& options) {
  return options.cr3_exiting ? 0 : primary::kCr3LoadExiting | primary::kCr3StoreExiting;
}

uint32_t WantedSecondary(const VtxVcpuOptions& options) {
  uint32_t wanted = 0;
  if (options.ept) wanted |= secondary::kEpt;
  if (options.unrestricted_guest) wanted |= secondary::kUnrestrictedGuest;
  if (options.vpid != 0) wanted |= secondary::kVpid;
  if (options.pml) wanted |= secondary::kPml;
  if (options.mbec) wanted |= secondary::kMbec;
  if (options.spp) wanted |= secondary::kSpp;
  if (options.ve) wanted |= secondary::kEptViolationVe;
  if (options.eptp_switching) wanted |= secondary::kVmFunctions;
  if (options.rdtscp) wanted |= secondary::kRdtscp;
  if (options.invpcid) wanted |= secondary::kInvpcid;
  if (options.xsaves) wanted |= secondary::kXsaves;
  return wanted;
}

uint32_t WantedExit(const VtxVcpuOptions& options) {
  uint32_t wanted = exit_control::kHost64 | exit_control::kSavePat | exit_control::kLoadPat |
                    exit_control::kSaveEfer | exit_control::kLoadEfer;
  if (!options.mov_dr_exiting) wanted |= exit_control::kSaveDebugControls;
  if (options.preemption_timer) wanted |= exit_control::kSavePreemptionTimer;
  return wanted;
}

uint32_t WantedEntry(const VtxVcpuOptions& options) {
  uint32_t wanted = entry_control::kLoadPat | entry_control::kLoadEfer;
  if (!options.mov_dr_exiting) wanted |= entry_control::kLoadDebugControls;
  return wanted;
}

// EPT carries these (SDM 27.2.1.1).
absl::Status CheckTogether(const VtxVcpuOptions& options) {
  if (options.ept) return absl::OkStatus();
  if (options.unrestricted_guest || options.pml || options.mbec || options.spp || options.ve ||
      options.eptp_switching) {
    return absl::InvalidArgumentError(
        "VtxVcpuOptions.ept is off: unrestricted_guest, pml, mbec, spp, ve and eptp_switching need "
        "it");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VtxVcpu::Controls> VtxVcpu::Choose(const VmxMsrs& msrs,
                                                  const VtxVcpuOptions& options) {
  TDP_RETURN_IF_ERROR(CheckTogether(options));
  Controls controls;
  TDP_ASSIGN_OR_RETURN(controls.pin, ChooseControls(msrs, ControlWord::kPin, WantedPin(options)));
  TDP_ASSIGN_OR_RETURN(controls.primary,
                       ChooseControls(msrs, ControlWord::kPrimary, WantedPrimary(options), 0,
                                      UnwantedPrimary(options)));
  TDP_ASSIGN_OR_RETURN(controls.secondary,
                       ChooseControls(msrs, ControlWord::kSecondary, WantedSecondary(options)));
  TDP_ASSIGN_OR_RETURN(controls.exit,
                       ChooseControls(msrs, ControlWord::kExit, WantedExit(options)));
  TDP_ASSIGN_OR_RETURN(controls.entry,
                       ChooseControls(msrs, ControlWord::kEntry, WantedEntry(options)));
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
  for (const Hpa page : {vmcs_, msr_bitmap_, msr_areas_page_, pml_, eptp_list_, ve_information_,
                         guest_vectors_, host_vectors_}) {
    if (page != Hpa(0)) arena_.Free(page, kPageSize);
  }
  if (io_bitmaps_ != Hpa(0)) arena_.Free(io_bitmaps_, kIoBitmapBytes);
}

absl::Status VtxVcpu::AllocatePages() {
  const std::pair<Hpa*, bool> pages[] = {
      {&vmcs_, true},
      {&msr_bitmap_, options_.msr_bitmap},
      {&msr_areas_page_, options_.msr_bitmap},
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
  if (options_.io_bitmaps) {
    TDP_ASSIGN_OR_RETURN(io_bitmaps_, arena_.AllocateZeroed(kIoBitmapBytes, kPageSize));
  }
  if (options_.msr_bitmap) {
    msr_areas_.Init(arena_, msr_areas_page_, HasTscAux(), options_.xsaves);
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
  if (HasXsave()) host_xcr0_ = tdp_read_xcr0();
  msr_areas_.ReadHost();
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
  primary_now_ = controls_.primary;
  return absl::OkStatus();
}

absl::Status VtxVcpu::WriteOptionalControls() {
  if (options_.vpid != 0) TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kVpid, options_.vpid));
  if (options_.io_bitmaps) {
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kIoBitmapA, io_bitmaps_.raw()));
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kIoBitmapB, (io_bitmaps_ + kPageSize).raw()));
  }
  if (options_.msr_bitmap) {
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kMsrBitmap, msr_bitmap_.raw()));
    TDP_RETURN_IF_ERROR(msr_areas_.WriteFields());
  }
  if (options_.preemption_timer) {
    TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kPreemptionTimer, ~uint32_t{0}));
  }
  if (options_.xsaves) TDP_RETURN_IF_ERROR(VmWrite(VmcsField::kXssExitingBitmap, 0));
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

// Writes the state of the CPU and thread that loads the vCPU: FS is the thread's own storage.
absl::Status VtxVcpu::WriteHostState() {
  uint16_t selectors[7];
  uint64_t tables[2];
  tdp_read_selectors(selectors);
  tdp_read_table_bases(tables);
  // The order of tdp_read_selectors is that of the fields. An exit demands RPL and TI of 0.
  for (size_t i = 0; i < 7; ++i) {
    TDP_RETURN_IF_ERROR(VmWrite(FieldAfter(VmcsField::kHostEs, i), selectors[i] & ~uint64_t{7}));
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

absl::Status VtxVcpu::AwaitStartUp() {
  TDP_RETURN_IF_ERROR(SetState(GuestState::RealMode(0, 0)));
  return Write(VmcsField::kGuestActivity, static_cast<uint64_t>(ActivityState::kWaitForSipi));
}

absl::StatusOr<uint64_t> VtxVcpu::Read(VmcsField field) const {
  TDP_CHECK(is_loaded());
  return VmRead(field);
}

absl::Status VtxVcpu::Write(VmcsField field, uint64_t value) {
  TDP_CHECK(is_loaded());
  return VmWrite(field, value);
}

void VtxVcpu::SwitchToGuest(bool xsave) {
  tdp_save_vector_state(arena_.PointerTo<void>(host_vectors_), xsave ? 1 : 0);
  tdp_load_vector_state(arena_.PointerTo<void>(guest_vectors_), xsave ? 1 : 0);
  if (guest_xcr0_ != 0 && guest_xcr0_ != host_xcr0_) tdp_write_xcr0(guest_xcr0_);
  if (!options_.mov_dr_exiting) tdp_load_debug_registers(debug_registers_.data());
}

// The exit itself has made DR7 what disables DR0 to DR3.
void VtxVcpu::SwitchToHost(bool xsave) {
  if (!options_.mov_dr_exiting) tdp_save_debug_registers(debug_registers_.data());
  if (guest_xcr0_ != 0 && guest_xcr0_ != host_xcr0_) tdp_write_xcr0(host_xcr0_);
  tdp_save_vector_state(arena_.PointerTo<void>(guest_vectors_), xsave ? 1 : 0);
  tdp_load_vector_state(arena_.PointerTo<void>(host_vectors_), xsave ? 1 : 0);
}

int VtxVcpu::Enter() {
  const bool xsave = HasXsave();
  SwitchToGuest(xsave);
  const int result = tdp_vmx_enter(&registers_, launched_ ? 1 : 0);
  SwitchToHost(xsave);
  return result;
}

absl::StatusOr<VmExit> VtxVcpu::Run(Eptp eptp) {
  TDP_CHECK(is_loaded());
  if (events_.is_triple_fault()) {
    events_.TakeTripleFault();
    VmExit exit;
    exit.reason = ExitReason::kTripleFault;
    return exit;
  }
  if (options_.ept && !(eptp == eptp_)) {
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
  events_.Delivered();
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
  exit.error_code = static_cast<uint32_t>(read(VmcsField::kExitErrorCode));
  exit.instruction_bytes = static_cast<uint32_t>(read(VmcsField::kExitInstructionLength));
  if (exit.is_nmi()) TDP_RETURN_IF_ERROR(EndNmi());
  TDP_RETURN_IF_ERROR(EndWaitForSipi(exit));
  TDP_RETURN_IF_ERROR(KeepInterruptedEvent(exit));
  return exit;
}

absl::Status VtxVcpu::SetIoExits(uint32_t first, uint32_t count, bool exits) {
  TDP_CHECK(options_.io_bitmaps);
  return vtx::SetIoExits(arena_.PointerTo<uint8_t>(io_bitmaps_), first, count, exits);
}

absl::Status VtxVcpu::SetMsrExits(uint32_t msr, bool read_exits, bool write_exits) {
  TDP_CHECK(options_.msr_bitmap);
  return vtx::SetMsrExits(arena_.PointerTo<uint8_t>(msr_bitmap_), msr, read_exits, write_exits);
}

absl::Status VtxVcpu::SetPreemptionTimer(uint64_t tsc_ticks) {
  TDP_CHECK(options_.preemption_timer);
  const int shift = msrs_.preemption_timer_shift();
  const uint64_t unit = uint64_t{1} << shift;
  const uint64_t count = (tsc_ticks >> shift) + (tsc_ticks % unit != 0 ? 1 : 0);
  return Write(VmcsField::kPreemptionTimer, std::min<uint64_t>(count, ~uint32_t{0}));
}

absl::Status VtxVcpu::SetXcr0(uint64_t xcr0) {
  TDP_CHECK(is_loaded());
  constexpr uint64_t kX87 = 1, kSse = 2, kAvx = 4;
  const bool is_whole = (xcr0 & kX87) != 0 && ((xcr0 & kAvx) == 0 || (xcr0 & kSse) != 0);
  // The vector state that changes hands is that of these three.
  if (!is_whole || (xcr0 & ~(host_xcr0_ & (kX87 | kSse | kAvx))) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("XCR0 0x%x: the host's is 0x%x", xcr0, host_xcr0_));
  }
  guest_xcr0_ = xcr0;
  return absl::OkStatus();
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
