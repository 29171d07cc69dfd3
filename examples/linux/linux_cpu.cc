// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/linux_cpu.h"

#include <cstdint>
#include <memory>
#include <string>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/examples/linux/apic_writes.h"
#include "tdp/examples/linux/linux_guest.h"

namespace tdp::linux_example {
namespace {

// VMX insists on it, and every kernel sets it: where it is set from the start, no write to CR0
// exits.
constexpr uint64_t kCr0NumericError = 1 << 5;

// Says where Linux is not told the truth of its CPU. The emulator is why: docs/linux.md says what
// of this a real machine does not need.
vtx::PassThroughCpuOptions ToldOfItsCpu(uint64_t hz) {
  vtx::PassThroughCpuOptions told;
  told.tsc_hz = hz;
  told.hidden.leaf1_edx = 1 << 7 | 1 << 14;  // MCE and MCA, without their MSRs
  told.hidden.leaf7_edx = 1 << 4;            // FSRM, without the MSR that says if it is on
  // Linux reads them before it could take a fault: the microcode's revision, the thermal interrupt,
  // and IA32_MISC_ENABLE.
  told.absent_msrs = {0x8b, 0x19b, 0x1a0};
  return told;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinuxCpu>> LinuxCpu::Create(LinuxGuest& guest, vtx::VmxCpu& cpu,
                                                           Vcpu& mmu) {
  auto self = absl::WrapUnique(new LinuxCpu(guest, cpu, mmu));
  const GuestOptions& options = guest.options();
  const vtx::VmxMsrs& msrs = cpu.msrs();
  vtx::VtxVcpuOptions vcpu = vtx::VtxVcpuOptions::PassThrough(msrs);
  vcpu.unrestricted_guest = options.is_32_bit || self->number_ != 0;  // it begins without paging
  vcpu.pml = options.pml;
  vcpu.preemption_timer = options.period != 0 && self->number_ == 0;
  const bool is_shadowed = options.vm.paging == Paging::kShadow;
  if (is_shadowed) vcpu = ShadowPaging::Options(vcpu);
  TDP_ASSIGN_OR_RETURN(self->vcpu_, vtx::VtxVcpu::Create(guest.host().arena(), msrs, vcpu));
  TDP_RETURN_IF_ERROR(self->vcpu_->Load(cpu));
  self->told_.emplace(*self->vcpu_, ToldOfItsCpu(options.hz));
  TDP_RETURN_IF_ERROR(self->told_->Arm());
  self->console_.emplace(*self->vcpu_, guest.unfinished_line());
  TDP_RETURN_IF_ERROR(self->console_->Arm());
  if (is_shadowed) {
    const auto read = [&guest](Gpa gpa, absl::Span<uint8_t> to) { return guest.Read(gpa, to); };
    TDP_ASSIGN_OR_RETURN(self->shadow_,
                         ShadowPaging::Create(guest.host().arena(), msrs, *self->vcpu_, read));
  }
  guest.host().SetRunningOn(mmu.id(), cpu.apic_id());
  return self;
}

LinuxCpu::~LinuxCpu() {
  guest_.host().SetNotRunning(mmu_->id());
  if (vcpu_ != nullptr && vcpu_->is_loaded()) vcpu_->Unload().IgnoreError();
}

absl::Status LinuxCpu::Adopt(Vcpu& mmu) {
  guest_.host().SetNotRunning(mmu_->id());
  if (shadow_ != nullptr) TDP_RETURN_IF_ERROR(shadow_->Adopt(mmu));
  mmu_ = &mmu;
  guest_.host().SetRunningOn(mmu.id(), cpu_.apic_id());
  return absl::OkStatus();
}

absl::Status LinuxCpu::Start(const LinuxStart& start) {
  vcpu_->registers().rsi = start.rsi;
  if (shadow_ != nullptr) return shadow_->Start(start.state, *mmu_);
  return vcpu_->SetState(start.state);
}

// --- The run loop --------------------------------------------------------------------------------

absl::Status LinuxCpu::Run(Scenario& scenario) {
  absl::Status status;
  const bool has_timer = number_ == 0 && guest_.options().period != 0;
  if (has_timer) status = vcpu_->SetPreemptionTimer(guest_.options().period);
  while (status.ok() && !guest_.has_ended()) {
    guest_.gate().Pass(number_);
    if (init_is_pending_) status = AwaitStartUp();
    if (!status.ok()) break;
    const absl::StatusOr<vtx::VmExit> exit = is_asleep_ ? EnterAsleep() : Enter();
    status = exit.status();
    if (!status.ok() || exit->reason == vtx::ExitReason::kTripleFault) break;
    const uint64_t since = __builtin_ia32_rdtsc();
    status = Handle(*exit, scenario);
    guest_.report().Count(*exit, __builtin_ia32_rdtsc() - since);
  }
  guest_.gate().Leave(number_);
  return status;
}

absl::StatusOr<vtx::VmExit> LinuxCpu::Enter() {
  const GuestOptions& options = guest_.options();
  // While `entry` lives, whoever changes the tables kicks this CPU and waits for it.
  const GuestEntry entry = mmu_->EnterGuest();
  if (shadow_ != nullptr) TDP_RETURN_IF_ERROR(shadow_->Enter());
  TDP_ASSIGN_OR_RETURN(vtx::VmExit exit, vcpu_->Run(entry.eptp()));
  if (!options.pml) return exit;
  // The CPU's log of written pages belongs to the engine before the entry ends.
  TDP_ASSIGN_OR_RETURN(const absl::Span<const Gpa> pages, vcpu_->DrainPml());
  const bool is_dropped = options.drop_pml && !pages.empty() && ++pml_buffers_ % 2 == 0;
  if (!pages.empty() && !is_dropped) TDP_RETURN_IF_ERROR(mmu_->LogPml(pages));
  return exit;
}

absl::Status LinuxCpu::Handle(const vtx::VmExit& exit, Scenario& scenario) {
  if (exit.is_kick()) return absl::OkStatus();
  if (shadow_ != nullptr) {
    TDP_ASSIGN_OR_RETURN(const bool is_handled, shadow_->Handle(exit));
    if (is_handled) return absl::OkStatus();
  }
  TDP_ASSIGN_OR_RETURN(const bool is_handled, told_->Handle(exit));
  if (is_handled) return absl::OkStatus();
  switch (exit.reason) {
    case vtx::ExitReason::kEptViolation:
    case vtx::ExitReason::kEptMisconfiguration:
      return HandleMemory(exit, scenario);
    case vtx::ExitReason::kIo:
      return console_->Handle(exit,
                              [&](const std::string& line) { guest_.OnLine(line, scenario); });
    case vtx::ExitReason::kPreemptionTimer:
      return OnPeriod(scenario);
    case vtx::ExitReason::kStartUpIpi:
      return StartUp(exit.qualification);
    case vtx::ExitReason::kPmlFull:
      return absl::OkStatus();  // drained already
    default:
      return absl::UnimplementedError(absl::StrFormat(
          "exit reason %d, qualification 0x%x", static_cast<int>(exit.reason), exit.qualification));
  }
}

absl::Status LinuxCpu::OnPeriod(Scenario& scenario) {
  const GuestOptions& options = guest_.options();
  if (options.limit != 0 && guest_.report().ticks() > options.limit) {
    return absl::DeadlineExceededError(
        absl::StrFormat("Linux has not come to an end in %d ticks", options.limit));
  }
  TDP_RETURN_IF_ERROR(scenario.OnTimer(guest_));
  return vcpu_->SetPreemptionTimer(options.period);
}

absl::Status LinuxCpu::HandleMemory(const vtx::VmExit& exit, Scenario& scenario) {
  const FaultResult result = exit.reason == vtx::ExitReason::kEptViolation
                                 ? mmu_->HandleEptViolation(exit.gpa, exit.ept_qualification())
                                 : mmu_->HandleEptMisconfiguration(exit.gpa);
  switch (result.outcome) {
    case FaultOutcome::kFixed:
    case FaultOutcome::kSpurious:
    case FaultOutcome::kRetry:
      return absl::OkStatus();  // run on
    case FaultOutcome::kMmio:
      return OnApicWrite(exit, guest_, *mmu_, *vcpu_, [&](vtx::ApicId to) { guest_.Init(to); });
    case FaultOutcome::kDirtyRingFull:
      return scenario.OnRingFull(guest_);
    case FaultOutcome::kViewDenied: {
      TDP_ASSIGN_OR_RETURN(const uint64_t rip, vcpu_->Read(vtx::VmcsField::kGuestRip));
      return scenario.OnViewDenied(guest_, exit, rip);
    }
    case FaultOutcome::kError:
      return result.status;
    default:
      return absl::InternalError(
          absl::StrFormat("gpa 0x%x: %s", exit.gpa.raw(), FaultOutcomeName(result.outcome)));
  }
}

// --- How Linux starts a second CPU: an INIT, then a start-up IPI that names a page of its --------

absl::Status LinuxCpu::AwaitStartUp() {
  is_asleep_ = true;
  init_is_pending_ = false;
  return vcpu_->AwaitStartUp();
}

// Such a CPU uses no memory, so that nobody has to wait for it; and nobody could, since NMIs are
// blocked. Whatever the tables have become by the start-up IPI, the entry after it is one through
// `Enter`.
absl::StatusOr<vtx::VmExit> LinuxCpu::EnterAsleep() {
  guest_.gate().Leave(number_);
  const Eptp eptp = mmu_->EnterGuest().eptp();
  return vcpu_->Run(eptp);
}

absl::Status LinuxCpu::StartUp(uint64_t vector) {
  is_asleep_ = false;
  vcpu_->registers() = {};
  vtx::GuestState state = vtx::GuestState::StartUp(static_cast<uint8_t>(vector));
  state.cr0 |= kCr0NumericError;
  return vcpu_->SetState(state);
}

}  // namespace tdp::linux_example
