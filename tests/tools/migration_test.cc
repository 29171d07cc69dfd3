// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Small guests migrate here: the copy must be the guest, and the rounds what they have to be.

#include "tdp/tools/experiments/migration.h"

#include <string>

#include "gtest/gtest.h"
#include "tdp/tools/experiments/looping_trace.h"

namespace tdp::tools {
namespace {

constexpr Logging kAll[] = {Logging::kWriteProtection, Logging::kDirtyBits, Logging::kPml,
                            Logging::kRing};

absl::StatusOr<Migration> RunMigration(const std::string& trace, Logging logging,
                                       const MigrationOptions& options, Level ept_page = kLevel4K,
                                       uint64_t churn = 0) {
  LoopingTrace looping(trace, {});
  ReplayOptions machine;
  machine.ram = MiB(64);
  machine.ept_page = ept_page;
  machine.table_churn = churn;
  return Migrate(looping, machine, options, logging);
}

TEST(Migration, TheCopyIsTheGuestWhateverFindsTheWrites) {
  for (const Logging logging : kAll) {
    for (const Level page : {kLevel4K, kLevel2M}) {
      for (const char* trace :
           {"generate:gups,footprint=1m,accesses=100k", "generate:bfs,footprint=2m,accesses=100k",
            "generate:stride,footprint=1m,accesses=10k"}) {
        MigrationOptions options;
        options.bytes_per_second = 1e10;
        options.downtime_seconds = 0;
        options.max_rounds = 6;
        options.warmup = 20'000;
        const auto done = RunMigration(trace, logging, options, page, page == kLevel4K ? 501 : 0);
        ASSERT_TRUE(done.ok()) << done.status();
        EXPECT_EQ(done->differing_pages, 0u) << LoggingName(logging) << ", " << trace;
        EXPECT_EQ(done->logging, logging);
        EXPECT_GT(done->guest_pages, 80u);
        EXPECT_GE(done->pages(), done->rounds.front().pages);
        EXPECT_EQ(done->rounds.back().accesses, 0u) << "the guest has stopped";
        for (size_t i = 0; i + 1 < done->rounds.size(); ++i) {
          EXPECT_EQ(done->rounds[i].dirty, done->rounds[i + 1].pages);
        }
      }
    }
  }
}

TEST(Migration, AGuestThatWritesLessThanTheLinkTakesConverges) {
  MigrationOptions options;
  options.accesses_per_second = 1e5;
  options.bytes_per_second = 1e9;
  options.downtime_seconds = 40e-6;  // nine pages
  options.warmup = 40'000;
  const auto slow =
      RunMigration("generate:gups,footprint=1m,accesses=100k", Logging::kDirtyBits, options);
  ASSERT_TRUE(slow.ok()) << slow.status();
  EXPECT_TRUE(slow->converged);
  EXPECT_LE(slow->downtime_seconds, 45e-6);
  options.accesses_per_second = 1e9;
  options.max_rounds = 5;
  const auto fast =
      RunMigration("generate:gups,footprint=1m,accesses=100k", Logging::kDirtyBits, options);
  ASSERT_TRUE(fast.ok()) << fast.status();
  EXPECT_FALSE(fast->converged);
  EXPECT_EQ(fast->rounds.size(), 6u);
  EXPECT_EQ(fast->differing_pages, 0u);
  EXPECT_GT(fast->downtime_seconds, slow->downtime_seconds);
}

TEST(Migration, WriteProtectionCostsAnExitAPageAndDirtyBitsAlmostNone) {
  MigrationOptions options;
  options.downtime_seconds = 0;
  options.max_rounds = 4;
  options.warmup = 40'000;
  const std::string trace = "generate:gups,footprint=1m,accesses=100k";
  const auto faults = RunMigration(trace, Logging::kWriteProtection, options);
  const auto bits = RunMigration(trace, Logging::kDirtyBits, options);
  const auto ring = RunMigration(trace, Logging::kRing, options);
  ASSERT_TRUE(faults.ok() && bits.ok() && ring.ok());
  EXPECT_GE(faults->exits(), faults->pages() - faults->rounds.front().pages);
  EXPECT_LT(bits->exits() * 10, faults->exits());
  EXPECT_GE(ring->exits(), faults->exits() / 2);
}

TEST(Migration, WhatItCannotDoIsRefused) {
  LoopingTrace trace("generate:gups,footprint=1m", {});
  ReplayOptions machine;
  machine.paging = Paging::kShadow;
  EXPECT_FALSE(Migrate(trace, machine, {}, Logging::kPml).ok());
  machine = ReplayOptions();
  machine.cpus = 2;
  EXPECT_FALSE(Migrate(trace, machine, {}, Logging::kPml).ok());
  LoopingTrace none("/no/such/trace", {});
  EXPECT_FALSE(Migrate(none, ReplayOptions(), {.warmup = 1}, Logging::kRing).ok());
}

}  // namespace
}  // namespace tdp::tools
