// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/cpu_runner.h"

#include <algorithm>
#include <cstddef>

#include "absl/base/optimization.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tdp/backends/sim/registers.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/tools/replay/nested_exit.h"

namespace tdp::tools {
namespace {

// A 2D walk of five levels needs a violation for each guest table and one for the page, and the
// access may cross into a second page; a page fault may come before each. Nested, a violation comes
// twice: for the hypervisor in the guest and for the engine.
constexpr int kMaxEventsWithoutProgress = 64;

}  // namespace

CpuRunner::CpuRunner(Machine& machine, int cpu)
    : machine_(machine),
      index_(cpu),
      cpu_(machine.cpu(cpu)),
      churn_(machine.options().table_churn),
      until_churn_(churn_),
      random_(machine.options().seed),
      space_(machine.options().processes.count == 0 ? 0 : kNoSpace) {
  if (machine.mmu() == nullptr) return;
  mmu_ = std::make_unique<sim::MmuModel>(*machine.mmu(), machine.host().physical());
}

void CpuRunner::ClearCounts() {
  cpu_.ClearCounters();
  if (mmu_ != nullptr) mmu_->ClearCounters();
  page_walks_.clear();
  violations_ = {};
  shadow_exits_ = {};
  nested_exits_ = {};
  page_faults_ = 0;
  process_counts_ = {};
}

absl::Status CpuRunner::Run(absl::Span<const TraceRecord> records) {
  if (churn_ == 0) return RunStretch(records);
  while (!records.empty()) {
    const size_t stretch = std::min<uint64_t>(until_churn_, records.size());
    TDP_RETURN_IF_ERROR(RunStretch(records.first(stretch)));
    records.remove_prefix(stretch);
    until_churn_ -= stretch;
    if (until_churn_ != 0) continue;
    TDP_RETURN_IF_ERROR(Churn());
    until_churn_ = churn_;
  }
  return absl::OkStatus();
}

absl::Status CpuRunner::Churn() {
  Gpa written;
  TDP_ASSIGN_OR_RETURN(const GuestMapping page,
                       machine_.kernel().TakeAway(random_(), written, space_));
  if (machine_.is_shadowed()) {
    shadow_exits_.table_writes += 1;
    TDP_RETURN_IF_ERROR(machine_.vcpu(index_).shadow()->OnWritten(written, sizeof(uint64_t)));
  }
  TDP_RETURN_IF_ERROR(InvalidatePage(page.gva));
  if (shootdown_ != nullptr) TDP_RETURN_IF_ERROR(shootdown_(page.gva));
  return machine_.is_shadowed() ? absl::OkStatus() : MarkKernelWrites({written});
}

absl::Status CpuRunner::InvalidatePage(Gva gva) {
  if (machine_.is_shadowed()) {
    shadow_exits_.invalidations += 1;
    return machine_.vcpu(index_).shadow()->Invlpg(gva);
  }
  if (mmu_ != nullptr) {
    FollowCpu();
    mmu_->Invlpg(gva.raw());
  }
  cpu_.Invlpg(gva);
  seen_invalidations_ = cpu_.invalidations();
  return absl::OkStatus();
}

absl::Status CpuRunner::SwitchTo(size_t space) {
  if (held_.size() <= space) held_.resize(space + 1, false);
  const bool shadowed = machine_.is_shadowed();
  if (mmu_ != nullptr && !shadowed) FollowCpu();
  TDP_ASSIGN_OR_RETURN(const bool kept, machine_.SwitchSpace(index_, space, held_[space]));
  // A CPU on a shadow shows by itself what it drops at its own CR3.
  if (mmu_ != nullptr && !shadowed) {
    const auto pcid = static_cast<uint16_t>(machine_.ProgramRegisters(space).cr3 & 0xfff);
    if (!kept) mmu_->FlushPcid(pcid);
    seen_invalidations_ = cpu_.invalidations();
  }
  space_ = space;
  held_[space] = machine_.options().processes.pcid;
  shadow_exits_.cr3_writes += shadowed ? 1 : 0;
  ++process_counts_.switches;
  process_counts_.flushes += kept ? 0 : 1;
  kernel_due_ += machine_.options().processes.kernel_accesses;
  return absl::OkStatus();
}

// The kernel's code, its data, and the stack of the program that it works for, in turn.
absl::StatusOr<bool> CpuRunner::MakeKernelAccesses() {
  if (mmu_ != nullptr) FollowCpu();
  for (; kernel_due_ != 0; --kernel_due_) {
    const uint64_t step = process_counts_.kernel_accesses;
    const uint64_t line = (step * 0x9e3779b97f4a7c15 >> 32) * 64;
    const uint64_t kernel = GuestKernel::kKernelMemory + line % GuestKernel::kKernelBytes;
    const uint64_t stack = GuestKernel::StackOf(space_) + line % GuestKernel::kStackBytes;
    static constexpr sim::AccessKind kKinds[] = {sim::AccessKind::kFetch, sim::AccessKind::kLoad,
                                                 sim::AccessKind::kLoad, sim::AccessKind::kStore};
    const sim::AccessRequest request = {.gva = step % 4 < 2 ? kernel : stack,
                                        .kind = kKinds[step % 4],
                                        .accessor = sim::Accessor::kSupervisor,
                                        .size = 8};
    const sim::AccessResult result = cpu_.Access(request);
    if (!result.ok()) {
      if (++events_without_progress_ > kMaxEventsWithoutProgress) return Stuck();
      return false;
    }
    events_without_progress_ = 0;
    ++process_counts_.kernel_accesses;
    if (mmu_ == nullptr) continue;
    const sim::MmuAnswer answer = mmu_->Access(request.gva, request.kind, request.size);
    if (answer.hpa != result.hpa.raw()) return Disagree(Gva(request.gva), result.hpa, answer.hpa);
  }
  return true;
}

absl::Status CpuRunner::MapInGuest(Gva gva) {
  if (guest_pager_ != nullptr) return guest_pager_(gva);
  written_.clear();
  TDP_RETURN_IF_ERROR(machine_.kernel().HandlePageFault(gva, &written_, space_));
  if (machine_.options().processes.count != 0) {
    kernel_due_ += machine_.options().processes.kernel_accesses;
  }
  if (!machine_.is_shadowed()) return MarkKernelWrites(written_);
  shadow_exits_.table_writes += written_.size();
  for (const Gpa entry : written_) {
    TDP_RETURN_IF_ERROR(machine_.vcpu(index_).shadow()->OnWritten(entry, sizeof(uint64_t)));
  }
  return absl::OkStatus();
}

absl::Status CpuRunner::RunStretch(absl::Span<const TraceRecord> records) {
  while (true) {
    TDP_ASSIGN_OR_RETURN(size_t done, RunGuest(records));
    records.remove_prefix(done);
    if (records.empty()) return absl::OkStatus();
    TDP_RETURN_IF_ERROR(HandleExit());
  }
}

absl::StatusOr<size_t> CpuRunner::RunGuest(absl::Span<const TraceRecord> records) {
  if (!machine_.uses_ept() && !machine_.is_shadowed()) return RunUntilExit(records);
  const GuestEntry entry = machine_.vcpu(index_).EnterGuest();
  if (machine_.is_shadowed()) machine_.LoadShadowRegisters(index_);
  if (cpu_.Enter(entry.eptp()) != sim::Event::kNone) return 0;
  const absl::StatusOr<size_t> done = RunUntilExit(records);
  if (cpu_.controls().pml) TDP_RETURN_IF_ERROR(DrainPml());
  return done;
}

absl::Status CpuRunner::DrainPml() {
  constexpr uint16_t kLast = 511;
  const uint64_t log = cpu_.controls().pml_address.raw();
  const auto used = static_cast<uint16_t>(kLast - cpu_.pml_index());
  std::vector<Gpa> pages;
  for (uint16_t i = 0; i < used; ++i) {
    pages.emplace_back(machine_.host().physical().Load(log + uint64_t{8} * (kLast - i)));
  }
  cpu_.set_pml_index(kLast);
  return pages.empty() ? absl::OkStatus() : machine_.vcpu(index_).LogPml(pages);
}

absl::Status CpuRunner::MarkKernelWrites(absl::Span<const Gpa> entries) {
  if (on_full_ring_ == nullptr) return absl::OkStatus();
  for (const Gpa entry : entries) {
    TDP_RETURN_IF_ERROR(machine_.vm().MarkDirty(entry, sizeof(uint64_t)));
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> CpuRunner::RunUntilExit(absl::Span<const TraceRecord> records) {
  size_t done = 0;
  while (true) {
    if (ABSL_PREDICT_FALSE(kernel_due_ != 0)) {
      TDP_ASSIGN_OR_RETURN(const bool made, MakeKernelAccesses());
      if (!made) return done;
    }
    TDP_ASSIGN_OR_RETURN(const size_t more, MakeAccesses(records.subspan(done)));
    done += more;
    if (more != 0) events_without_progress_ = 0;
    if (done == records.size()) return done;
    if (++events_without_progress_ > kMaxEventsWithoutProgress) return Stuck();
    const bool outside = machine_.is_shadowed() || machine_.has_pager();
    if (cpu_.exit().event != sim::Event::kPageFault || outside) return done;
    TDP_RETURN_IF_ERROR(AnswerPageFault());
  }
}

absl::StatusOr<size_t> CpuRunner::MakeAccesses(absl::Span<const TraceRecord> records) {
  const bool plain = mmu_ == nullptr && on_full_ring_ == nullptr && physical_ == nullptr;
  if (ABSL_PREDICT_TRUE(plain)) return cpu_.Run(records);
  return MakeTimedAccesses(records);
}

void CpuRunner::FollowCpu() {
  if (seen_invalidations_ != cpu_.invalidations()) mmu_->FlushAll();
  seen_invalidations_ = cpu_.invalidations();
  const sim::Registers& registers = cpu_.registers();
  const bool pcids = (registers.cr4 & sim::kCr4Pcide) != 0;
  mmu_->SetSpace({.cr3 = registers.cr3 & ~uint64_t{0xfff},
                  .guest_levels = (registers.cr4 & sim::kCr4La57) != 0 ? 5 : 4,
                  .pcid = static_cast<uint16_t>(pcids ? registers.cr3 & 0xfff : 0),
                  .ept = cpu_.controls().ept,
                  .eptp = cpu_.eptp()});
}

// The CPU makes an access first, with all that the tables lack; then the MMU says what it took.
absl::StatusOr<size_t> CpuRunner::MakeTimedAccesses(absl::Span<const TraceRecord> records) {
  if (mmu_ != nullptr) FollowCpu();
  for (size_t done = 0; done < records.size(); ++done) {
    const TraceRecord record = records[done];
    const sim::AccessResult result = cpu_.Access(record.gva(), record.kind(), record.size());
    if (!result.ok()) return done;
    if (physical_ != nullptr) physical_->Add(result.hpa, record.kind());
    if (on_full_ring_ != nullptr && Writes(record.kind())) {
      machine_.host().physical().Store<uint64_t>(result.hpa.raw() & ~uint64_t{7}, ++stores_);
    }
    if (mmu_ == nullptr) continue;
    const sim::MmuAnswer answer = mmu_->Access(record.gva().raw(), record.kind(), record.size());
    if (ABSL_PREDICT_FALSE(answer.hpa != result.hpa.raw())) {
      return Disagree(record.gva(), result.hpa, answer.hpa);
    }
    if (counts_pages_ && answer.source >= sim::MmuSource::kCachedWalk) {
      ++page_walks_[record.gva().raw() >> kPageShift];
    }
  }
  return records.size();
}

absl::Status CpuRunner::Disagree(Gva gva, Hpa cpu, uint64_t mmu) const {
  return absl::InternalError(absl::StrCat("CPU ", index_, " finds ", ToString(gva), " at ",
                                          ToString(cpu), ", the machine's MMU at ",
                                          ToString(Hpa(mmu))));
}

absl::Status CpuRunner::HandleExit() {
  const sim::Exit& exit = cpu_.exit();
  switch (exit.event) {
    case sim::Event::kKick:
      return absl::OkStatus();
    case sim::Event::kPmlFull:
      ++full_log_exits_;
      return absl::OkStatus();
    case sim::Event::kEptViolation:
      return machine_.is_nested() ? AnswerNested() : AnswerViolation(exit.gpa, exit.qualification);
    case sim::Event::kPageFault:
      return machine_.is_shadowed() ? AnswerShadowFault() : AnswerPageFault();
    default:
      return Stuck();
  }
}

absl::Status CpuRunner::AnswerPageFault() {
  ++page_faults_;
  return MapInGuest(cpu_.exit().gva);
}

absl::Status CpuRunner::AnswerShadowFault() {
  const sim::Exit exit = cpu_.exit();
  const PagingFaultResult result =
      machine_.vcpu(index_).shadow()->HandlePageFault(exit.gva, exit.error_code);
  switch (result.outcome) {
    case PagingOutcome::kFixed:
      ++shadow_exits_.fixed;
      return absl::OkStatus();
    case PagingOutcome::kSpurious:
    case PagingOutcome::kRetry:
      ++shadow_exits_.spurious;
      return absl::OkStatus();
    case PagingOutcome::kGuestFault:
      ++shadow_exits_.guest_faults;
      ++page_faults_;
      return MapInGuest(exit.gva);
    case PagingOutcome::kError:
      return result.status;
    default:
      return Stuck();
  }
}

absl::Status CpuRunner::AnswerNested() {
  TDP_ASSIGN_OR_RETURN(const NestedAnswer answer, AnswerNestedViolation(machine_, index_));
  switch (answer) {
    case NestedAnswer::kFixed:
      ++nested_exits_.fixed;
      return absl::OkStatus();
    case NestedAnswer::kSpurious:
      ++nested_exits_.spurious;
      return absl::OkStatus();
    case NestedAnswer::kReflected:
      ++nested_exits_.reflected;
      return absl::OkStatus();
    case NestedAnswer::kDevice:
      break;
  }
  return Stuck();
}

absl::Status CpuRunner::AnswerViolation(Gpa gpa, ExitQualification qualification) {
  const absl::Time start = absl::Now();
  TDP_RETURN_IF_ERROR(machine_.PageIn(Gfn::Of(gpa)));
  const FaultResult result = machine_.vcpu(index_).HandleEptViolation(gpa, qualification);
  switch (result.outcome) {
    case FaultOutcome::kFixed:
      violations_.AddFixed(CauseOf(qualification), result.level);
      if (result.level == kLevel4K) TDP_RETURN_IF_ERROR(MapAround(gpa, qualification));
      break;
    case FaultOutcome::kSpurious:
      ++violations_.spurious;
      break;
    case FaultOutcome::kRetry:
      ++violations_.retry;
      break;
    case FaultOutcome::kError:
      return result.status;
    case FaultOutcome::kDirtyRingFull:
      if (on_full_ring_ == nullptr) return Stuck();
      ++full_log_exits_;
      TDP_RETURN_IF_ERROR(on_full_ring_());
      break;
    case FaultOutcome::kMmio:
    case FaultOutcome::kBlocked:
    case FaultOutcome::kViewDenied:
    case FaultOutcome::kMemoryFault:
      return Stuck();
  }
  violations_.time += absl::Now() - start;
  return absl::OkStatus();
}

// Maps the other pages of the aligned block around `gpa`, as far as its region goes.
absl::Status CpuRunner::MapAround(Gpa gpa, ExitQualification qualification) {
  const ByteCount block = machine_.options().fault_around * kPageSize;
  const MapRegion* region = machine_.map().Find(gpa);
  const Gpa first = gpa.AlignDown(block);
  for (Gpa next = first; next < first + block; next = next + kPageSize) {
    if (next == gpa.AlignDown(kPageSize) || !region->Contains(next)) continue;
    const FaultResult result = machine_.vcpu(index_).HandleEptViolation(next, qualification);
    if (result.outcome == FaultOutcome::kError) return result.status;
    if (result.outcome == FaultOutcome::kFixed) ++violations_.around;
  }
  return absl::OkStatus();
}

absl::Status CpuRunner::Stuck() const {
  return absl::InternalError(
      absl::StrCat("CPU ", index_, " gets no further after: ", cpu_.exit().DebugString()));
}

}  // namespace tdp::tools
