// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/replay.h"

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/replay/batch_channel.h"
#include "tdp/tools/replay/cold_check.h"
#include "tdp/tools/replay/cpu_runner.h"
#include "tdp/tools/replay/ept_census.h"
#include "tdp/tools/replay/machine.h"

namespace tdp::tools {
namespace {

constexpr size_t kBatchRecords = size_t{1} << 15;

// A CPU with a thread of its own, fed with batches.
class CpuThread {
 public:
  CpuThread(Machine& machine, int cpu) : runner_(machine, cpu), thread_([this] { Work(); }) {}
  ~CpuThread() { static_cast<void>(Join()); }
  CpuThread(const CpuThread&) = delete;
  CpuThread& operator=(const CpuThread&) = delete;

  BatchChannel& channel() { return channel_; }
  const CpuRunner& runner() const { return runner_; }

  // Waits until everything sent is done, and tells how it ended.
  absl::Status Join() {
    channel_.Close();
    if (thread_.joinable()) thread_.join();
    return status_;
  }

 private:
  void Work() {
    Batch used;
    while (std::optional<Batch> batch = channel_.Pop(std::move(used))) {
      status_ = runner_.Run(*batch);
      if (!status_.ok()) return channel_.Stop();
      used = *std::move(batch);
    }
  }

  CpuRunner runner_;
  BatchChannel channel_;
  absl::Status status_;  // written by the thread, read after it has ended
  std::thread thread_;   // last, since it uses the others
};

using CpuThreads = std::vector<std::unique_ptr<CpuThread>>;
using RecordCounts = std::array<uint64_t, 4>;

void CountKinds(absl::Span<const TraceRecord> records, RecordCounts& counts) {
  for (TraceRecord record : records) ++counts[static_cast<size_t>(record.kind())];
}

// Decodes the traces and deals them out.
class Dealer {
 public:
  Dealer(const TraceReaders& readers, CpuThreads& threads, Progress& progress)
      : readers_(readers), threads_(threads), progress_(progress), read_(readers.size(), 0) {}

  // Until all traces end or a CPU gives up; the accesses by kind.
  absl::StatusOr<RecordCounts> Run() {
    size_t at_end = 0;
    std::vector<bool> ended(readers_.size(), false);
    for (size_t turn = 0; at_end < readers_.size(); ++turn) {
      const size_t trace = turn % readers_.size();
      if (ended[trace]) continue;
      TDP_ASSIGN_OR_RETURN(size_t dealt, DealBatch(trace, *threads_[turn % threads_.size()]));
      if (stopped_) break;
      if (dealt != 0) continue;
      ended[trace] = true;
      ++at_end;
      TDP_RETURN_IF_ERROR(CheckNotEmpty(trace));
    }
    return counts_;
  }

 private:
  // The records dealt; 0 at the trace's end.
  absl::StatusOr<size_t> DealBatch(size_t trace, CpuThread& thread) {
    TraceReader& reader = *readers_[trace];
    Batch batch = thread.channel().TakeEmpty();
    batch.resize(kBatchRecords);
    TDP_ASSIGN_OR_RETURN(size_t got, reader.Read(absl::MakeSpan(batch)));
    if (got == 0) return 0;
    batch.resize(got);
    CountKinds(batch, counts_);
    read_[trace] += got;
    accesses_ += got;
    progress_.Update(accesses_, reader.source());
    stopped_ = !thread.channel().Push(std::move(batch));
    return got;
  }

  absl::Status CheckNotEmpty(size_t trace) const {
    if (read_[trace] != 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(readers_[trace]->source().name(), ": no access in it"));
  }

  const TraceReaders& readers_;
  CpuThreads& threads_;
  Progress& progress_;
  std::vector<uint64_t> read_;  // by trace
  uint64_t accesses_ = 0;
  RecordCounts counts_{};
  bool stopped_ = false;
};

absl::Status RunTraces(const TraceReaders& readers, Machine& machine, Progress& progress,
                       ReplayReport& report) {
  CpuThreads threads;
  for (int i = 0; i < machine.cpus(); ++i) {
    threads.push_back(std::make_unique<CpuThread>(machine, i));
  }
  const absl::Time start = absl::Now();
  TDP_ASSIGN_OR_RETURN(report.records, Dealer(readers, threads, progress).Run());
  for (auto& thread : threads) TDP_RETURN_IF_ERROR(thread->Join());
  report.run_time = absl::Now() - start;
  for (int i = 0; i < machine.cpus(); ++i) {
    const CpuRunner& runner = threads[i]->runner();
    report.cpu += machine.cpu(i).counters();
    report.violations += runner.violations();
    report.page_faults += runner.page_faults();
    report.shadow_exits += runner.shadow_exits();
    report.nested_exits += runner.nested_exits();
  }
  return absl::OkStatus();
}

// What the guest's kernel has taken away and nobody touched since comes back, so that the check
// finds every page.
absl::Status BringBack(Machine& machine) {
  CpuRunner runner(machine, 0);
  for (const GuestMapping& mapping : machine.kernel().mappings()) {
    TDP_RETURN_IF_ERROR(runner.MapInGuest(mapping.gva));
  }
  return absl::OkStatus();
}

void CountTables(Machine& machine, ReplayReport& report) {
  for (const GuestMapping& mapping : machine.kernel().mappings()) {
    ++report.guest_leaves[mapping.level.raw() - 1];
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
                                    Progress& progress) {
  ReplayReport report;
  report.options = options;
  for (const auto& reader : readers) {
    absl::StrAppend(&report.trace, report.trace.empty() ? "" : " ", reader->source().name());
  }
  if (readers.size() > 1) {
    if (options.cpus != 1 && options.cpus != readers.size()) {
      return absl::InvalidArgumentError(absl::StrCat("--cpus is ", options.cpus, ", but ",
                                                     readers.size(), " traces take a CPU each"));
    }
    report.options.cpus = readers.size();
  }
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<Machine> machine, Machine::Create(report.options));
  TDP_RETURN_IF_ERROR(RunTraces(readers, *machine, progress, report));
  for (const auto& reader : readers) report.skipped += reader->skipped();
  CountTables(*machine, report);
  if (report.options.table_churn != 0) TDP_RETURN_IF_ERROR(BringBack(*machine));
  const absl::Time start = absl::Now();
  TDP_ASSIGN_OR_RETURN(report.check, CheckFromCold(*machine, options.check, progress));
  report.check_time = absl::Now() - start;
  return report;
}

}  // namespace tdp::tools
