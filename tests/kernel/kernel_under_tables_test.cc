// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest's kernel runs on the engine's tables, whichever kind they are: under EPT, and where its
// own tables are shadowed.

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/kernel/guest_machine.h"
#include "tests/kernel/kernel_run.h"

namespace tdp::kernel {
namespace {

enum class Kind { kEpt, kShadow };

struct Setting {
  const char* name;
  sim::PagingMode mode;
  KernelFeatures features;
  MachineOptions host;
};

constexpr size_t kOps = 600;

KernelRun RunUnder(Kind kind, const Setting& setting, const std::vector<KernelOp>& ops) {
  const auto machine =
      kind == Kind::kEpt ? MakeEptMachine(setting.host) : MakeShadowMachine(setting.host);
  return RunKernel(*machine, setting.mode, setting.features, ops);
}

class KernelUnderTables : public testing::TestWithParam<Setting> {};

TEST_P(KernelUnderTables, ACarefulKernelSeesWhatItsTablesSay) {
  KernelRun sum;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const KernelRun run = RunUnder(Kind::kEpt, GetParam(), RandomKernelOps(seed, kOps, false));
    ASSERT_TRUE(run.status.ok()) << "seed " << seed << ": " << run.status;
    sum.copies += run.copies;
    sum.flips += run.flips;
    for (const Visible& visible : run.visible) sum.accesses += visible.killed ? 0 : 1;
  }
  EXPECT_GT(sum.accesses, 100u) << "the programs hardly ran";
  EXPECT_GT(sum.copies, 3u);
  EXPECT_GT(sum.flips, 3u);
}

TEST_P(KernelUnderTables, ACarefulKernelSeesTheSameWhereItsTablesAreShadowed) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const std::vector<KernelOp> ops = RandomKernelOps(seed, kOps, false);
    const KernelRun shadowed = RunUnder(Kind::kShadow, GetParam(), ops);
    ASSERT_TRUE(shadowed.status.ok()) << "seed " << seed << ": " << shadowed.status;
    EXPECT_EQ(shadowed.visible, RunUnder(Kind::kEpt, GetParam(), ops).visible) << "seed " << seed;
  }
}

TEST_P(KernelUnderTables, ACarelessKernelSeesNothingThatIsNotLegal) {
  uint64_t ambiguous = 0;
  uint64_t stale = 0;
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const KernelRun run = RunUnder(Kind::kEpt, GetParam(), RandomKernelOps(seed, kOps, true));
    ASSERT_TRUE(run.status.ok()) << "seed " << seed << ": " << run.status;
    ambiguous += run.ambiguous;
    stale += run.stale;
  }
  EXPECT_GT(ambiguous, 30u) << "the forgotten invalidations did not matter";
  EXPECT_GT(stale, 1u);
}

TEST_P(KernelUnderTables, ACarelessKernelSeesNothingIllegalWhereItsTablesAreShadowed) {
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    const KernelRun run = RunUnder(Kind::kShadow, GetParam(), RandomKernelOps(seed, kOps, true));
    ASSERT_TRUE(run.status.ok()) << "seed " << seed << ": " << run.status;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, KernelUnderTables,
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
        Setting{"FourLevelsFewPages",
                sim::PagingMode::k4Level,
                {.large_direct_map = true},
                {.cpus = 1, .vm = {.shadow_page_quota = 64}}},
        Setting{"FiveLevels",
                sim::PagingMode::k5Level,
                {.global_pages = true, .pcids = true, .large_direct_map = true},
                {.cpus = 3}}),
    [](const auto& param) { return param.param.name; });

// --- Mistakes that were made ---

KernelRun RunCareless(uint64_t seed, sim::PagingMode mode, const KernelFeatures& features) {
  return RunUnder(Kind::kShadow, {"", mode, features, {}}, RandomKernelOps(seed, kOps, true));
}

// Regression: CR0.WP was written while a PDPTE in memory was another than the one that was loaded.
TEST(ShadowedKernel, PdptesStayAsTheyWereLoadedWhenOtherRegistersChange) {
  const KernelRun run = RunCareless(11, sim::PagingMode::kPae, {});
  EXPECT_TRUE(run.status.ok()) << run.status;
}

// Regression: the next access of another kind went through the leaf that had led to the fault.
TEST(ShadowedKernel, APageFaultDropsTheStaleLeafOfItsAddress) {
  const KernelRun run = RunCareless(14, sim::PagingMode::k4Level, {.global_pages = true});
  EXPECT_TRUE(run.status.ok()) << run.status;
}

// --- Mistakes that are planted ---

// Returns what the referee says of a machine of `kind` that makes `mistake`: some seed finds it
// out.
std::string FoundOut(Kind kind, Mistake mistake, sim::PagingMode mode,
                     const KernelFeatures& features) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    const KernelRun run = RunUnder(kind, {"", mode, features, {.mistake = mistake}},
                                   RandomKernelOps(seed, kOps, false));
    if (!run.status.ok()) return std::string(run.status.message());
  }
  return "not found";
}

TEST(KernelModel, AMachineThatIgnoresInvlpgIsFoundOut) {
  for (const sim::PagingMode mode : {sim::PagingMode::k32Bit, sim::PagingMode::kPae,
                                     sim::PagingMode::k4Level, sim::PagingMode::k5Level}) {
    EXPECT_THAT(FoundOut(Kind::kEpt, Mistake::kIgnoresInvlpg, mode, {}),
                testing::HasSubstr("legal:"));
  }
}

TEST(KernelModel, AMachineThatIgnoresInvpcidIsFoundOut) {
  EXPECT_THAT(
      FoundOut(Kind::kEpt, Mistake::kIgnoresInvpcid, sim::PagingMode::k4Level, {.pcids = true}),
      testing::HasSubstr("after\n"));
}

TEST(KernelModel, AMachineWhoseCr3WritesKeepTranslationsIsFoundOut) {
  EXPECT_THAT(FoundOut(Kind::kEpt, Mistake::kKeepsOnCr3, sim::PagingMode::k4Level, {.pcids = true}),
              testing::HasSubstr("after\n"));
}

TEST(ShadowedKernel, AnEngineThatIsNotToldOfInvlpgIsFoundOut) {
  EXPECT_THAT(FoundOut(Kind::kShadow, Mistake::kIgnoresInvlpg, sim::PagingMode::k32Bit, {}),
              testing::HasSubstr("after\n"));
}

TEST(KernelModel, AnEngineWhoseFlushesGetLostIsFoundOut) {
  for (const Kind kind : {Kind::kEpt, Kind::kShadow}) {
    EXPECT_THAT(FoundOut(kind, Mistake::kForgetsFlushes, sim::PagingMode::k4Level, {}),
                testing::HasSubstr("after\n"));
  }
}

}  // namespace
}  // namespace tdp::kernel
