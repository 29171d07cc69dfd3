// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests are of the scheduler itself: small programs whose outcomes are known.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/base/spin.h"
#include "tdp/base/spin_lock.h"
#include "tdp/base/sync.h"
#include "tests/explore/fiber_scheduler.h"
#include "tests/explore/search.h"
#include "tests/explore/strategy.h"

namespace tdp::explore {
namespace {

using Threads = std::vector<std::function<void()>>;

// Returns every outcome of a small program: `make` gives its threads, `outcome` what they came to.
template <typename Make, typename Outcome>
std::set<std::string> OutcomesOf(Make make, Outcome outcome, bool weak, uint64_t runs = 3000) {
  std::set<std::string> outcomes;
  FiberScheduler fibers;
  for (uint64_t seed = 0; seed < runs; ++seed) {
    const Threads threads = make();
    RandomWalk strategy(seed, 12, 4);
    const RunResult result = fibers.Run(threads, strategy, {.weak_memory = weak});
    outcomes.insert(result.finding.empty() ? outcome() : result.finding);
  }
  return outcomes;
}

struct Two {
  Atomic<int> x{0};
  Atomic<int> y{0};
  int a = -1;
  int b = -1;

  std::string Read() const { return std::to_string(a) + std::to_string(b); }
};

// Is store buffering: each thread stores, then reads what the other stores.
std::set<std::string> StoreBuffering(std::memory_order store, std::memory_order load, bool weak) {
  std::unique_ptr<Two> two;
  return OutcomesOf(
      [&]() -> Threads {
        two = std::make_unique<Two>();
        return {[&, t = two.get()] {
                  t->x.store(1, store);
                  t->a = t->y.load(load);
                },
                [&, t = two.get()] {
                  t->y.store(1, store);
                  t->b = t->x.load(load);
                }};
      },
      [&] { return two->Read(); }, weak);
}

TEST(WeakMemory, ReleaseStoresMayPassLaterLoads) {
  using Outcomes = std::set<std::string>;
  constexpr auto kSeqCst = std::memory_order_seq_cst;
  EXPECT_EQ(StoreBuffering(kSeqCst, kSeqCst, true), (Outcomes{"01", "10", "11"}));
  EXPECT_EQ(StoreBuffering(std::memory_order_release, std::memory_order_acquire, true),
            (Outcomes{"00", "01", "10", "11"}));
  EXPECT_EQ(StoreBuffering(std::memory_order_release, kSeqCst, true),
            (Outcomes{"00", "01", "10", "11"}));
  EXPECT_EQ(StoreBuffering(std::memory_order_release, std::memory_order_acquire, false),
            (Outcomes{"01", "10", "11"}));
}

// Is message passing: what is stored before a flag must be seen by whoever sees the flag.
std::set<std::string> MessagePassing(std::memory_order store, std::memory_order load) {
  std::unique_ptr<Two> two;
  return OutcomesOf(
      [&]() -> Threads {
        two = std::make_unique<Two>();
        return {[&, t = two.get()] {
                  t->x.store(1, std::memory_order_relaxed);
                  t->y.store(1, store);
                },
                [&, t = two.get()] {
                  t->a = t->y.load(load);
                  t->b = t->x.load(std::memory_order_relaxed);
                }};
      },
      [&] { return two->Read(); }, true);
}

TEST(WeakMemory, AMessageIsPassedByReleaseAndAcquireAlone) {
  constexpr auto kRelaxed = std::memory_order_relaxed;
  EXPECT_FALSE(MessagePassing(std::memory_order_release, std::memory_order_acquire).contains("10"));
  EXPECT_TRUE(MessagePassing(kRelaxed, std::memory_order_acquire).contains("10"));
  EXPECT_TRUE(MessagePassing(std::memory_order_release, kRelaxed).contains("10"));
}

TEST(WeakMemory, AMutexPassesWhatWasStoredUnderIt) {
  struct Shared {
    Mutex mutex;
    Atomic<int> x{0};
    Atomic<int> y{0};
    int a = 0;
    int b = 0;
  };
  std::unique_ptr<Shared> shared;
  const auto outcomes = OutcomesOf(
      [&]() -> Threads {
        shared = std::make_unique<Shared>();
        Shared* s = shared.get();
        return {[s] {
                  MutexLock lock(s->mutex);
                  s->x.store(1, std::memory_order_relaxed);
                  s->y.store(1, std::memory_order_relaxed);
                },
                [s] {
                  MutexLock lock(s->mutex);
                  s->a = s->y.load(std::memory_order_relaxed);
                  s->b = s->x.load(std::memory_order_relaxed);
                }};
      },
      [&] { return std::to_string(shared->a) + std::to_string(shared->b); }, true);
  EXPECT_EQ(outcomes, (std::set<std::string>{"00", "11"}));
}

TEST(WeakMemory, ASpinSeesTheNewestInTheEnd) {
  std::unique_ptr<Two> two;
  const auto outcomes = OutcomesOf(
      [&]() -> Threads {
        two = std::make_unique<Two>();
        return {[t = two.get()] { t->x.store(1, std::memory_order_relaxed); },
                [t = two.get()] {
                  SpinUntil([t] { return t->x.load(std::memory_order_relaxed) != 0; });
                }};
      },
      [&] { return "done"; }, true);
  EXPECT_EQ(outcomes, std::set<std::string>{"done"});
}

// A later load of the same thread must meet the value that a failed exchange has met, or a newer
// one.
TEST(WeakMemory, AFailedCompareExchangeMeetsTheNewestValue) {
  std::unique_ptr<Two> two;
  const auto outcomes = OutcomesOf(
      [&]() -> Threads {
        two = std::make_unique<Two>();
        return {[t = two.get()] { t->x.store(1, std::memory_order_relaxed); },
                [t = two.get()] {
                  int expected = 0;
                  const bool done =
                      t->x.compare_exchange_strong(expected, 2, std::memory_order_relaxed);
                  t->a = done ? 2 : expected;
                  t->b = t->x.load(std::memory_order_relaxed);
                }};
      },
      [&] { return two->Read(); }, true);
  EXPECT_EQ(outcomes, (std::set<std::string>{"11", "21", "22"}));
}

TEST(FiberScheduler, AReadAndAStoreLoseAnUpdateAndAFetchAddNone) {
  for (const bool atomic : {false, true}) {
    std::unique_ptr<Two> two;
    const auto outcomes = OutcomesOf(
        [&]() -> Threads {
          two = std::make_unique<Two>();
          const auto add = [t = two.get(), atomic] {
            if (atomic) {
              t->x.fetch_add(1);
            } else {
              t->x.store(t->x.load() + 1);
            }
          };
          return {add, add};
        },
        [&] { return std::to_string(two->x.load()); }, false);
    EXPECT_EQ(outcomes.contains("1"), !atomic);
    EXPECT_TRUE(outcomes.contains("2"));
  }
}

TEST(FiberScheduler, MutexesExcludeAndReadersShare) {
  struct Shared {
    Mutex mutex;
    Atomic<int> inside{0};
    int most_readers = 0;
    bool mixed = false;
  };
  std::unique_ptr<Shared> shared;
  int most = 0;
  const auto outcomes = OutcomesOf(
      [&]() -> Threads {
        shared = std::make_unique<Shared>();
        Shared* s = shared.get();
        const auto reader = [s] {
          ReaderMutexLock lock(s->mutex);
          const int inside = s->inside.fetch_add(1) + 1;
          s->most_readers = std::max(s->most_readers, inside);
          s->inside.fetch_sub(1);
        };
        const auto writer = [s] {
          MutexLock lock(s->mutex);
          s->mixed |= s->inside.fetch_add(1) != 0;
          s->inside.fetch_sub(1);
        };
        return {reader, writer, reader, writer};
      },
      [&] {
        most = std::max(most, shared->most_readers);
        return shared->mixed ? "mixed" : "apart";
      },
      false);
  EXPECT_EQ(outcomes, std::set<std::string>{"apart"});
  EXPECT_EQ(most, 2);
}

TEST(FiberScheduler, TwoMutexesTakenInTwoOrdersAreADeadlock) {
  struct Shared {
    Mutex a;
    Mutex b;
  };
  std::vector<std::unique_ptr<Shared>> all;  // what a finding leaves behind stays
  const auto outcomes = OutcomesOf(
      [&]() -> Threads {
        all.push_back(std::make_unique<Shared>());
        Shared* s = all.back().get();
        return {[s] {
                  MutexLock a(s->a);
                  MutexLock b(s->b);
                },
                [s] {
                  MutexLock b(s->b);
                  MutexLock a(s->a);
                }};
      },
      [] { return "done"; }, false, 300);
  EXPECT_TRUE(outcomes.contains("done"));
  EXPECT_TRUE(outcomes.contains(
      "deadlock: thread 0 waits for a mutex of thread 1; thread 1 waits for a mutex of thread 0;"));
}

TEST(FiberScheduler, ASpinForWhatNobodyStoresIsADeadlock) {
  Atomic<int> never{0};
  FiberScheduler fibers;
  ReplayStrategy strategy{Schedule{}};
  const Threads threads = {[&] { SpinUntil([&] { return never.load() != 0; }); }};
  EXPECT_EQ(fibers.Run(threads, strategy, {}).finding, "deadlock: thread 0 spins;");
}

TEST(FiberScheduler, ARunWithoutEndIsAFinding) {
  Atomic<int> counter{0};
  FiberScheduler fibers;
  ReplayStrategy strategy{Schedule{}};
  const Threads threads = {[&] {
    for (;;) counter.fetch_add(1);
  }};
  EXPECT_EQ(fibers.Run(threads, strategy, {.step_limit = 1000}).finding,
            "the run does not end: 1000 steps");
}

// Makes two threads that each add 1 three times, not atomically.
Threads LossyAdders(Atomic<int>& sum) {
  const auto add = [&sum] {
    for (int i = 0; i < 3; ++i) sum.store(sum.load() + 1);
  };
  return {add, add, add};
}

TEST(FiberScheduler, AScheduleReplaysTheRunThatItCameFrom) {
  FiberScheduler fibers;
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    int sums[2];
    Schedule schedules[2];
    const bool weak = seed % 2 == 0;
    {
      Atomic<int> sum{0};
      RandomWalk random(seed, 30, 8);
      schedules[0] = fibers.Run(LossyAdders(sum), random, {.weak_memory = weak}).schedule;
      sums[0] = sum.load();
    }
    {
      Atomic<int> sum{0};
      ReplayStrategy replay(schedules[0]);
      schedules[1] = fibers.Run(LossyAdders(sum), replay, {.weak_memory = weak}).schedule;
      sums[1] = sum.load();
    }
    EXPECT_EQ(sums[0], sums[1]);
    EXPECT_EQ(schedules[0], schedules[1]) << schedules[0].ToCpp() << schedules[1].ToCpp();
  }
}

// Three threads must act in this order, each between two steps of another: depth 3.
TEST(Pct, FindsABugOfThreeOrderedStepsAmongManySteps) {
  FiberScheduler fibers;
  StepCounts counts{};
  int found = 0;
  for (uint64_t seed = 1; seed <= 2000; ++seed) {
    Atomic<int> noise{0};
    Atomic<int> stage{0};
    bool bug = false;
    const auto make_noise = [&] {
      for (int i = 0; i < 50; ++i) noise.load();
    };
    const Threads threads = {[&] {
                               make_noise();
                               stage.store(1);
                               make_noise();
                               if (stage.load() == 2) bug = true;
                             },
                             [&] {
                               make_noise();
                               if (stage.load() == 1) stage.store(2);
                               make_noise();
                             }};
    Pct pct(seed, 2, counts, 2);
    counts = fibers.Run(threads, pct, {}).counts;
    found += bug ? 1 : 0;
  }
  EXPECT_GT(found, 20);
}

TEST(BoundedSearch, OnePreemptionFindsALostUpdateAndNoneDoesNot) {
  for (const int bound : {0, 1}) {
    FiberScheduler fibers;
    bool lost = false;
    std::unique_ptr<Two> two;
    BoundedSearch search(bound);
    uint64_t runs = 0;
    while (search.Next()) {
      two = std::make_unique<Two>();
      const auto add = [t = two.get()] { t->x.store(t->x.load() + 1); };
      search.Learn(fibers.Run({add, add}, search.strategy(), {.record_steps = true}));
      lost |= two->x.load() == 1;
      ++runs;
    }
    EXPECT_EQ(lost, bound == 1);
    EXPECT_LT(runs, 20u);
  }
}

}  // namespace
}  // namespace tdp::explore
