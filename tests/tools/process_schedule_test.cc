// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/process_schedule.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace tdp::tools {
namespace {

using Turn = ProcessSchedule::Turn;

// Returns all turns of one round with these accesses.
std::vector<Turn> Round(ProcessSchedule& schedule, const std::vector<uint64_t>& accesses) {
  schedule.BeginRound(accesses);
  std::vector<Turn> turns;
  while (const std::optional<Turn> turn = schedule.Next()) turns.push_back(*turn);
  return turns;
}

TEST(ProcessSchedule, EveryProcessMakesAllOfItsAccessesAndRunsOnOneCpuAtATime) {
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    const size_t cpus = 1 + seed % 4;
    const size_t processes = 1 + seed % 5;
    ProcessSchedule schedule({cpus, processes, 50, 7, seed});
    std::map<size_t, size_t> on_cpu;
    for (int round = 0; round < 3; ++round) {
      std::vector<uint64_t> left;
      for (size_t i = 0; i < processes; ++i) left.push_back((seed * 31 + i * 97) % 400);
      for (const Turn& turn : Round(schedule, left)) {
        ASSERT_LT(turn.cpu, cpus);
        ASSERT_GE(turn.accesses, 1u);
        ASSERT_LE(turn.accesses, left[turn.process]);
        left[turn.process] -= turn.accesses;
        const auto was = on_cpu.find(turn.cpu);
        EXPECT_EQ(turn.switched, was == on_cpu.end() || was->second != turn.process);
        on_cpu[turn.cpu] = turn.process;
        for (const auto& [cpu, process] : on_cpu) {
          EXPECT_TRUE(cpu == turn.cpu || process != turn.process) << "on two CPUs";
        }
      }
      EXPECT_EQ(std::count(left.begin(), left.end(), 0u), static_cast<ptrdiff_t>(processes));
    }
  }
}

TEST(ProcessSchedule, TheSameSeedMakesTheSameTurnsAndAnotherOneOthers) {
  const auto turns = [](uint64_t seed) {
    ProcessSchedule schedule({2, 3, 100, 10, seed});
    std::vector<std::pair<size_t, uint64_t>> all;
    for (const Turn& turn : Round(schedule, {1000, 1000, 1000})) {
      all.emplace_back(turn.cpu * 10 + turn.process, turn.accesses);
    }
    return all;
  };
  EXPECT_EQ(turns(5), turns(5));
  EXPECT_NE(turns(5), turns(6));
}

TEST(ProcessSchedule, ProcessesTakeTurnsOfATimeSlice) {
  ProcessSchedule schedule({1, 2, 100, 1, 1});
  const std::vector<Turn> turns = Round(schedule, {100'000, 100'000});
  EXPECT_NEAR(static_cast<double>(turns.size()), 2000, 200);
  for (size_t i = 0; i < turns.size(); ++i) EXPECT_LE(turns[i].accesses, 199u);
  for (size_t i = 1; i < 1000; ++i) EXPECT_NE(turns[i].process, turns[i - 1].process);
}

TEST(ProcessSchedule, AProcessThatIsAloneIsNotSwitched) {
  ProcessSchedule schedule({4, 1, 10, 10, 1});
  int switches = 0;
  for (const Turn& turn : Round(schedule, {10'000})) switches += turn.switched ? 1 : 0;
  EXPECT_EQ(switches, 1);
}

}  // namespace
}  // namespace tdp::tools
