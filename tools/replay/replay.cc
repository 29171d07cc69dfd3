// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/replay.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/replay/batch_channel.h"
#include "tdp/tools/replay/cold_check.h"
#include "tdp/tools/replay/cpu_runner.h"
#include "tdp/tools/replay/cpu_team.h"
#include "tdp/tools/replay/ept_census.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/replay/observations.h"
#include "tdp/tools/replay/observe_options.h"
#include "tdp/tools/replay/page_watch.h"
#include "tdp/tools/replay/roi_filter.h"
#include "tdp/tools/replay/totals.h"
#include "tdp/tools/trace/record_pairs.h"

namespace tdp::tools {
namespace {

// Records of a CPU's batch, and of all batches of a round.
constexpr size_t kBatchRecords = size_t{1} << 15;
constexpr size_t kRoundRecords = size_t{1} << 18;

// The miss curves, on a thread of their own, which gets each round after it was replayed: decoding
// and replay have a thread each already, and take about the same time.
class ProfileThread {
 public:
  explicit ProfileThread(const PageWatch::Options& options, size_t takers)
      : watch_(options, takers), thread_([this] { Work(); }) {}
  ~ProfileThread() { Join(); }
  ProfileThread(const ProfileThread&) = delete;
  ProfileThread& operator=(const ProfileThread&) = delete;

  BatchChannel& channel() { return channel_; }

  // Waits until every round was looked at.
  std::vector<MissCurve> TakeCurves() {
    Join();
    return watch_.TakeCurves();
  }

 private:
  void Join() {
    channel_.Close();
    if (thread_.joinable()) thread_.join();
  }

  void Work() {
    Round used;
    while (std::optional<Round> round = channel_.Pop(std::move(used))) {
      watch_.Add(*round);
      used = *std::move(round);
    }
  }

  PageWatch watch_;
  BatchChannel channel_;
  std::thread thread_;  // last, since it uses the others
};

// The CPUs on a thread of their own, fed with rounds.
class ReplayThread {
 public:
  // `watch` looks at each round that was replayed, and then `next` gets it, which may be null.
  ReplayThread(Machine& machine, PageWatch& watch, BatchChannel* next)
      : team_(machine), watch_(watch), next_(next), thread_([this] { Work(); }) {}
  ~ReplayThread() { static_cast<void>(Join()); }
  ReplayThread(const ReplayThread&) = delete;
  ReplayThread& operator=(const ReplayThread&) = delete;

  BatchChannel& channel() { return channel_; }
  CpuTeam& team() { return team_; }

  // Waits until everything sent is done, and tells how it ended.
  absl::Status Join() {
    channel_.Close();
    if (thread_.joinable()) thread_.join();
    return status_;
  }

 private:
  void Work() {
    Round used;
    while (std::optional<Round> round = channel_.Pop(std::move(used))) {
      status_ = team_.Run(*round);
      if (!status_.ok()) return channel_.Stop();
      watch_.Add(*round);
      used = next_ == nullptr ? *std::move(round) : PassOn(*std::move(round));
    }
  }

  // Makes a round that can be used again.
  Round PassOn(Round round) {
    next_->Push(std::move(round));
    return next_->TakeEmpty();
  }

  CpuTeam team_;
  PageWatch& watch_;
  BatchChannel* const next_;
  BatchChannel channel_;
  absl::Status status_;  // written by the thread, read after it has ended
  std::thread thread_;   // last, since it uses the others
};

using RecordCounts = std::array<uint64_t, 4>;

// Counts the two bits of a kind, and the records in which both are set. A batch is small enough for
// sums of 32 bits.
void CountKinds(absl::Span<const TraceRecord> records, RecordCounts& counts) {
  UpperHalves kinds = {};
  UpperHalves lows = {};
  UpperHalves boths = {};
  ForEachUpperHalves(records, [&](UpperHalves halves) {
    const UpperHalves kind = halves >> (TraceRecord::kKindShift - 32);
    kinds += kind;
    lows += kind & 1;
    boths += kind & kind >> 1;
  });
  const auto sum = [](UpperHalves of) { return uint64_t{of[0]} + of[1] + of[2] + of[3]; };
  const uint64_t both = sum(boths);
  const uint64_t low_alone = sum(lows) - both;
  // A kind is its low bit and twice its high bit.
  const uint64_t high_alone = (sum(kinds) - sum(lows)) / 2 - both;
  counts[0] += records.size() - low_alone - high_alone - both;
  counts[1] += low_alone;
  counts[2] += high_alone;
  counts[3] += both;
}

// Decodes the traces and deals them out, to CPUs or to processes.
class Dealer {
 public:
  Dealer(const TraceReaders& readers, const ObserveOptions& observe, size_t cpus,
         BatchChannel& channel, Progress& progress)
      : readers_(readers),
        cpus_(cpus),
        batch_records_(std::max<size_t>(1, std::min(kBatchRecords, kRoundRecords / cpus))),
        channel_(channel),
        progress_(progress),
        read_(readers.size(), 0),
        filters_(readers.size(), RoiFilter(observe.roi)) {}

