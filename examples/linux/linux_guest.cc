// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/linux_guest.h"

#include <x86intrin.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp::linux_example {
namespace {

constexpr uint8_t kInvalidOpcode = 6;

bool IsComplaint(const std::string& line) {
  for (const char* word : {"BUG:", "Oops", "Kernel panic", "general protection", "WARNING:"}) {
    if (absl::StrContains(line, word)) return true;
  }
  return false;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LinuxGuest>> LinuxGuest::Create(Host& host, vtx::VmxCpu& cpu,
                                                               const GuestOptions& options) {
  auto guest = absl::WrapUnique(new LinuxGuest(host, cpu, options));
  TDP_ASSIGN_OR_RETURN(guest->memory_, guest->MakeMemory());
  const vtx::VmxMsrs& msrs = cpu.msrs();
  vtx::VtxVcpuOptions vcpu = vtx::VtxVcpuOptions::PassThrough();
  vcpu.unrestricted_guest = options.is_32_bit;  // such a kernel begins without paging
  vcpu.pml = options.pml;
  vcpu.preemption_timer = options.period != 0;
  // What the CPU offers its guests must not raise #UD.
  vcpu.rdtscp = msrs.Offers(vtx::ControlWord::kSecondary, vtx::secondary::kRdtscp);
  vcpu.invpcid = msrs.Offers(vtx::ControlWord::kSecondary, vtx::secondary::kInvpcid);
  const bool is_shadowed = options.vm.paging == Paging::kShadow;
  if (is_shadowed) vcpu = ShadowPaging::Options(vcpu);
  TDP_ASSIGN_OR_RETURN(guest->vcpu_, vtx::VtxVcpu::Create(host.arena(), msrs, vcpu));
  guest->policy_ = std::make_unique<GuestPolicy>(*guest->vcpu_, options.hz);
  TDP_RETURN_IF_ERROR(guest->vcpu_->Load(cpu));
  TDP_RETURN_IF_ERROR(guest->policy_->Arm());
  if (is_shadowed) {
    const auto read = [at = guest.get()](Gpa gpa, absl::Span<uint8_t> to) {
      return at->Read(gpa, to);
    };
    TDP_ASSIGN_OR_RETURN(guest->shadow_,
                         ShadowPaging::Create(host.arena(), msrs, *guest->vcpu_, read));
  }
  host.SetRunningOn(guest->mmu().id(), cpu.apic_id());
  return guest;
}

LinuxGuest::LinuxGuest(Host& host, vtx::VmxCpu& cpu, const GuestOptions& options)
    : host_(host), cpu_(cpu), options_(options) {}

LinuxGuest::~LinuxGuest() {
  if (vcpu_ != nullptr && vcpu_->is_loaded()) vcpu_->Unload().IgnoreError();
  if (memory_.mmu != nullptr) host_.SetNotRunning(memory_.mmu->id());
}

MemoryRegion LinuxGuest::RegionAt(Hva ram, uint32_t flags) const {
  MemoryRegion region;
  region.flags = flags;
  region.size = options_.ram;
  region.hva = ram;
  return region;
}

// The emulated machine's memory is zero where it has not been used.
absl::StatusOr<GuestMemory> LinuxGuest::MakeMemory() const {
  GuestMemory memory;
  TDP_ASSIGN_OR_RETURN(memory.ram, host_.Allocate(options_.ram));
  TDP_ASSIGN_OR_RETURN(memory.vm, Vm::Create(host_, options_.vm));
  TDP_RETURN_IF_ERROR(memory.vm->SetMemoryRegion(RegionAt(memory.ram, 0)));
  if (options_.ring_entries != 0) {
    TDP_RETURN_IF_ERROR(memory.vm->EnableDirtyRing(options_.ring_entries));
  }
  TDP_ASSIGN_OR_RETURN(memory.mmu, memory.vm->CreateVcpu());
  return memory;
}

absl::StatusOr<GuestMemory> LinuxGuest::Adopt(GuestMemory memory) {
  host_.SetNotRunning(memory_.mmu->id());
  report_.Add(memory_.vm->Stats().faults);
  if (shadow_ != nullptr) TDP_RETURN_IF_ERROR(shadow_->Adopt(*memory.mmu));
  std::swap(memory, memory_);
  host_.SetRunningOn(memory_.mmu->id(), cpu_.apic_id());
  return memory;
}

absl::StatusOr<CpuSnapshot> LinuxGuest::Save() const {
  CpuSnapshot snapshot;
  TDP_ASSIGN_OR_RETURN(snapshot.cpu, vcpu_->Save());
  snapshot.console_line = policy_->console_line();
  return snapshot;
}

absl::Status LinuxGuest::Restore(const CpuSnapshot& snapshot) {
  policy_->SetConsoleLine(snapshot.console_line);
  return vcpu_->Restore(snapshot.cpu);
}

absl::Status LinuxGuest::Load(const LinuxImage& image) {
  const absl::Span<uint8_t> ram(reinterpret_cast<uint8_t*>(memory_.ram.raw()), options_.ram);
  TDP_ASSIGN_OR_RETURN(const LinuxStart start, LoadLinux(image, ram));
  vcpu_->registers().rsi = start.rsi;
  return shadow_ == nullptr ? vcpu_->SetState(start.state) : shadow_->Start(start.state, mmu());
}

bool LinuxGuest::Read(Gpa gpa, absl::Span<uint8_t> to) const {
  if (gpa.raw() >= options_.ram) return false;
  host_.Read(memory_.ram + gpa.raw(), to);
  return true;
}

// --- The run loop --------------------------------------------------------------------------------

absl::Status LinuxGuest::Run(Scenario& scenario) {
  report_.Start();
  absl::Status status = scenario.OnStart(*this);
  if (status.ok() && options_.period != 0) status = vcpu_->SetPreemptionTimer(options_.period);
  while (status.ok()) {
    WaitWhileStopped();
    const absl::StatusOr<vtx::VmExit> exit = EnterOnce();
    status = exit.status();
    if (!status.ok()) break;
    const uint64_t since = __rdtsc();
    if (exit->reason == vtx::ExitReason::kTripleFault) break;
    status = Handle(*exit, scenario);
    report_.Count(*exit, __rdtsc() - since);
  }
  has_ended_.store(true, std::memory_order_release);
  absl::Status end = scenario.OnEnd(*this);
  if (!status.ok()) return status;
  TDP_RETURN_IF_ERROR(Shutdown());
  return end;
}

absl::StatusOr<vtx::VmExit> LinuxGuest::EnterOnce() {
  // While `entry` lives, whoever changes the tables kicks this CPU and waits for it.
  const GuestEntry entry = mmu().EnterGuest();
  if (shadow_ != nullptr) TDP_RETURN_IF_ERROR(shadow_->Enter());
  TDP_ASSIGN_OR_RETURN(vtx::VmExit exit, vcpu_->Run(entry.eptp()));
  if (!options_.pml) return exit;
  // The CPU's log of written pages belongs to the engine before the entry ends.
  TDP_ASSIGN_OR_RETURN(const absl::Span<const Gpa> pages, vcpu_->DrainPml());
  const bool is_dropped = options_.drop_pml && !pages.empty() && ++pml_buffers_ % 2 == 0;
  if (!pages.empty() && !is_dropped) TDP_RETURN_IF_ERROR(mmu().LogPml(pages));
  return exit;
}

absl::Status LinuxGuest::Handle(const vtx::VmExit& exit, Scenario& scenario) {
  if (shadow_ != nullptr) {
    TDP_ASSIGN_OR_RETURN(const bool is_handled, shadow_->Handle(exit));
    if (is_handled) return absl::OkStatus();
  }
  switch (exit.reason) {
    case vtx::ExitReason::kEptViolation:
    case vtx::ExitReason::kEptMisconfiguration:
      return HandleMemory(exit, scenario);
    case vtx::ExitReason::kCpuid:
      return policy_->OnCpuid(exit);
    case vtx::ExitReason::kIo:
      return policy_->OnSerial(exit, [&](const std::string& line) { OnLine(line, scenario); });
    case vtx::ExitReason::kMsrRead:
    case vtx::ExitReason::kMsrWrite:
      return policy_->OnMsr(exit);
    case vtx::ExitReason::kXsetbv:
      return policy_->OnXsetbv(exit);
    case vtx::ExitReason::kPreemptionTimer:
      return OnPeriod(scenario);
    case vtx::ExitReason::kInvd:
      return vcpu_->SkipInstruction(exit);  // as on a machine whose caches are coherent
    case vtx::ExitReason::kPmlFull:
      return absl::OkStatus();  // drained already
    default:
      break;
  }
  if (exit.is_kick()) return absl::OkStatus();
  const bool is_vmx =
      exit.reason >= vtx::ExitReason::kVmcall && exit.reason <= vtx::ExitReason::kVmxon;
  if (is_vmx || exit.reason == vtx::ExitReason::kInvept ||
      exit.reason == vtx::ExitReason::kInvvpid) {
    vcpu_->InjectException(kInvalidOpcode);
    return absl::OkStatus();
  }
  return absl::UnimplementedError(absl::StrFormat(
      "exit reason %d, qualification 0x%x", static_cast<int>(exit.reason), exit.qualification));
}

absl::Status LinuxGuest::OnPeriod(Scenario& scenario) {
  if (options_.limit != 0 && report_.ticks() > options_.limit) {
    return absl::DeadlineExceededError(
        absl::StrFormat("Linux has not come to an end in %d ticks", options_.limit));
  }
  TDP_RETURN_IF_ERROR(scenario.OnTimer(*this));
  return vcpu_->SetPreemptionTimer(options_.period);
}

absl::Status LinuxGuest::HandleMemory(const vtx::VmExit& exit, Scenario& scenario) {
  const FaultResult result = exit.reason == vtx::ExitReason::kEptViolation
                                 ? mmu().HandleEptViolation(exit.gpa, exit.ept_qualification())
                                 : mmu().HandleEptMisconfiguration(exit.gpa);
  switch (result.outcome) {
    case FaultOutcome::kFixed:
    case FaultOutcome::kSpurious:
    case FaultOutcome::kRetry:
      return absl::OkStatus();  // run on
    case FaultOutcome::kDirtyRingFull:
      return scenario.OnRingFull(*this);
    case FaultOutcome::kViewDenied: {
      TDP_ASSIGN_OR_RETURN(const uint64_t rip, vcpu_->Read(vtx::VmcsField::kGuestRip));
      return scenario.OnViewDenied(*this, exit, rip);
    }
    case FaultOutcome::kError:
      return result.status;
    default:
      return absl::InternalError(
          absl::StrFormat("gpa 0x%x: %s", exit.gpa.raw(), FaultOutcomeName(result.outcome)));
  }
}

void LinuxGuest::OnLine(const std::string& line, Scenario& scenario) {
  printf("linux| %s\n", line.c_str());
  init_is_done_ |= line == "INIT: done";
  is_broken_ |= IsComplaint(line);
  scenario.OnLine(line);
}

absl::Status LinuxGuest::Shutdown() {
  if (is_broken_) return absl::DataLossError("Linux complained: see its console");
  if (!init_is_done_) return absl::DataLossError("Linux ended before its init had all it wanted");
  return absl::OkStatus();
}

// --- Stopping from another CPU -------------------------------------------------------------------

void LinuxGuest::Stop() {
  stop_wanted_.store(true, std::memory_order_seq_cst);
  const VcpuId id = mmu().id();
  host_.Kick({&id, 1});
  while (!is_stopped_.load(std::memory_order_acquire) && !has_ended()) _mm_pause();
}

void LinuxGuest::Go() { stop_wanted_.store(false, std::memory_order_release); }

void LinuxGuest::WaitWhileStopped() {
  if (!stop_wanted_.load(std::memory_order_seq_cst)) return;
  is_stopped_.store(true, std::memory_order_release);
  while (stop_wanted_.load(std::memory_order_acquire)) _mm_pause();
  is_stopped_.store(false, std::memory_order_release);
}

// --- Report --------------------------------------------------------------------------------------

void LinuxGuest::Say(const std::string& text) const { absl::PrintF(" host| %s\n", text); }

void LinuxGuest::PrintTable() const {
  report_.Print(memory_.vm->Stats(), host_.kicks(), options_.vm.paging == Paging::kShadow);
}

}  // namespace tdp::linux_example
