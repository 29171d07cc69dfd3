// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Small programs run on a `Vm` without a guest, under many schedules. They ask for promises between
// calls that the scenarios, where one thread at a time changes slots, do not ask for.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/explore/fiber_scheduler.h"
#include "tests/explore/strategy.h"
#include "tests/world/test_host.h"

namespace tdp::explore {
namespace {

using Threads = std::vector<std::function<void()>>;

// Runs the threads that `make` gives under `runs` schedules, and `judge` after each.
template <typename Make, typename Judge>
void ForEachSchedule(uint64_t runs, Make make, Judge judge) {
  FiberScheduler fibers;
  for (uint64_t seed = 0; seed < runs; ++seed) {
    const Threads threads = make();
    RandomWalk strategy(seed, 600, 4 + seed % 16);
    const RunResult result = fibers.Run(threads, strategy, {.weak_memory = seed % 2 != 0});
    ASSERT_EQ(result.finding, "") << "seed " << seed;
    judge(seed);
    if (testing::Test::HasFailure()) return;
  }
}

// The log that is switched off and on while a deletion waits for the slots is another one.
TEST(VmPrograms, ADeletionShowsTheLogOfTheSlotThatItDeletes) {
  constexpr MemoryRegion kLogging{.flags = kSlotLogDirtyPages, .size = MiB(2), .hva = Hva(TiB(1))};
  TestHost host;
  std::unique_ptr<Vm> vm;
  bool was_there = false;
  uint64_t shown = 0;
  int overlaps = 0;
  const auto make = [&]() -> Threads {
    vm = *Vm::Create(host);
    EXPECT_EQ(vm->SetMemoryRegion(kLogging), absl::OkStatus());
    was_there = false;
    shown = 0;
    return {[&] {
              const auto show = [&](uint64_t, uint64_t mask) { shown |= mask; };
              EXPECT_EQ(vm->DeleteSlot(0, show), absl::OkStatus());
            },
            [&] {
              MemoryRegion plain = kLogging;
              plain.flags = 0;
              was_there = vm->SetMemoryRegion(plain).ok() && vm->SetMemoryRegion(kLogging).ok() &&
                          vm->MarkDirty(Gpa(0x3000), 1).ok() && vm->SetMemoryRegion(kLogging).ok();
            }};
  };
  ForEachSchedule(2000, make, [&](uint64_t seed) {
    // Where the slot is gone nothing made it anew: it was there all the time, until it was deleted.
    if (!was_there || !absl::IsInvalidArgument(vm->SetMemoryRegion({.slot = 0}))) return;
    ++overlaps;
    EXPECT_EQ(shown, 8u) << "seed " << seed;
  });
  EXPECT_GT(overlaps, 0);
}

}  // namespace
}  // namespace tdp::explore
