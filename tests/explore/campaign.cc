// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/campaign.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tests/explore/fiber_scheduler.h"
#include "tests/explore/search.h"
#include "tests/explore/strategy.h"

namespace tdp::explore {
namespace {

double CpuSeconds(int who) {
  rusage usage;
  getrusage(who, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Carries what a child tells its parent, in memory that both have.
struct Report {
  static constexpr size_t kMost = 4000;
  uint64_t runs;
  uint64_t steps;
  uint64_t switches;
  bool complete;
  bool found;
  // These belong to the finding.
  uint64_t seed;
  bool weak_memory;
  uint64_t turns;
  std::array<Schedule::Turn, kMost> turn;
  uint64_t old_reads;
  std::array<Schedule::OldRead, kMost> old_read;
  std::array<char, 1000> what;

  void Tell(const Schedule& schedule, const char* finding) {
    found = true;
    turns = std::min<uint64_t>(schedule.turns.size(), kMost);
    std::copy_n(schedule.turns.begin(), turns, turn.begin());
    old_reads = std::min<uint64_t>(schedule.old_reads.size(), kMost);
    std::copy_n(schedule.old_reads.begin(), old_reads, old_read.begin());
    std::snprintf(what.data(), what.size(), "%s", finding);
  }
};

Report* report = nullptr;
const FiberScheduler* fibers_at_work = nullptr;

// Reports a check of the engine that has failed, or a touch of memory that is not there.
void OnDeath(int signal) {
  if (fibers_at_work != nullptr && fibers_at_work->running()) {
    report->Tell(fibers_at_work->schedule(), signal == SIGABRT ? "a check failed" : "a bad access");
  } else {
    report->Tell({}, "a check failed outside the schedule");
  }
  _exit(1);
}

void CatchDeaths() {
  static char stack[64 << 10];
  const stack_t alternate = {.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof(stack)};
  sigaltstack(&alternate, nullptr);
  struct sigaction action = {};
  action.sa_handler = OnDeath;
  action.sa_flags = SA_ONSTACK;
  for (const int signal : {SIGABRT, SIGSEGV, SIGBUS}) sigaction(signal, &action, nullptr);
}

class Turn {
 public:
  Turn(const Scenario& scenario, const CampaignOptions& options)
      : scenario_(scenario), options_(options) {
    fibers_at_work = &fibers_;
  }

  // Runs `runs` random schedules, of seeds from `seed` on, half of them with weak memory.
  void Random(uint64_t seed, uint64_t runs) {
    StepCounts counts{};
    uint64_t steps = 500;
    for (uint64_t i = 0; i < runs && !report->found; ++i, ++seed) {
      // The world changes less often than the schedule.
      report->seed = seed / 4;
      report->weak_memory = seed / 2 % 2 != 0;
      if (seed % 4 != 3) {
        Pct pct(seed, scenario_.Threads(), counts, 2 + static_cast<int>(seed / 8 % 4));
        counts = Run(pct, false).counts;
      } else {
        RandomWalk walk(seed, steps, 10 + seed / 8 % 60);
        steps = Run(walk, false).steps;
      }
    }
  }

  void Bounded(double cpu_seconds) {
    const uint64_t end = options_.first_seed + options_.seeds;
    for (report->seed = options_.first_seed; report->seed < end; ++report->seed) {
      BoundedSearch search(options_.bound);
      while (search.Next()) {
        const bool enough = options_.most_runs == 0 ? CpuSeconds(RUSAGE_SELF) > cpu_seconds
                                                    : report->runs >= options_.most_runs;
        if (enough) return;
        search.Learn(Run(search.strategy(), true));
        if (report->found) return;
      }
    }
    report->complete = true;
  }

 private:
  RunResult Run(Strategy& strategy, bool record) {
    const RunOptions options = {.weak_memory = report->weak_memory, .record_steps = record};
    RunResult result = RunProgram(fibers_, ProgramOf(scenario_, report->seed), strategy, options);
    ++report->runs;
    report->steps += result.steps;
    report->switches += result.switches;
    if (!result.finding.empty()) report->Tell(result.schedule, result.finding.c_str());
    return result;
  }

  const Scenario& scenario_;
  const CampaignOptions& options_;
  FiberScheduler fibers_;
};

Finding FindingOf(const Scenario& scenario) {
  Finding finding = {.scenario = scenario.Name(),
                     .seed = report->seed,
                     .weak_memory = report->weak_memory,
                     .schedule = {},
                     .what = report->what.data()};
  finding.schedule.turns.assign(report->turn.begin(), report->turn.begin() + report->turns);
  finding.schedule.old_reads.assign(report->old_read.begin(),
                                    report->old_read.begin() + report->old_reads);
  return finding;
}

// Gives one scenario its turn in a child. Returns whether that found something.
template <typename Work>
bool InChild(Work work) {
  *report = Report();
  const pid_t child = fork();
  TDP_CHECK(child >= 0);
  if (child == 0) {
    CatchDeaths();
    work();
    _exit(0);
  }
  int status = 0;
  TDP_CHECK_EQ(waitpid(child, &status, 0), child);
  return report->found || !WIFEXITED(status);
}

}  // namespace

std::string Finding::ToCpp() const {
  return absl::StrFormat(
      "TEST(ExploreReplay, Name) {\n"
      "  EXPECT_EQ(Replay({.scenario = \"%s\", .seed = %d, .weak_memory = %s,\n"
      "                    .schedule = %s}), \"\");\n"
      "}\n",
      scenario, seed, weak_memory ? "true" : "false", schedule.ToCpp());
}

CampaignResult Explore(const std::vector<Scenario>& scenarios, const CampaignOptions& options) {
  // This is a multiple of 4: each world is made so often (`Turn::Random`).
  constexpr uint64_t kRunsATurn = 32;
  void* shared =
      mmap(nullptr, sizeof(Report), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  TDP_CHECK(shared != MAP_FAILED);
  report = new (shared) Report();
  CampaignResult total;
  const double begin = CpuSeconds(RUSAGE_CHILDREN);
  std::vector<bool> done(scenarios.size(), false);
  for (uint64_t round = 0;; ++round) {
    const uint64_t made = round * kRunsATurn;
    if (options.bound < 0 && options.most_runs != 0 && made >= options.most_runs) return total;
    bool any = false;
    for (size_t i = 0; i < scenarios.size(); ++i) {
      if (done[i]) continue;
      total.cpu_seconds = CpuSeconds(RUSAGE_CHILDREN) - begin;
      if (options.most_runs == 0 && total.cpu_seconds > options.cpu_seconds) return total;
      any = true;
      const Scenario& scenario = scenarios[i];
      const bool found = InChild([&] {
        Turn turn(scenario, options);
        if (options.bound >= 0) {
          turn.Bounded(options.cpu_seconds - total.cpu_seconds);
        } else {
          const uint64_t runs = options.most_runs == 0 ? kRunsATurn : options.most_runs - made;
          turn.Random(options.first_seed + made, std::min(runs, kRunsATurn));
        }
      });
      total.cpu_seconds = CpuSeconds(RUSAGE_CHILDREN) - begin;
      total.runs += report->runs;
      total.steps += report->steps;
      total.switches += report->switches;
      total.complete += report->complete ? 1 : 0;
      total.scenarios += round == 0 ? 1 : 0;
      if (options.bound >= 0) done[i] = true;
      if (!found) continue;
      done[i] = true;
      Finding finding = FindingOf(scenario);
      finding.schedule = Shrink(ProgramOf(scenario, finding.seed), finding.schedule,
                                {.weak_memory = finding.weak_memory});
      total.findings.push_back(std::move(finding));
      if (static_cast<int>(total.findings.size()) == options.most_findings) return total;
    }
    if (!any) return total;
  }
}

std::string Replay(const Finding& finding) {
  const Scenario scenario = ScenarioOf(finding.scenario);
  FiberScheduler fibers;
  ReplayStrategy strategy(finding.schedule);
  return RunProgram(fibers, ProgramOf(scenario, finding.seed), strategy,
                    {.weak_memory = finding.weak_memory})
      .finding;
}

}  // namespace tdp::explore
