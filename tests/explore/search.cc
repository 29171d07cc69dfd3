// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/search.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "tdp/base/check.h"

namespace tdp::explore {

RunResult RunProgram(FiberScheduler& fibers, const MakeProgram& make, Strategy& strategy,
                     const RunOptions& options) {
  std::unique_ptr<Program> program = make(fibers);
  RunResult result = fibers.Run(program->Threads(), strategy, options);
  if (result.finding.empty()) result.finding = program->Judge();
  if (!result.finding.empty()) {
    [[maybe_unused]] Program* const left = program.release();
  }
  return result;
}

bool BoundedSearch::Next() {
  while (next_ == queues_[preemptions_].size()) {
    queues_[preemptions_].clear();
    next_ = 0;
    if (++preemptions_ == static_cast<int>(queues_.size())) return false;
  }
  at_hand_ = std::move(queues_[preemptions_][next_++]);
  replay_ = std::make_unique<ReplayStrategy>(at_hand_);
  return true;
}

void BoundedSearch::Learn(const RunResult& result) {
  struct Users {
    ThreadSet readers = 0;
    ThreadSet writers = 0;
  };
  const auto by_one = [](ThreadSet set) { return (set & (set - 1)) == 0; };
  absl::flat_hash_map<const void*, Users> users;
  for (const StepRecord& record : result.records) {
    Users& of = users[record.where];
    const bool reads = record.kind == Step::kLoad;
    (reads ? of.readers : of.writers) |= ThreadSet{1} << record.thread;
  }
  const auto matters = [&](const StepRecord& record) {
    if (record.where == nullptr) return true;
    const Users& of = users[record.where];
    return of.writers != 0 && !by_one(of.readers | of.writers);
  };
  const uint64_t begin = at_hand_.turns.empty() ? 0 : at_hand_.turns.back().step;
  for (uint64_t i = begin; i < result.records.size(); ++i) {
    const StepRecord& record = result.records[i];
    const Situation situation = {.current = record.thread, .able = record.able};
    // The choice of the thread that begins is no preemption.
    const bool forced = i == 0 || !situation.current_is_able();
    if (!forced && (preemptions_ + 1 == static_cast<int>(queues_.size()) || !matters(record))) {
      continue;
    }
    for (int thread = 0; thread < kMaxThreads; ++thread) {
      if ((record.able >> thread & 1) == 0 || thread == DefaultThread(situation)) continue;
      Schedule schedule = at_hand_;
      schedule.turns.push_back({i + 1, thread});
      queues_[static_cast<size_t>(preemptions_ + (forced ? 0 : 1))].push_back(std::move(schedule));
    }
  }
}

namespace {

// Returns whether a run by `schedule` fails, tried in a child.
bool Fails(const MakeProgram& make, const Schedule& schedule, const RunOptions& options) {
  const pid_t child = fork();
  TDP_CHECK(child >= 0);
  if (child == 0) {
    const int null = open("/dev/null", O_WRONLY);
    dup2(null, STDERR_FILENO);
    signal(SIGABRT, SIG_DFL);
    signal(SIGSEGV, SIG_DFL);
    FiberScheduler fibers;
    ReplayStrategy replay(schedule);
    _exit(RunProgram(fibers, make, replay, options).finding.empty() ? 0 : 1);
  }
  int status = 0;
  TDP_CHECK_EQ(waitpid(child, &status, 0), child);
  return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

// Takes pieces of `list` away as long as what is left fails.
template <typename List, typename StillFails>
void ShrinkList(List& list, StillFails still_fails) {
  for (size_t piece = (list.size() + 1) / 2; piece > 0; piece = piece == 1 ? 0 : (piece + 1) / 2) {
    for (size_t at = 0; at < list.size();) {
      List shorter = list;
      const auto begin = shorter.begin() + static_cast<ptrdiff_t>(at);
      shorter.erase(begin, begin + static_cast<ptrdiff_t>(std::min(piece, list.size() - at)));
      if (still_fails(shorter)) {
        list = std::move(shorter);
      } else {
        at += piece;
      }
    }
  }
}

}  // namespace

Schedule Shrink(const MakeProgram& make, const Schedule& schedule, const RunOptions& options) {
  Schedule best = schedule;
  if (!Fails(make, best, options)) return best;
  for (Schedule before; !(before == best);) {
    before = best;
    ShrinkList(best.old_reads, [&](const auto& reads) {
      return Fails(make, {.turns = best.turns, .old_reads = reads}, options);
    });
    ShrinkList(best.turns, [&](const auto& turns) {
      return Fails(make, {.turns = turns, .old_reads = best.old_reads}, options);
    });
  }
  return best;
}

}  // namespace tdp::explore
