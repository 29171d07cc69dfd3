// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Working sets, overcommitted guests and policies of large pages are tried here on small guests
// whose answers are known.

#include <cstdint>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tools/experiments/balloon.h"
#include "tdp/tools/experiments/exit_cost.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/experiments/overcommit.h"
#include "tdp/tools/experiments/page_policy.h"
#include "tdp/tools/experiments/working_set.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

ReplayOptions SmallMachine(Level ept_page) {
  ReplayOptions machine;
  machine.ram = MiB(64);
  machine.ept_page = ept_page;
  return machine;
}

std::vector<WorkingSetSample> Scan(const std::string& trace, const WorkingSetOptions& options,
                                   const ReplayOptions& machine) {
  LoopingTrace looping(trace, {});
  auto samples = MeasureWorkingSet(looping, machine, options);
  EXPECT_TRUE(samples.ok()) << samples.status();
  return samples.ok() ? *samples : std::vector<WorkingSetSample>();
}

// This trace touches all of 2 MiB in each interval, page after page, with one page of code.
constexpr char kSweep[] = "generate:stride,stride=64,footprint=2m,accesses=1m";

TEST(WorkingSet, SmallLeavesThatAreFlushedShowItExactly) {
  const WorkingSetOptions options = {.every = 100'000, .samples = 5, .flush = true};
  for (const WorkingSetSample& sample : Scan(kSweep, options, SmallMachine(kLevel4K))) {
    EXPECT_EQ(sample.true_pages, 513u);
    EXPECT_EQ(sample.young_pages, 513u);
    EXPECT_EQ(sample.missed_pages, 0u);
    EXPECT_EQ(sample.idle_pages, 0u);
    EXPECT_GE(sample.young_tables, 4u);
    EXPECT_LE(sample.young_tables, 10u);
  }
}

TEST(WorkingSet, WithoutAFlushWhatTheCpuHasCachedLooksIdle) {
  // This trace touches sixteen pages, all of which the TLB holds.
  const std::string trace = "generate:stride,stride=4k,footprint=64k,accesses=1m";
  const WorkingSetOptions options = {.every = 10'000, .samples = 5, .flush = false};
  const auto samples = Scan(trace, options, SmallMachine(kLevel4K));
  ASSERT_EQ(samples.size(), 5u);
  EXPECT_EQ(samples[0].young_pages, 17u);
  for (size_t i = 1; i < samples.size(); ++i) {
    EXPECT_EQ(samples[i].true_pages, 17u);
    EXPECT_EQ(samples[i].young_pages, 0u);
    EXPECT_EQ(samples[i].missed_pages, 17u);
  }
}

TEST(WorkingSet, LargeLeavesShowPagesThatNobodyTouched) {
  // This trace touches all pages of 2 MiB once, and then one in each 64 KiB.
  const std::string trace = "generate:stride,stride=64k,footprint=2m,accesses=1m";
  ReplayOptions machine = SmallMachine(kLevel2M);
  machine.guest_page = kLevel2M;
  const WorkingSetOptions options = {.every = 10'000, .samples = 3, .flush = true};
  const auto samples = Scan(trace, options, machine);
  ASSERT_EQ(samples.size(), 3u);
  for (const WorkingSetSample& sample : samples) {
    EXPECT_EQ(sample.true_pages, 33u);
    EXPECT_EQ(sample.young_pages, 1024u) << "two whole pages of 2 MiB";
    EXPECT_EQ(sample.idle_pages, 1024u - 33u);
    EXPECT_EQ(sample.missed_pages, 0u);
  }
}

TEST(Overcommit, NoPageIsLostWhateverGoes) {
  for (const char* trace :
       {"generate:gups,footprint=4m,accesses=100k", "generate:bfs,footprint=4m,accesses=100k",
        "generate:stride,footprint=4m,accesses=100k"}) {
    for (const Reclaim reclaim : {Reclaim::kFifo, Reclaim::kClock, Reclaim::kRandom}) {
      for (const uint64_t churn : {0, 77}) {
        ReplayOptions machine = SmallMachine(kLevel4K);
        machine.table_churn = churn;
        OvercommitOptions options;
        options.resident = MiB(1);
        options.reclaim = reclaim;
        options.accesses = 100'000;
        const auto run = RunOvercommitted(trace, {}, machine, options, ColdCheckMode::kAll);
        ASSERT_TRUE(run.ok()) << run.status();
        EXPECT_EQ(run->differing_pages, 0u) << trace << ReclaimName(reclaim) << churn;
        EXPECT_EQ(run->swap_outs - run->swap_ins, run->guest_pages - 256)
            << "what is not in memory is in the swap area";
        EXPECT_GT(run->swap_ins, 0u);
        EXPECT_GE(run->exits, run->swap_ins / 2);
      }
    }
  }
}

TEST(ExitCost, EveryExitThatIsCountedHasOneCauseAndEachCauseAPriceWithItsSource) {
  // Each count is another power of two, so that none can be forgotten or counted twice.
  ViolationCounts violations;
  uint64_t next = 1;
  const auto take = [&next] { return std::exchange(next, 2 * next); };
  for (auto& levels : violations.fixed) {
    for (uint64_t& count : levels) count = take();
  }
  violations.spurious = take();
  violations.retry = take();
  const ShadowCounts shadow = {take(), take(), take(), take(), take(), take()};
  const NestedCounts nested = {take(), take(), take()};
  const ExitCounts counts = CountByCause(violations, shadow, nested);
  EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), uint64_t{0}),
            violations.total() + shadow.total() + nested.total());
  EXPECT_EQ(violations.total() + shadow.total() + nested.total(), next - 1);
  for (const bool by_cause : {false, true}) {
    const auto prices = PricesOf({.by_cause = by_cause}, ReplayOptions());
    ASSERT_TRUE(prices.ok()) << prices.status();
    for (size_t cause = 0; cause < kExitCauses; ++cause) {
      EXPECT_GT((*prices)[cause].cycles, 0u) << ExitCauseName(ExitCause(cause));
      EXPECT_NE((*prices)[cause].source, "") << ExitCauseName(ExitCause(cause));
    }
  }
  // A price that is assumed must say so.
  const ExitPrices by_cause = *PricesOf({.by_cause = true}, ReplayOptions());
  EXPECT_THAT(by_cause[static_cast<size_t>(ExitCause::kNestedViolation)].source,
              HasSubstr("assumed"));
  EXPECT_THAT(by_cause[0].source, Not(HasSubstr("assumed")));
  EXPECT_EQ(*ExitCycles({.by_cause = true}, ReplayOptions()), 2995u);
  EXPECT_EQ(*ExitCycles({.cycles = 7, .by_cause = true}, ReplayOptions()), 7u);
}

