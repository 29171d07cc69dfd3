// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The scheduler runs functions as threads, one step at a time, in the order that a strategy
// chooses.

#ifndef TDP_TESTS_EXPLORE_FIBER_SCHEDULER_H_
#define TDP_TESTS_EXPLORE_FIBER_SCHEDULER_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tdp/base/sync.h"
#include "tests/explore/fiber.h"
#include "tests/explore/schedule.h"
#include "tests/explore/strategy.h"
#include "tests/explore/weak_memory.h"

namespace tdp::explore {

// Keeps one decision, where a run is recorded: what `thread` was about to do, and who could go on.
struct StepRecord {
  Step kind;
  int8_t thread;
  ThreadSet able;
  const void* where;
};

struct RunOptions {
  bool weak_memory = false;  // loads may see old values (WeakMemory)
  bool record_steps = false;
  uint64_t step_limit = 200000;  // a run of more steps does not come to an end
};

// Says what a run came to.
struct RunResult {
  std::string finding;  // empty: none
  uint64_t steps = 0;
  uint64_t switches = 0;
  StepCounts counts{};
  Schedule schedule;  // what the run was
  std::vector<StepRecord> records;
};

class FiberScheduler : public Scheduler {
 public:
  FiberScheduler();
  ~FiberScheduler() override;

  // Runs `threads` until all have ended or there is a finding. After a finding they are left where
  // they stand: nothing of theirs may be used or destroyed any more.
  RunResult Run(const std::vector<std::function<void()>>& threads, Strategy& strategy,
                const RunOptions& options);

  // --- For the threads of a run

  // Ends the run with this finding. Does not return.
  [[noreturn]] void Fail(std::string finding);
  // Makes a step of the test's own, beside those of the code under test.
  void Reach() { Reach(Step::kScan, nullptr); }
  // Lets others go on first, where any can.
  void Yield();
  // Tells the scheduler that something was changed which may let others go on.
  void Tell() { Changed(); }
  // Tells that the running thread knows from elsewhere what all have done so far: loads that it
  // makes from here on see no older values.
  void SeeAll() {
    if (running() && options_.weak_memory) memory_.SeeAll(current_);
  }
  int current() const { return current_; }
  bool running() const { return current_ >= 0; }
  // Returns the schedule of the run so far, for a program that is about to die.
  const Schedule& schedule() const { return result_.schedule; }

  void Reach(Step step, const void* where) override;
  void OnNew(const void* where) override;
  uint64_t OnLoad(const void* where, uint64_t newest, std::memory_order order) override;
  void OnFailedExchange(const void* where, uint64_t newest, std::memory_order order) override;
  void OnStore(const void* where, uint64_t before, uint64_t after,
               std::memory_order order) override;
  void OnUpdate(const void* where, uint64_t before, uint64_t after,
                std::memory_order order) override;
  void Pause() override;
  void Wait(const Mutex& mutex) override;
  void OnLock(const Mutex& mutex) override;
  void OnUnlock(const Mutex& mutex) override;

 private:
  struct Thread {
    Fiber fiber;
    const Mutex* waits_for = nullptr;
    std::vector<const Mutex*> held;
    uint64_t changes = 0;       // that it made
    uint64_t seen_changes = 0;  // that others had made when it paused last
    bool sees_newest = false;   // it has paused: what it waits for arrives in the end
  };

  void Changed();
  void Block();
  void End();
  void SwitchTo(int thread);
  int Ask(ThreadSet able, Step kind, const void* where = nullptr);
  std::string DescribeBlocked() const;

  Fiber main_;
  std::array<std::unique_ptr<Thread>, kMaxThreads> threads_;
  int count_ = 0;
  int current_ = -1;
  ThreadSet able_ = 0;
  ThreadSet paused_ = 0;
  ThreadSet ended_ = 0;
  uint64_t changes_ = 0;
  Strategy* strategy_ = nullptr;
  RunOptions options_;
  RunResult result_;
  WeakMemory memory_;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_FIBER_SCHEDULER_H_