  // Until all traces end or a CPU gives up; the accesses by kind.
  absl::StatusOr<RecordCounts> Run() {
    while (true) {
      Round round = channel_.TakeEmpty();
      round.resize(cpus_);
      TDP_ASSIGN_OR_RETURN(const bool any, FillRound(round));
      if (!any || !channel_.Push(std::move(round))) return counts_;
    }
  }

 private:
  // One trace is dealt out to all CPUs, several have one each. Whether there was anything.
  absl::StatusOr<bool> FillRound(Round& round) {
    bool any = false;
    for (size_t cpu = 0; cpu < cpus_; ++cpu) {
      const size_t trace = readers_.size() == 1 ? 0 : cpu;
      TDP_RETURN_IF_ERROR(FillBatch(trace, round[cpu]));
      any |= !round[cpu].empty();
    }
    return any;
  }

  // Empty at the trace's end.
  absl::Status FillBatch(size_t trace, Batch& batch) {
    TraceReader& reader = *readers_[trace];
    if (filters_[trace].done()) {
      batch.clear();
      return absl::OkStatus();
    }
    do {
      batch.resize(batch_records_);
      TDP_ASSIGN_OR_RETURN(size_t got, reader.Read(absl::MakeSpan(batch)));
      batch.resize(got);
      read_[trace] += got;
      accesses_ += got;
      progress_.Update(accesses_, reader.source());
      if (got == 0) break;
      filters_[trace].Apply(batch);
    } while (batch.empty() && !filters_[trace].done());
    CountKinds(batch, counts_);
    if (read_[trace] != 0 && batch.empty() && !filters_[trace].begun()) {
      return absl::InvalidArgumentError(
          absl::StrCat(reader.source().name(), ": --roi begins after its last access"));
    }
    if (read_[trace] != 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(reader.source().name(), ": no access in it"));
  }

