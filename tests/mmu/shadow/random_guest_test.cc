// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/mmu/shadow/random_guest.h"

#include <array>
#include <cstdint>
#include <random>
#include <string>
#include <tuple>

#include "gtest/gtest.h"

namespace tdp::shadow_test {
namespace {

class RandomGuests : public testing::TestWithParam<std::tuple<PagingMode, int>> {};

// The test asks only that both CPUs agree, not whether the guest's tables make sense.
TEST_P(RandomGuests, SeeOnShadowTablesWhatTheySeeOnEpt) {
  const auto [mode, host_order] = GetParam();
  int compared = 0;
  int reached = 0;
  ShadowStats stats;
  for (uint64_t seed = 1; seed <= 30; ++seed) {
    std::mt19937_64 random(seed);
    RandomGuest guest({.mode = mode, .host_order = host_order},
                      [&random](uint64_t bound) { return random() % bound; });
    for (int step = 0; step < 600; ++step) {
      const absl::Status status = guest.Step();
      ASSERT_TRUE(status.ok()) << "seed " << seed << " step " << step << ": " << status;
      if (step % 20 != 0) continue;
      const absl::Status sound = guest.Check();
      ASSERT_TRUE(sound.ok()) << "seed " << seed << " step " << step << ": " << sound;
    }
    const ShadowStats now = guest.machine().vm().Stats().shadow;
    stats.mmu_pte_write += now.mmu_pte_write;
    stats.mmu_pde_zapped += now.mmu_pde_zapped;
    stats.mmu_flooded += now.mmu_flooded;
    stats.mmu_recycled += now.mmu_recycled;
    compared += guest.compared();
    reached += guest.reached();
  }
  EXPECT_GT(reached, compared / 20) << compared;
  if (mode == PagingMode::kNone) return;
  // All the ways of keeping tables true have been used.
  EXPECT_GT(stats.mmu_pte_write, 100u);
  EXPECT_GT(stats.mmu_pde_zapped, 50u);
  EXPECT_GT(stats.mmu_flooded, 10u);
  EXPECT_GT(stats.mmu_recycled, 10u);
}

// Fuzzers rely on this: a finding can be made again from its input alone.
TEST(RandomGuest, OnAMachineThatOthersHaveUsedRunsAsOnANewOne) {
  const auto run = [](SimMachine* machine, uint64_t seed) {
    std::mt19937_64 random(seed);
    RandomGuest guest({.mode = static_cast<PagingMode>(seed % 5),
                       .host_order = seed % 2 == 0 ? 0 : 9,
                       .machine = machine},
                      [&random](uint64_t bound) { return random() % bound; });
    for (int step = 0; step < 100; ++step) EXPECT_TRUE(guest.Step().ok());
    const VmStats stats = guest.machine().vm().Stats();
    return std::array<uint64_t, 8>{static_cast<uint64_t>(guest.compared()),
                                   static_cast<uint64_t>(guest.reached()),
                                   guest.machine().faults(),
                                   guest.machine().memory().free_frames().raw(),
                                   stats.tables_in_use,
                                   stats.flush_generation,
                                   stats.shadow.mmu_cache_miss,
                                   stats.shadow.mmu_shadow_zapped};
  };
  SimMachine used(RandomGuest::UsedAgain());
  for (uint64_t seed = 0; seed < 30; ++seed) {
    EXPECT_EQ(run(&used, seed % 10), run(nullptr, seed % 10)) << "seed " << seed % 10;
  }
}

std::string NameOf(const testing::TestParamInfo<std::tuple<PagingMode, int>>& test) {
  switch (std::get<0>(test.param)) {
    case PagingMode::kNone:
      return "None";
    case PagingMode::k32Bit:
      return "32Bit";
    case PagingMode::kPae:
      return "Pae";
    case PagingMode::k4Level:
      return "4Level";
    case PagingMode::k5Level:
      return "5Level";
  }
  return "Unknown";
}
const auto kModes = testing::Values(PagingMode::kNone, PagingMode::k32Bit, PagingMode::kPae,
                                    PagingMode::k4Level, PagingMode::k5Level);
INSTANTIATE_TEST_SUITE_P(OnSmallHostPages, RandomGuests,
                         testing::Combine(kModes, testing::Values(0)), NameOf);
INSTANTIATE_TEST_SUITE_P(OnLargeHostPages, RandomGuests,
                         testing::Combine(kModes, testing::Values(9)), NameOf);

}  // namespace
}  // namespace tdp::shadow_test
