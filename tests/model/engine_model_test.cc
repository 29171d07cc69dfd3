// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tests/model/engine_model.h"

#include <cstdint>
#include <iterator>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp::model {
namespace {

std::vector<Op> RandomOps(uint64_t seed, size_t count) {
  std::mt19937_64 random(seed);
  std::vector<uint8_t> bytes(count * 11);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return OpsFromBytes(bytes.data(), bytes.size());
}

// Where the model and the engine part, the operations up to there are printed as C++.
testing::AssertionResult Agrees(EngineModel& model, const std::vector<Op>& ops) {
  for (size_t i = 0; i < ops.size(); ++i) {
    absl::Status status = model.Apply(ops[i]);
    if (status.ok() && i % 16 == 0) status = model.Check();
    if (!status.ok()) {
      return testing::AssertionFailure()
             << status << "\nafter\n"
             << ToCpp(std::vector<Op>(ops.begin(), ops.begin() + static_cast<ptrdiff_t>(i) + 1));
    }
  }
  const absl::Status status = model.Check();
  if (!status.ok()) return testing::AssertionFailure() << status;
  return testing::AssertionSuccess();
}

struct Setting {
  const char* name;
  VmOptions options;
  int host_order;
};

class EngineModelTest : public testing::TestWithParam<Setting> {};

TEST_P(EngineModelTest, RandomOperationsReachTheFrameThatTheSlotsAndTheHostSay) {
  uint64_t mapped = 0;
  uint64_t mmio = 0;
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    EngineModel model(GetParam().options, GetParam().host_order);
    ASSERT_TRUE(Agrees(model, RandomOps(seed, 500))) << "seed " << seed;
    mapped += model.accesses_mapped();
    mmio += model.accesses_mmio();
  }
  EXPECT_GT(mapped, 500u) << "the operations hardly touched memory";
  EXPECT_GT(mmio, 500u);
}

// Makes operations within one large slot, most of which change the size of leaves.
std::vector<Op> OpsOnLargePages(uint64_t seed, size_t count) {
  constexpr OpKind kKinds[] = {OpKind::kAccess, OpKind::kAccess,   OpKind::kAccess,
                               OpKind::kAge,    OpKind::kPrefault, OpKind::kCollapse,
                               OpKind::kSplit,  OpKind::kCollapse, OpKind::kZap};
  std::mt19937_64 random(seed);
  std::vector<Op> ops = RandomOps(seed, count);
  for (Op& op : ops) {
    op.kind = kKinds[random() % std::size(kKinds)];
    op.page %= 3584;
    if (op.kind == OpKind::kZap) op.count %= 64;
  }
  ops.insert(ops.begin(), Op{OpKind::kSetSlot, 0, 4, 0, 0, 3584, 0});
  return ops;
}

TEST_P(EngineModelTest, LeavesThatAreSplitAndCollapsedKeepFramesRightsAndUse) {
  uint64_t collapsed = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    EngineModel model(GetParam().options, GetParam().host_order);
    ASSERT_TRUE(Agrees(model, OpsOnLargePages(seed, 400))) << "seed " << seed;
    collapsed += model.collapsed();
  }
  const bool possible = GetParam().host_order > 0 && !GetParam().options.reverse_map;
  EXPECT_EQ(collapsed > 100, possible) << collapsed;
}

// Makes operations within two slots, in most of which views and attributes have a say.
std::vector<Op> OpsInViews(uint64_t seed, size_t count) {
  constexpr OpKind kKinds[] = {
      OpKind::kAccess,  OpKind::kAccess,   OpKind::kAccess, OpKind::kRights,  OpKind::kAttributes,
      OpKind::kFrames,  OpKind::kPopulate, OpKind::kAccess, OpKind::kSetView, OpKind::kPrefault,
      OpKind::kAge,     OpKind::kDiscard,  OpKind::kZap,    OpKind::kSplit,   OpKind::kCollapse,
      OpKind::kSetView, OpKind::kQuota};
  std::mt19937_64 random(seed);
  std::vector<Op> ops = RandomOps(seed, count);
  for (Op& op : ops) {
    op.kind = kKinds[random() % std::size(kKinds)];
    op.page %= 7168;
    op.host %= 7168;
  }
  ops.insert(ops.begin(), {Op{OpKind::kSetSlot, 0, 4, 0, 0, 3584, 0},
                           Op{OpKind::kSetSlot, 0, 12, 1, 3584, 3584, 3584}});
  return ops;
}