  const TraceReaders& readers_;
  const size_t cpus_;
  const size_t batch_records_;
  BatchChannel& channel_;
  Progress& progress_;
  std::vector<uint64_t> read_;      // by trace
  std::vector<RoiFilter> filters_;  // by trace
  uint64_t accesses_ = 0;
  RecordCounts counts_{};
};

absl::Status RunTraces(const TraceReaders& readers, Machine& machine, Progress& progress,
                       PhysicalTrace* physical, ReplayReport& report) {
  const ObserveOptions& observe = machine.options().observe;
  const uint64_t processes = machine.options().processes.count;
  const size_t takers = processes != 0 ? processes : static_cast<size_t>(machine.cpus());
  PageWatch watch({.counts = observe.top_pages != 0, .warmup = observe.warmup}, takers);
  std::optional<ProfileThread> profile;
  if (observe.miss_curve != MissCurveMode::kOff) {
    profile.emplace(PageWatch::Options{.sampled = observe.miss_curve == MissCurveMode::kSampled,
                                       .exact = observe.miss_curve == MissCurveMode::kExact,
                                       .warmup = observe.warmup,
                                       .seed = machine.options().seed},
                    takers);
  }
  ReplayThread thread(machine, watch, profile.has_value() ? &profile->channel() : nullptr);
  thread.team().RecordPhysical(physical);
  const absl::Time start = absl::Now();
  Dealer dealer(readers, observe, takers, thread.channel(), progress);
  TDP_ASSIGN_OR_RETURN(report.records, dealer.Run());
  TDP_RETURN_IF_ERROR(thread.Join());
  std::vector<MissCurve> curves;
  if (profile.has_value()) curves = profile->TakeCurves();
  report.run_time = absl::Now() - start;
  const Totals totals = thread.team().totals();
  report.cpu = totals.cpu;
  report.mmu = totals.mmu;
  for (int i = 0; i < machine.cpus(); ++i) {
    const CpuRunner& runner = thread.team().runner(i);
    report.per_cpu.push_back({.counters = runner.mmu() != nullptr
                                              ? PlainCounters(runner.mmu()->counters())
                                              : machine.cpu(i).counters(),
                              .page_faults = runner.page_faults(),
                              .exits = runner.violations().total() + runner.shadow_exits().total() +
                                       runner.nested_exits().total()});
  }
  report.violations = totals.violations;
  report.page_faults = totals.page_faults;
  report.shadow_exits = totals.shadow_exits;
  report.nested_exits = totals.nested_exits;
  report.processes = totals.processes;
  report.per_process = thread.team().processes();
  for (size_t kind = 0; kind < report.records.size(); ++kind) {
    report.records[kind] -= thread.team().warmup_records()[kind];
  }
  report.observations = thread.team().TakeObservations();
  report.observations.miss_curves = std::move(curves);
  const absl::flat_hash_map<uint64_t, uint64_t> accesses = watch.Accesses();
  report.observations.touched_pages = accesses.size();
  report.observations.top_pages = TopPages(accesses, thread.team().page_walks(), observe.top_pages);
  if (report.accesses() == 0) {
    return absl::InvalidArgumentError("--warmup takes all accesses: none is left to count");
  }
  return absl::OkStatus();
}

// Brings back what the guest's kernel has taken away and nobody touched since, so that the check
// finds every page.
absl::Status BringBack(Machine& machine) {
  CpuRunner runner(machine, 0);
  for (size_t space = 0; space < machine.kernel().spaces(); ++space) {
    runner.UseSpace(space);
    for (const GuestMapping& mapping : machine.kernel().mappings(space)) {
      TDP_RETURN_IF_ERROR(runner.MapInGuest(mapping.gva));
    }
  }
  return absl::OkStatus();
}

void CountTables(Machine& machine, ReplayReport& report) {
  for (size_t space = 0; space < machine.kernel().spaces(); ++space) {
    for (const GuestMapping& mapping : machine.kernel().mappings(space)) {
      ++report.guest_leaves[mapping.level.raw() - 1];
    }
  }
  report.guest_tables = machine.kernel().table_pages();
  if (!machine.uses_ept()) return;
  const Eptp eptp = machine.is_nested() ? machine.vcpu(0).nested()->eptp() : machine.vm().eptp();
  report.ept = CountEpt(eptp, machine.host().direct_map_offset());
  if (!machine.is_nested()) return;
  report.ept12_leaves = machine.hypervisor().leaves();
  report.ept12_tables = machine.hypervisor().table_pages();
}

}  // namespace

absl::StatusOr<ReplayReport> Replay(const TraceReaders& readers, const ReplayOptions& options,
                                    Progress& progress, PhysicalTrace* physical) {
  ReplayReport report;
  report.options = options;
  for (const auto& reader : readers) {
    absl::StrAppend(&report.trace, report.trace.empty() ? "" : " ", reader->source().name());
  }
  if (options.processes.separate) {
    if (readers.size() > kMostProcesses) {
      return absl::InvalidArgumentError(absl::StrCat(readers.size(), " traces: there are at most ",
                                                     kMostProcesses, " processes"));
    }
    report.options.processes.count = readers.size();
  } else if (readers.size() > 1) {
    if (options.cpus != 1 && options.cpus != readers.size()) {
      return absl::InvalidArgumentError(absl::StrCat("--cpus is ", options.cpus, ", but ",
                                                     readers.size(), " traces take a CPU each"));
    }
    report.options.cpus = readers.size();
  }
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<Machine> machine, Machine::Create(report.options));
  if (machine->mmu() != nullptr) report.machine = *machine->mmu();
  TDP_RETURN_IF_ERROR(RunTraces(readers, *machine, progress, physical, report));
  for (const auto& reader : readers) report.skipped += reader->skipped();
  CountTables(*machine, report);
  if (report.options.table_churn != 0) TDP_RETURN_IF_ERROR(BringBack(*machine));
  const absl::Time start = absl::Now();
  TDP_ASSIGN_OR_RETURN(report.check, CheckFromCold(*machine, options.check, progress));
  report.check_time = absl::Now() - start;
  return report;
}

}  // namespace tdp::tools
