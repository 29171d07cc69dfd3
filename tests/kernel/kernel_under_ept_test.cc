// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/ept_machine.h"
#include "tests/kernel/kernel_run.h"

namespace tdp::kernel {
namespace {

struct Setting {
  const char* name;
  sim::PagingMode mode;
  KernelFeatures features;
  HostOptions host;
};

constexpr size_t kOps = 600;

class KernelUnderEpt : public testing::TestWithParam<Setting> {
 protected:
  KernelRun Run(uint64_t seed, bool careless) {
    EptMachine machine(GetParam().host);
    return RunKernel(machine, GetParam().mode, GetParam().features,
                     RandomKernelOps(seed, kOps, careless));
  }
};

TEST_P(KernelUnderEpt, ACarefulKernelSeesWhatItsTablesSay) {
  KernelRun sum;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const KernelRun run = Run(seed, false);
    ASSERT_TRUE(run.status.ok()) << "seed " << seed << ": " << run.status;
    sum.copies += run.copies;
    sum.flips += run.flips;
    for (const Visible& visible : run.visible) sum.accesses += visible.killed ? 0 : 1;
  }
  EXPECT_GT(sum.accesses, 100u) << "the programs hardly ran";
  EXPECT_GT(sum.copies, 3u);
  EXPECT_GT(sum.flips, 3u);
}

TEST_P(KernelUnderEpt, ACarelessKernelSeesNothingThatIsNotLegal) {
  uint64_t ambiguous = 0;
  uint64_t stale = 0;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const KernelRun run = Run(seed, true);
    ASSERT_TRUE(run.status.ok()) << "seed " << seed << ": " << run.status;
    ambiguous += run.ambiguous;
    stale += run.stale;
  }
  EXPECT_GT(ambiguous, 30u) << "the forgotten invalidations did not matter";
  EXPECT_GT(stale, 1u);
}

INSTANTIATE_TEST_SUITE_P(
    Settings, KernelUnderEpt,
    testing::Values(
        Setting{"Narrow", sim::PagingMode::k32Bit, {}, {}},
        Setting{"NarrowGlobal", sim::PagingMode::k32Bit, {.global_pages = true}, {.host_order = 0}},
        Setting{"Pae", sim::PagingMode::kPae, {}, {}},
        Setting{"PaeLargeMap",
                sim::PagingMode::kPae,
                {.global_pages = true, .large_direct_map = true},
                {}},
        Setting{"FourLevels", sim::PagingMode::k4Level, {.global_pages = true}, {}},
        Setting{"FourLevelsPcid",
                sim::PagingMode::k4Level,
                {.global_pages = true, .pcids = true},
                {.host_order = 0}},
        Setting{"FourLevelsPcidNoGlobal",
                sim::PagingMode::k4Level,
                {.pcids = true, .large_direct_map = true},
                {.cpus = 1}},
        Setting{"FiveLevels",
                sim::PagingMode::k5Level,
                {.global_pages = true, .pcids = true, .large_direct_map = true},
                {.cpus = 3}}),
    [](const auto& param) { return param.param.name; });

// A machine that makes `mistake` is found out by some seed.
std::string FoundOut(Mistake mistake, sim::PagingMode mode, const KernelFeatures& features) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    EptMachine machine({.mistake = mistake});
    const KernelRun run = RunKernel(machine, mode, features, RandomKernelOps(seed, kOps, false));
    if (!run.status.ok()) return std::string(run.status.message());
  }
  return "not found";
}

TEST(KernelModel, AMachineThatIgnoresInvlpgIsFoundOut) {
  for (const sim::PagingMode mode : {sim::PagingMode::k32Bit, sim::PagingMode::kPae,
                                     sim::PagingMode::k4Level, sim::PagingMode::k5Level}) {
    EXPECT_THAT(FoundOut(Mistake::kIgnoresInvlpg, mode, {}), testing::HasSubstr("legal:"));
  }
}

TEST(KernelModel, AMachineThatIgnoresInvpcidIsFoundOut) {
  EXPECT_THAT(FoundOut(Mistake::kIgnoresInvpcid, sim::PagingMode::k4Level, {.pcids = true}),
              testing::HasSubstr("after\n"));
}

TEST(KernelModel, AMachineWhoseCr3WritesKeepTranslationsIsFoundOut) {
  EXPECT_THAT(FoundOut(Mistake::kKeepsOnCr3, sim::PagingMode::k4Level, {.pcids = true}),
              testing::HasSubstr("after\n"));
}

TEST(KernelModel, AnEngineWhoseFlushesGetLostIsFoundOut) {
  EXPECT_THAT(FoundOut(Mistake::kForgetsFlushes, sim::PagingMode::k4Level, {}),
              testing::HasSubstr("after\n"));
}

}  // namespace
}  // namespace tdp::kernel