TEST_P(EngineModelTest, ViewsAndAttributesDenyWhatTheySayAndNothingElse) {
  uint64_t mapped = 0;
  uint64_t denied = 0;
  uint64_t of_private = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    EngineModel model(GetParam().options, GetParam().host_order);
    ASSERT_TRUE(Agrees(model, OpsInViews(seed, 400))) << "seed " << seed;
    mapped += model.accesses_mapped();
    denied += model.accesses_denied();
    of_private += model.accesses_private();
  }
  EXPECT_GT(mapped, 300u);
  EXPECT_EQ(denied > 50, !GetParam().options.reverse_map) << denied;
  EXPECT_EQ(of_private > 50, GetParam().options.private_memory) << of_private;
}

// Makes operations in slots half of which log: mostly accesses, and some that show or move a log.
std::vector<Op> OpsOnLogs(uint64_t seed, size_t count) {
  constexpr OpKind kKinds[] = {OpKind::kAccess,  OpKind::kAccess,     OpKind::kAccess,
                               OpKind::kAccess,  OpKind::kTakeLog,    OpKind::kTakeLog,
                               OpKind::kSetSlot, OpKind::kDeleteSlot, OpKind::kMarkDirty,
                               OpKind::kSplit,   OpKind::kCollapse,   OpKind::kPushDownLog,
                               OpKind::kAge,     OpKind::kZap,        OpKind::kMigrate};
  std::mt19937_64 random(seed);
  std::vector<Op> ops = RandomOps(seed, count);
  for (Op& op : ops) {
    op.kind = kKinds[random() % std::size(kKinds)];
    op.page %= 4096;
  }
  return ops;
}

class LoggingModelTest : public testing::TestWithParam<Setting> {};

TEST_P(LoggingModelTest, EachWriteToAPageThatLogsIsShownByTheNextTake) {
  uint64_t shown = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const uint64_t rings =
        GetParam().options.dirty_tracking == DirtyTracking::kWriteProtection && seed % 2 == 0 ? 1024
                                                                                              : 0;
    EngineModel model(GetParam().options, GetParam().host_order, EngineModel::Mistake::kNone,
                      rings);
    ASSERT_TRUE(Agrees(model, OpsOnLogs(seed, 500))) << "seed " << seed;
    shown += model.writes_shown();
  }
  EXPECT_GT(shown, 500u) << "the logs had hardly anything to show";
}

INSTANTIATE_TEST_SUITE_P(
    Settings, LoggingModelTest,
    testing::Values(
        Setting{"WriteProtection", {.dirty_tracking = DirtyTracking::kWriteProtection}, 9},
        Setting{"DirtyBits", {.dirty_tracking = DirtyTracking::kDirtyBits}, 9},
        Setting{"DirtyBitsOfSmallHostPages", {.dirty_tracking = DirtyTracking::kDirtyBits}, 0},
        Setting{"Pml", {.dirty_tracking = DirtyTracking::kPml}, 9},
        Setting{"ReverseMap", {.reverse_map = true}, 9}),
    [](const auto& param) { return param.param.name; });

TEST_P(EngineModelTest, FramesThatSlotsNameAndViewsShowAreReachedAndBatchesAreAllOrNothing) {
  uint64_t to_frames = 0;
  uint64_t shown = 0;
  uint64_t refused = 0;
  uint64_t made = 0;
  constexpr OpKind kKinds[] = {OpKind::kAccess, OpKind::kAccess,   OpKind::kAccess,
                               OpKind::kFrames, OpKind::kPopulate, OpKind::kBatch,
                               OpKind::kZap,    OpKind::kCollapse, OpKind::kSetView};
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    EngineModel model(GetParam().options, GetParam().host_order);
    std::mt19937_64 random(seed);
    std::vector<Op> ops = RandomOps(seed, 400);
    for (Op& op : ops) {
      op.kind = kKinds[random() % std::size(kKinds)];
      if (op.kind == OpKind::kBatch) op.how |= 16;
    }
    ASSERT_TRUE(Agrees(model, ops)) << "seed " << seed;
    to_frames += model.accesses_to_frames();
    shown += model.accesses_shown();
    refused += model.batches_refused();
    made += model.batches_made();
  }
  EXPECT_GT(to_frames, 100u);
  EXPECT_EQ(shown > 50, !GetParam().options.reverse_map) << shown;
  EXPECT_GT(refused, 50u);
  EXPECT_GT(made, 50u);
}

