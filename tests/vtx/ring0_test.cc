// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The loader owes this to the programs that it runs: hosted C++ in ring 0.

#include <pthread.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "gtest/gtest.h"
#include "tdp/base/absl_mutex.h"

namespace {

// Abseil's mutex asks for the policy where threads are in each other's way.
TEST(Ring0, AThreadHasTheDefaultSchedulingPolicyWithoutPriority) {
  int policy = -1;
  sched_param parameters = {.sched_priority = -1};
  EXPECT_EQ(pthread_getschedparam(pthread_self(), &policy, &parameters), 0);
  EXPECT_EQ(policy, SCHED_OTHER);
  EXPECT_EQ(parameters.sched_priority, 0);
}

TEST(Ring0, TheProgramRunsAtPrivilegeLevelZeroInLongMode) {
  uint16_t cs;
  uint64_t cr0;
  asm volatile("mov %%cs, %0" : "=r"(cs));
  asm volatile("mov %%cr0, %0" : "=r"(cr0));  // faults above ring 0
  EXPECT_EQ(cs & 3, 0);
  EXPECT_EQ(cr0 & 0x80000001, 0x80000001u);
}

TEST(Ring0, TheHeapHoldsWhatIsWrittenToIt) {
  absl::flat_hash_map<int, std::string> map;
  for (int i = 0; i < 2000; ++i) map[i] = absl::StrFormat("%d squared is %d", i, i * i);
  for (int i = 0; i < 2000; ++i) {
    ASSERT_EQ(map[i], absl::StrCat(i, " squared is ", i * i));
  }
}

TEST(Ring0, LargeBlocksComeZeroedAndCanBeReused) {
  for (int round = 0; round < 5; ++round) {
    constexpr size_t kBytes = 8 << 20;  // five of them are more than there is
    auto* block = static_cast<char*>(calloc(kBytes, 1));
    ASSERT_NE(block, nullptr) << round;
    ASSERT_EQ(block[kBytes / 2], 0) << round;
    memset(block, 0xff, kBytes);
    free(block);
  }
}

TEST(Ring0, FloatingPointWorks) {
  double sum = 0;
  for (int i = 1; i <= 1000; ++i) sum += 1.0 / i;
  EXPECT_NEAR(sum, 7.485470860550345, 1e-12);
}

TEST(Ring0, ThreadsRunOnProcessorsOfTheirOwnAtTheSameTime) {
  const unsigned others = std::thread::hardware_concurrency() - 1;
  ASSERT_EQ(others, 3u);
  std::atomic<unsigned> arrived = 0;
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < others; ++i) {
    threads.emplace_back([&] {
      ++arrived;
      while (arrived != others) {  // each waits for all
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arrived, others);
}

TEST(Ring0, AMutexExcludesAndAConditionVariableWakes) {
  absl::Mutex mutex;
  int count = 0;
  auto add = [&] {
    for (int i = 0; i < 2000; ++i) {
      tdp::AbslMutexLock lock(mutex);
      ++count;
    }
  };
  std::thread a(add);
  std::thread b(add);
  {
    auto done = [&count] { return count == 4000; };
    tdp::AbslMutexLock lock(mutex);
    mutex.Await(absl::Condition(&done));
  }
  a.join();
  b.join();
  EXPECT_EQ(count, 4000);
}

thread_local int of_this_thread = 1;

TEST(Ring0, ThreadLocalVariablesAreOfTheThread) {
  of_this_thread = 2;
  int seen = 0;
  std::thread([&] { seen = of_this_thread; }).join();
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(of_this_thread, 2);
}

TEST(Ring0, MoreThreadsThanProcessorsAreRefused) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      while (!stop) {
      }
    });
  EXPECT_THROW(std::thread([] {}), std::system_error);
  stop = true;
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