TEST(Balloon, NoPageIsLostAndTheEptStaysAsItIs) {
  for (const char* trace :
       {"generate:gups,footprint=4m,accesses=100k", "generate:bfs,footprint=4m,accesses=100k",
        "generate:stride,footprint=4m,accesses=100k"}) {
    for (const uint64_t churn : {0, 77}) {
      ReplayOptions machine = SmallMachine(kLevel4K);
      machine.table_churn = churn;
      OvercommitOptions options;
      options.resident = MiB(1);
      options.accesses = 100'000;
      const auto run = RunBallooned(trace, {}, machine, options, ColdCheckMode::kAll);
      ASSERT_TRUE(run.ok()) << run.status();
      EXPECT_EQ(run->differing_pages, 0u) << trace << churn;
      EXPECT_GT(run->guest_pages, 512u);
      EXPECT_GT(run->swap_ins, 0u);
      EXPECT_GE(run->swap_outs, run->swap_ins);
      const uint64_t balloon = (machine.ram - options.resident) / kPageSize / kBalloonPagesAnExit;
      EXPECT_LE(run->exits - run->swap_ins - run->swap_outs - balloon, 256u)
          << "each frame that the guest keeps is a violation once";
    }
  }
}

TEST(Balloon, AGuestThatHasRoomSwapsNothing) {
  OvercommitOptions options;
  options.resident = MiB(32);
  options.accesses = 200'000;
  const auto run = RunBallooned("generate:gups,footprint=4m,accesses=100k", {},
                                SmallMachine(kLevel4K), options, ColdCheckMode::kAll);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->swap_outs, 0u);
  EXPECT_EQ(run->differing_pages, 0u);
}

