// SPDX-License-Identifier: Apache-2.0

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

// Decodes the trace and deals it out until it ends or a CPU gives up.
absl::StatusOr<RecordCounts> DealOut(TraceReader& reader, CpuThreads& threads, Progress& progress) {
  RecordCounts counts{};
  uint64_t accesses = 0;
  for (size_t turn = 0;; turn = (turn + 1) % threads.size()) {
    BatchChannel& channel = threads[turn]->channel();
    Batch batch = channel.TakeEmpty();
    batch.resize(kBatchRecords);
    TDP_ASSIGN_OR_RETURN(size_t got, reader.Read(absl::MakeSpan(batch)));
    if (got == 0) break;
    batch.resize(got);
    CountKinds(batch, counts);
    accesses += got;
    progress.Update(accesses, reader.source());
    if (!channel.Push(std::move(batch))) break;
  }
  if (accesses == 0) {
    return absl::InvalidArgumentError(absl::StrCat(reader.source().name(), ": no access in it"));
  }
  return counts;
}

absl::Status RunTrace(TraceReader& reader, Machine& machine, Progress& progress,
                      ReplayReport& report) {
  CpuThreads threads;
  for (int i = 0; i < machine.cpus(); ++i) {
    threads.push_back(std::make_unique<CpuThread>(machine, i));
  }
  const absl::Time start = absl::Now();
  TDP_ASSIGN_OR_RETURN(report.records, DealOut(reader, threads, progress));
  for (auto& thread : threads) TDP_RETURN_IF_ERROR(thread->Join());
  report.run_time = absl::Now() - start;
  for (int i = 0; i < machine.cpus(); ++i) {
    const CpuRunner& runner = threads[i]->runner();
    report.cpu += machine.cpu(i).counters();
    report.violations += runner.violations();
    report.page_faults += runner.page_faults();
  }
  return absl::OkStatus();
}

void CountTables(Machine& machine, ReplayReport& report) {
  for (const GuestMapping& mapping : machine.kernel().mappings()) {
    ++report.guest_leaves[mapping.level.raw() - 1];
  }
  report.guest_tables = machine.kernel().table_pages();
  if (machine.uses_ept()) {
    report.ept = CountEpt(machine.vm().eptp(), machine.host().direct_map_offset());
  }
}

}  // namespace

absl::StatusOr<ReplayReport> Replay(TraceReader& reader, const ReplayOptions& options,
                                    Progress& progress) {
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<Machine> machine, Machine::Create(options));
  ReplayReport report;
  report.trace = reader.source().name();
  report.options = options;
  TDP_RETURN_IF_ERROR(RunTrace(reader, *machine, progress, report));
  CountTables(*machine, report);
  TDP_ASSIGN_OR_RETURN(report.check, CheckFromCold(*machine));
  return report;
}

}  // namespace tdp::tools
