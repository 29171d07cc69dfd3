// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/cpu_team.h"

#include <algorithm>
#include <utility>

#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr uint64_t kNever = ~uint64_t{0};

}  // namespace

CpuTeam::CpuTeam(Machine& machine)
    : machine_(machine),
      observe_(machine.options().observe),
      quantum_(machine.options().quantum),
      random_(machine.options().seed) {
  for (int i = 0; i < machine.cpus(); ++i) {
    runners_.push_back(std::make_unique<CpuRunner>(machine, i));
    runners_.back()->CountPages(observe_.top_pages != 0);
    const auto cpu = static_cast<size_t>(i);
    runners_.back()->OnTakenAway([this, cpu](Gva gva) { return Shootdown(cpu, gva); });
  }
  const ProcessOptions& processes = machine.options().processes;
  if (processes.count != 0) {
    schedule_.emplace(ProcessSchedule::Options{.cpus = runners_.size(),
                                               .processes = processes.count,
                                               .timeslice = processes.timeslice,
                                               .quantum = quantum_,
                                               .seed = machine.options().seed});
    processes_.resize(processes.count);
  }
  observations_.interval = observe_.interval;
  warm_ = observe_.warmup == 0;
  next_mark_ = !warm_ ? observe_.warmup : observe_.interval != 0 ? observe_.interval : kNever;
}

absl::Status CpuTeam::Run(const Round& round) {
  if (schedule_.has_value()) return RunProcesses(round);
  return runners_.size() == 1 ? RunOn(0, round[0]) : RunInTurns(round);
}

absl::Status CpuTeam::RunOn(size_t cpu, absl::Span<const TraceRecord> records) {
  while (!records.empty()) {
    const auto piece = records.first(std::min<uint64_t>(records.size(), next_mark_ - accesses_));
    records.remove_prefix(piece.size());
    if (!warm_) CountWarmup(piece);
    TDP_RETURN_IF_ERROR(runners_[cpu]->Run(piece));
    accesses_ += piece.size();
    if (accesses_ == next_mark_) ReachMark();
  }
  return absl::OkStatus();
}

void CpuTeam::CountWarmup(absl::Span<const TraceRecord> records) {
  for (const TraceRecord record : records) ++warmup_records_[static_cast<size_t>(record.kind())];
}

// The end of the warm-up, or of an interval.
void CpuTeam::ReachMark() {
  if (!warm_) {
    warm_ = true;
    observations_.warmup = accesses_;
    accesses_ = 0;
    next_mark_ = observe_.interval != 0 ? observe_.interval : kNever;
    for (auto& runner : runners_) runner->ClearCounts();
    processes_.assign(processes_.size(), {});
    return;
  }
  const Interval sample = IntervalOf(totals(), accesses_);
  observations_.intervals.push_back(sample - last_sample_);
  last_sample_ = sample;
  next_mark_ += observe_.interval;
}

Totals CpuTeam::totals() const {
  Totals totals;
  for (size_t cpu = 0; cpu < runners_.size(); ++cpu) {
    const CpuRunner& runner = *runners_[cpu];
    if (runner.mmu() != nullptr) {
      totals.mmu += runner.mmu()->counters();
    } else {
      totals.cpu += machine_.cpu(static_cast<int>(cpu)).counters();
    }
    totals.violations += runner.violations();
    totals.page_faults += runner.page_faults();
    totals.shadow_exits += runner.shadow_exits();
    totals.nested_exits += runner.nested_exits();
    totals.processes += runner.process_counts();
  }
  if (machine_.mmu() != nullptr) totals.cpu = PlainCounters(totals.mmu);
  return totals;
}

Observations CpuTeam::TakeObservations() {
  if (observe_.interval != 0 && warm_ && accesses_ != last_sample_.accesses) {
    observations_.intervals.push_back(IntervalOf(totals(), accesses_) - last_sample_);
  }
  return std::move(observations_);
}

absl::flat_hash_map<uint64_t, uint64_t> CpuTeam::page_walks() const {
  absl::flat_hash_map<uint64_t, uint64_t> walks;
  for (const auto& runner : runners_) {
    for (const auto& [page, count] : runner->page_walks()) walks[page] += count;
  }
  return walks;
}

