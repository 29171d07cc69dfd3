// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Searches run a program under many schedules, until one run fails.

#ifndef TDP_TESTS_EXPLORE_SEARCH_H_
#define TDP_TESTS_EXPLORE_SEARCH_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/explore/fiber_scheduler.h"
#include "tests/explore/schedule.h"
#include "tests/explore/strategy.h"

namespace tdp::explore {

// Is run once: it has threads, and judges what has to hold when they have ended.
class Program {
 public:
  virtual ~Program() = default;
  virtual std::vector<std::function<void()>> Threads() = 0;
  // Returns what does not hold, after the threads have ended; empty if all does.
  virtual std::string Judge() = 0;
};

// Makes the program anew for each run, the same each time. Threads report findings of their own
// through the scheduler.
using MakeProgram = std::function<std::unique_ptr<Program>(FiberScheduler&)>;

// Runs a program once. A program with a finding is left as it stands, and never destroyed.
RunResult RunProgram(FiberScheduler& fibers, const MakeProgram& make, Strategy& strategy,
                     const RunOptions& options);

// Chooses every schedule with at most `bound` preemptions (Musuvathi and Qadeer, 2007), fewest
// first. A thread is preempted only before a step on a place that another thread touches too, one
// of them writing, in the run at hand. Where a thread cannot go on, each of the others is tried,
// and each of them begins.
class BoundedSearch {
 public:
  explicit BoundedSearch(int bound) : queues_(static_cast<size_t>(bound) + 1) {
    queues_[0].emplace_back();
  }

  // Returns whether there is another schedule to run; `strategy` follows it then.
  bool Next();
  Strategy& strategy() { return *replay_; }
  // Learns from that run, with its steps recorded, which schedules come of it.
  void Learn(const RunResult& result);

  // Returns how many preemptions the schedule at hand has.
  int preemptions() const { return preemptions_; }

 private:
  std::vector<std::vector<Schedule>> queues_;  // by preemptions
  size_t next_ = 0;                            // in the queue of `preemptions_`
  int preemptions_ = 0;
  Schedule at_hand_;
  std::unique_ptr<ReplayStrategy> replay_;
};

// Returns the shortest schedule that was found to fail as `schedule` does, by leaving parts of it
// away. Each try runs in a process of its own, since a failure may be its death.
Schedule Shrink(const MakeProgram& make, const Schedule& schedule, const RunOptions& options);

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_SEARCH_H_
