// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/explore/fiber_scheduler.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tdp/base/check.h"

namespace tdp::explore {
namespace {

ThreadSet Only(int thread) { return ThreadSet{1} << thread; }

}  // namespace

FiberScheduler::FiberScheduler() {
  for (auto& thread : threads_) thread = std::make_unique<Thread>();
}

FiberScheduler::~FiberScheduler() = default;

RunResult FiberScheduler::Run(const std::vector<std::function<void()>>& threads, Strategy& strategy,
                              const RunOptions& options) {
  TDP_CHECK(!running() && !threads.empty() && threads.size() <= kMaxThreads);
  count_ = static_cast<int>(threads.size());
  able_ = Only(count_) - 1;
  paused_ = ended_ = 0;
  changes_ = 0;
  strategy_ = &strategy;
  options_ = options;
  result_ = RunResult();
  if (options.weak_memory) memory_.Clear();
  for (int i = 0; i < count_; ++i) {
    Thread& thread = *threads_[i];
    thread.waits_for = nullptr;
    thread.held.clear();
    thread.changes = thread.seen_changes = 0;
    thread.sees_newest = false;
    thread.fiber.Start([this, &body = threads[static_cast<size_t>(i)]] {
      body();
      End();
    });
  }
  scheduler = this;
  current_ = 0;
  current_ = Ask(able_, Step::kPause);
  Fiber::Switch(main_, threads_[current_]->fiber);
  scheduler = nullptr;
  current_ = -1;
  return std::move(result_);
}

void FiberScheduler::Fail(std::string finding) {
  TDP_CHECK(running());
  result_.finding = std::move(finding);
  Fiber::Switch(threads_[current_]->fiber, main_);
  std::abort();
}

void FiberScheduler::SwitchTo(int thread) {
  if (thread == current_) return;
  ++result_.switches;
  Thread& from = *threads_[current_];
  current_ = thread;
  Fiber::Switch(from.fiber, threads_[thread]->fiber);
}

// Asks the strategy, and notes where it leaves the default.
int FiberScheduler::Ask(ThreadSet able, Step kind, const void* where) {
  ++result_.steps;
  ++result_.counts[static_cast<size_t>(kind)];
  if (result_.steps > options_.step_limit) {
    Fail(absl::StrCat("the run does not end: ", options_.step_limit, " steps"));
  }
  if (options_.record_steps) {
    result_.records.push_back({kind, static_cast<int8_t>(current_), able, where});
  }
  const Situation situation = {
      .step = result_.steps, .current = current_, .able = able, .kind = kind};
  const int thread = strategy_->Choose(situation);
  TDP_CHECK((able >> thread & 1) != 0);
  if (thread != DefaultThread(situation)) {
    result_.schedule.turns.push_back({result_.steps, thread});
  }
  return thread;
}

void FiberScheduler::Reach(Step step, const void* where) {
  if (!running()) return;
  SwitchTo(Ask(able_, step, where));
}

void FiberScheduler::OnNew(const void* where) {
  if (running() && options_.weak_memory) memory_.Forget(where);
}

uint64_t FiberScheduler::OnLoad(const void* where, uint64_t newest, std::memory_order order) {
  if (!running() || !options_.weak_memory) return newest;
  int age = 0;
  const int choices = memory_.Choices(current_, where, newest, order);
  if (choices > 1 && !threads_[current_]->sees_newest) {
    age = strategy_->ChooseAge(result_.steps, choices);
    if (age != 0) result_.schedule.old_reads.push_back({result_.steps, age});
  }
  return memory_.Load(current_, where, newest, order, age);
}

void FiberScheduler::OnFailedExchange(const void* where, uint64_t newest, std::memory_order order) {
  if (!running() || !options_.weak_memory) return;
  memory_.Choices(current_, where, newest, order);
  memory_.Load(current_, where, newest, order, 0);
}

void FiberScheduler::OnStore(const void* where, uint64_t before, uint64_t after,
                             std::memory_order order) {
  if (!running()) return;
  if (before != after) Changed();
  if (options_.weak_memory) memory_.Store(current_, where, before, after, order);
}

void FiberScheduler::OnUpdate(const void* where, uint64_t before, uint64_t after,
                              std::memory_order order) {
  if (!running()) return;
  if (before != after) Changed();
  if (options_.weak_memory) memory_.Update(current_, where, before, after, order);
}

// A thread that has paused may find now what it waits for.
void FiberScheduler::Changed() {
  if (!running()) return;
  ++changes_;
  ++threads_[current_]->changes;
  threads_[current_]->sees_newest = false;
  able_ |= paused_;
  paused_ = 0;
}

void FiberScheduler::Pause() {
  TDP_CHECK(running());
  Thread& self = *threads_[current_];
  // A look at an old value says nothing of the newest.
  const bool saw_newest = std::exchange(self.sees_newest, true) || !options_.weak_memory;
  const uint64_t by_others = changes_ - self.changes;
  const ThreadSet others = able_ & ~Only(current_);
  if (by_others != std::exchange(self.seen_changes, by_others) || !saw_newest) {
    // The place may have changed after the thread looked at it: it stays able, behind the others.
    if (others != 0) SwitchTo(Ask(others, Step::kPause));
    return;
  }
  paused_ |= Only(current_);
  able_ = others;
  Block();
}

void FiberScheduler::Yield() {
  const ThreadSet others = able_ & ~Only(current_);
  if (others != 0) SwitchTo(Ask(others, Step::kPause));
}

void FiberScheduler::Wait(const Mutex& mutex) {
  threads_[current_]->waits_for = &mutex;
  able_ &= ~Only(current_);
  Block();
}

void FiberScheduler::Block() {
  if (able_ == 0) Fail(DescribeBlocked());
  SwitchTo(Ask(able_, Step::kPause));
}

std::string FiberScheduler::DescribeBlocked() const {
  std::string text = "deadlock:";
  for (int i = 0; i < count_; ++i) {
    if ((ended_ >> i & 1) != 0) continue;
    const Mutex* mutex = threads_[i]->waits_for;
    absl::StrAppend(&text, " thread ", i, mutex == nullptr ? " spins" : " waits for a mutex");
    // The mutex has one holder to name, unless it is shared.
    for (int holder = 0; mutex != nullptr && holder < count_; ++holder) {
      const auto& held = threads_[holder]->held;
      if (std::find(held.begin(), held.end(), mutex) != held.end()) {
        absl::StrAppend(&text, " of thread ", holder);
      }
    }
    text += ";";
  }
  return text;
}

void FiberScheduler::OnLock(const Mutex& mutex) {
  if (running()) threads_[current_]->held.push_back(&mutex);
  if (running() && options_.weak_memory) memory_.Acquire(current_, &mutex);
}

void FiberScheduler::OnUnlock(const Mutex& mutex) {
  if (!running()) return;
  if (options_.weak_memory) memory_.Release(current_, &mutex);
  std::erase(threads_[current_]->held, &mutex);
  Changed();
  for (int i = 0; i < count_; ++i) {
    if (threads_[i]->waits_for != &mutex) continue;
    threads_[i]->waits_for = nullptr;
    able_ |= Only(i);
  }
}

void FiberScheduler::End() {
  ended_ |= Only(current_);
  able_ &= ~Only(current_);
  Changed();
  if (ended_ == Only(count_) - 1) Fiber::Switch(threads_[current_]->fiber, main_);
  Block();
}

}  // namespace tdp::explore