INSTANTIATE_TEST_SUITE_P(
    Settings, EngineModelTest,
    testing::Values(Setting{"FourLevels", {}, 9}, Setting{"FiveLevels", {.ept_levels = 5}, 9},
                    Setting{"SmallHostPages", {}, 0},
                    Setting{"NoAccessedDirty", {.accessed_dirty = Use::kNever}, 9},
                    Setting{"NoMmioCaching", {.mmio_caching = false}, 9},
                    Setting{"PrivateMemory", {.private_memory = true}, 9},
                    Setting{"ExecuteAs4K", {.execute_4k_only = true}, 9},
                    Setting{"Exceptions", {.virtualization_exceptions = Use::kRequire}, 9},
                    Setting{"ReverseMap", {.reverse_map = true}, 9},
                    Setting{"ReverseMapOfSmallHostPages", {.reverse_map = true}, 0}),
    [](const auto& param) { return param.param.name; });

TEST(EngineModel, AForgottenFlushIsFound) {
  EngineModel model({}, 9, EngineModel::Mistake::kForgetsFlushes);
  const testing::AssertionResult result = Agrees(model, RandomOps(1, 500));
  ASSERT_FALSE(result);
  EXPECT_THAT(result.message(), testing::HasSubstr("kAccess")) << "and shown as C++";
}

// In the shortest case the host moves a page, and one CPU has not heard of it.
TEST(EngineModel, AForgottenFlushIsReportedWithTheEntryAndTheChange) {
  EngineModel model({}, 0, EngineModel::Mistake::kForgetsFlushes);
  const std::vector<Op> ops = {{OpKind::kSetSlot, 0, 0, 0, 0, 16, 0},
                               {OpKind::kAccess, 0, 0, 0, 3, 0, 0},
                               {OpKind::kZap, 0, 0, 0, 3, 1, 0},
                               {OpKind::kAccess, 0, 0, 0, 3, 0, 0}};
  for (const Op& op : ops) ASSERT_TRUE(model.Apply(op).ok());
  EXPECT_THAT(std::string(model.Check().message()),
              testing::HasSubstr("a stale translation was used"));
}

// Fuzzers rely on this: a finding can be made again from its input alone.
TEST(EngineModel, OnAMachineThatOthersHaveUsedRunsAsOnANewOne) {
  struct Kind {
    VmOptions options;
    int host_order;
    uint64_t ring_entries;
  };
  const Kind kinds[] = {{{}, 9, 0},
                        {{.dirty_tracking = DirtyTracking::kPml}, 0, 0},
                        {{.dirty_tracking = DirtyTracking::kWriteProtection}, 9, 1024},
                        {{.private_memory = true}, 9, 0},
                        {{.reverse_map = true}, 0, 0}};
  const auto run = [](SimMachine& machine, const Kind& kind, uint64_t seed) {
    EngineModel model(machine, kind.options, kind.host_order, kind.ring_entries);
    EXPECT_TRUE(Agrees(model, RandomOps(seed, 60)));
    EXPECT_TRUE(Agrees(model, OpsOnLogs(seed, 60)));
    return model.history();
  };
  SimMachine used(EngineModel::Machine());
  std::vector<uint64_t> histories;
  for (uint64_t seed = 0; seed < 15; ++seed) {
    const Kind& kind = kinds[seed % std::size(kinds)];
    SimMachine fresh(EngineModel::Machine());
    histories.push_back(run(fresh, kind, seed));
    EXPECT_EQ(run(used, kind, seed), histories.back()) << "seed " << seed;
  }
  for (uint64_t seed = 15; seed-- > 0;) {
    EXPECT_EQ(run(used, kinds[seed % std::size(kinds)], seed), histories[seed]) << "seed " << seed;
  }
  EXPECT_NE(histories[0], histories[5]) << "a history that tells nothing apart";
}

TEST(EngineModel, OperationsPrintAsCpp) {
  EXPECT_EQ(ToCpp(Op{OpKind::kZap, 0, 1, 2, 0x30, 0x4, 0}),
            "{OpKind::kZap, 0, 1, 2, 0x30, 0x4, 0x0},");
}

}  // namespace
}  // namespace tdp::model
