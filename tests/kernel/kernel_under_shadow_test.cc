// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/ept_machine.h"
#include "tests/kernel/kernel_run.h"
#include "tests/kernel/shadow_machine.h"

namespace tdp::kernel {
namespace {

struct Setting {
  const char* name;
  sim::PagingMode mode;
  KernelFeatures features;
  HostOptions host;
};

constexpr size_t kOps = 600;

class KernelUnderShadow : public testing::TestWithParam<Setting> {
 protected:
  KernelRun Run(const std::vector<KernelOp>& ops) {
    ShadowMachine machine(GetParam().host);
    return RunKernel(machine, GetParam().mode, GetParam().features, ops);
  }
  KernelRun RunUnderEpt(const std::vector<KernelOp>& ops) {
    EptMachine machine(GetParam().host);
    return RunKernel(machine, GetParam().mode, GetParam().features, ops);
  }
};

TEST_P(KernelUnderShadow, ACarefulKernelSeesWhatItSeesUnderEpt) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const std::vector<KernelOp> ops = RandomKernelOps(seed, kOps, false);
    const KernelRun shadowed = Run(ops);
    ASSERT_TRUE(shadowed.status.ok()) << "seed " << seed << ": " << shadowed.status;
    EXPECT_EQ(shadowed.visible, RunUnderEpt(ops).visible) << "seed " << seed;
  }
}

TEST_P(KernelUnderShadow, ACarelessKernelSeesNothingThatIsNotLegal) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const KernelRun run = Run(RandomKernelOps(seed, kOps, true));
    ASSERT_TRUE(run.status.ok()) << "seed " << seed << ": " << run.status;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, KernelUnderShadow,
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
        Setting{"FourLevelsFewPages",
                sim::PagingMode::k4Level,
                {.large_direct_map = true},
                {.cpus = 1, .vm = {.shadow_page_quota = 64}}},
        Setting{"FiveLevels",
                sim::PagingMode::k5Level,
                {.global_pages = true, .pcids = true, .large_direct_map = true},
                {.cpus = 3}}),
    [](const auto& param) { return param.param.name; });

KernelRun RunCareless(uint64_t seed, sim::PagingMode mode, const KernelFeatures& features) {
  ShadowMachine machine({});
  return RunKernel(machine, mode, features, RandomKernelOps(seed, kOps, true));
}

// CR0.WP was written while a PDPTE in memory was another than the one that was loaded.
TEST(ShadowedKernel, PdptesStayAsTheyWereLoadedWhenOtherRegistersChange) {
  const KernelRun run = RunCareless(11, sim::PagingMode::kPae, {});
  EXPECT_TRUE(run.status.ok()) << run.status;
}

// The next access of another kind went through the leaf that had led to the fault.
TEST(ShadowedKernel, APageFaultDropsTheStaleLeafOfItsAddress) {
  const KernelRun run = RunCareless(14, sim::PagingMode::k4Level, {.global_pages = true});
  EXPECT_TRUE(run.status.ok()) << run.status;
}

// A machine that makes `mistake` is found out by some seed.
std::string FoundOut(Mistake mistake, sim::PagingMode mode, const KernelFeatures& features) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    ShadowMachine machine({.mistake = mistake});
    const KernelRun run = RunKernel(machine, mode, features, RandomKernelOps(seed, kOps, false));
    if (!run.status.ok()) return std::string(run.status.message());
  }
  return "not found";
}

TEST(ShadowedKernel, AnEngineThatIsNotToldOfInvlpgIsFoundOut) {
  EXPECT_THAT(FoundOut(Mistake::kIgnoresInvlpg, sim::PagingMode::k32Bit, {}),
              testing::HasSubstr("after\n"));
}

TEST(ShadowedKernel, AnEngineWhoseFlushesGetLostIsFoundOut) {
  EXPECT_THAT(FoundOut(Mistake::kForgetsFlushes, sim::PagingMode::k4Level, {}),
              testing::HasSubstr("after\n"));
}

}  // namespace
}  // namespace tdp::kernel