absl::Status CpuTeam::RunProcesses(const Round& round) {
  std::vector<uint64_t> sizes;
  for (const Batch& batch : round) sizes.push_back(batch.size());
  schedule_->BeginRound(sizes);
  std::vector<absl::Span<const TraceRecord>> left(round.begin(), round.end());
  while (const std::optional<ProcessSchedule::Turn> turn = schedule_->Next()) {
    absl::Span<const TraceRecord>& records = left[turn->process];
    TDP_RETURN_IF_ERROR(RunProcess(*turn, records.first(turn->accesses)));
    records.remove_prefix(turn->accesses);
  }
  return absl::OkStatus();
}

absl::Status CpuTeam::RunProcess(const ProcessSchedule::Turn& turn,
                                 absl::Span<const TraceRecord> records) {
  CpuRunner& runner = *runners_[turn.cpu];
  if (turn.switched) TDP_RETURN_IF_ERROR(runner.SwitchTo(turn.process));
  while (!records.empty()) {
    // Counters are forgotten at the end of the warm-up, which no piece goes across.
    const auto piece = records.first(std::min<uint64_t>(records.size(), next_mark_ - accesses_));
    records.remove_prefix(piece.size());
    const bool counts = warm_;
    const ProcessReport before = ReportOf(turn.cpu);
    TDP_RETURN_IF_ERROR(RunOn(turn.cpu, piece));
    if (!counts) continue;
    const ProcessReport after = ReportOf(turn.cpu);
    ProcessReport& process = processes_[turn.process];
    process.accesses += piece.size();
    process.tlb_misses += after.tlb_misses - before.tlb_misses;
    process.walks += after.walks - before.walks;
    process.page_faults += after.page_faults - before.page_faults;
  }
  return absl::OkStatus();
}

ProcessReport CpuTeam::ReportOf(size_t cpu) const {
  const CpuRunner& runner = *runners_[cpu];
  const sim::CpuCounters counters = runner.mmu() != nullptr
                                        ? PlainCounters(runner.mmu()->counters())
                                        : machine_.cpu(static_cast<int>(cpu)).counters();
  return {.tlb_misses = counters.tlb_misses(),
          .walks = counters.walks,
          .page_faults = runner.page_faults()};
}

// Linux does it so: a CPU that runs the program is interrupted, and one that may hold translations
// of it drops them when it comes back to it.
absl::Status CpuTeam::Shootdown(size_t from, Gva gva) {
  ProcessCounts& counts = runners_[from]->process_counts();
  const size_t space = runners_[from]->space();
  bool others = false;
  for (size_t cpu = 0; cpu < runners_.size(); ++cpu) {
    if (cpu == from) continue;
    CpuRunner& other = *runners_[cpu];
    if (other.space() == space) {
      TDP_RETURN_IF_ERROR(other.InvalidatePage(gva));
      ++counts.ipis;
    } else if (other.MayHold(space)) {
      other.DropLater(space);
      ++counts.deferred;
    } else {
      continue;
    }
    others = true;
  }
  counts.shootdowns += others ? 1 : 0;
  return absl::OkStatus();
}

absl::Status CpuTeam::RunInTurns(const Round& round) {
  std::vector<absl::Span<const TraceRecord>> left(round.begin(), round.end());
  std::vector<size_t> busy;  // CPUs with records left
  for (size_t cpu = 0; cpu < left.size(); ++cpu) {
    if (!left[cpu].empty()) busy.push_back(cpu);
  }
  while (!busy.empty()) {
    const size_t choice = random_() % busy.size();
    absl::Span<const TraceRecord>& records = left[busy[choice]];
    const size_t stretch = std::min<uint64_t>(records.size(), 1 + random_() % (2 * quantum_ - 1));
    TDP_RETURN_IF_ERROR(RunOn(busy[choice], records.first(stretch)));
    records.remove_prefix(stretch);
    if (records.empty()) busy.erase(busy.begin() + static_cast<ptrdiff_t>(choice));
  }
  return absl::OkStatus();
}

}  // namespace tdp::tools