TEST(Overcommit, AGuestThatHasRoomSwapsNothing) {
  OvercommitOptions options;
  options.resident = MiB(32);
  options.accesses = 200'000;
  const auto run = RunOvercommitted("generate:gups,footprint=4m,accesses=100k", {},
                                    SmallMachine(kLevel4K), options, ColdCheckMode::kAll);
  ASSERT_TRUE(run.ok()) << run.status();
  EXPECT_EQ(run->swap_outs, 0u);
  EXPECT_EQ(run->swap_ins, 0u);
  EXPECT_EQ(run->differing_pages, 0u);
}

TEST(Overcommit, ABitsSparePagesThatAreUsedAllTheTime) {
  // Code and tables are used with each access; FIFO takes them as well.
  const auto swap_ins = [](Reclaim reclaim) {
    OvercommitOptions options;
    options.resident = MiB(1);
    options.reclaim = reclaim;
    options.accesses = 200'000;
    return RunOvercommitted("generate:bfs,footprint=3m,accesses=200k", {}, SmallMachine(kLevel4K),
                            options, ColdCheckMode::kOff)
        ->swap_ins;
  };
  EXPECT_LT(swap_ins(Reclaim::kClock), swap_ins(Reclaim::kFifo));
}

TEST(Overcommit, WhatDoesNotGoTogetherIsRefused) {
  const auto error = [](Level page, ByteCount resident) {
    OvercommitOptions options;
    options.resident = resident;
    return std::string(
        RunOvercommitted("generate:gups", {}, SmallMachine(page), options, ColdCheckMode::kOff)
            .status()
            .message());
  };
  EXPECT_THAT(error(kLevel2M, MiB(1)), HasSubstr("--ept-page must be 4k"));
  EXPECT_THAT(error(kLevel4K, KiB(4)), HasSubstr("--resident must be"));
}

TEST(PagePolicy, SplitsAndCollapsesAreWhatTheEptShows) {
  const PagePolicyOptions options = {
      .every = 20'000, .intervals = 8, .split_after = 2, .collapse_after = 3};
  const auto run = [&options](PagePolicy policy) {
    LoopingTrace trace("generate:gups,footprint=8m,accesses=200k", {});
    auto samples = RunPagePolicy(trace, SmallMachine(kLevel2M), options, policy);
    EXPECT_TRUE(samples.ok()) << samples.status();
    return *samples;
  };
  const auto small = run(PagePolicy::kSmall);
  const auto large = run(PagePolicy::kLarge);
  const auto split = run(PagePolicy::kSplit);
  const auto zap = run(PagePolicy::kZap);
  const auto collapse = run(PagePolicy::kCollapse);
  for (const PagePolicySample& sample : small) EXPECT_EQ(sample.large_leaves, 0u);
  for (const PagePolicySample& sample : large) {
    EXPECT_GE(sample.large_leaves, 4u);
    EXPECT_EQ(sample.collapsed, 0u);
  }
  EXPECT_GT(small[0].exits, 20 * large[0].exits);
  EXPECT_EQ(split[1].large_leaves, 0u);
  EXPECT_GE(split[1].small_leaves, 4u * 512u);
  EXPECT_EQ(split[2].exits, 0u) << "a split page is mapped all the same";
  EXPECT_GT(split[3].ept_references, large[3].ept_references);
  EXPECT_EQ(zap[1].large_leaves + zap[1].small_leaves, 0u);
  EXPECT_GT(zap[2].exits, 0u);
  EXPECT_EQ(collapse[4].large_leaves, large[4].large_leaves);
  EXPECT_GT(collapse[4].collapsed, 0u);
  EXPECT_EQ(collapse[7].exits, 0u);
  EXPECT_EQ(collapse[7].ept_references, large[7].ept_references);
}

}  // namespace
}  // namespace tdp::tools
