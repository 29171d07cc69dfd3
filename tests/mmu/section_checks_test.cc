// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Calls that belong inside a section or under a lock abort elsewhere, in builds with checks.

#include <memory>

#include "gtest/gtest.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/base/spin_lock.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {
namespace {

struct Kind {
  const char* name;
  VmOptions options;
};

class SectionChecks : public testing::TestWithParam<Kind> {
 protected:
  SectionChecks() : engine_(Engine::Create(backend_, GetParam().options).value()) {}

  AddressSpace& space() { return engine_->space(0); }

  MinimalBackend backend_;
  std::unique_ptr<Engine> engine_;
  const FrameRange range_{Gfn(0), Gfn(1)};
};
class SectionChecksDeathTest : public SectionChecks {};

TEST_P(SectionChecks, AWritersSectionIsEnough) {
  const MmuWriteSection section(engine_->mmu_lock());
  TableCache none(engine_->pool());
  TableList detached;
  EXPECT_FALSE(space().WriteProtect(range_));
  EXPECT_FALSE(space().Detach(range_, none, detached));
  EXPECT_TRUE(detached.empty());
  space().SetRmap(0, nullptr);
}

TEST_P(SectionChecksDeathTest, ChangesOutsideOfAWritersSectionAbort) {
#ifdef NDEBUG
  GTEST_SKIP() << "this build has no checks";
#else
  TableCache none(engine_->pool());
  TableList detached;
  EXPECT_DEATH(space().WriteProtect(range_), "check failed");
  EXPECT_DEATH(space().Detach(range_, none, detached), "check failed");
#endif
}

TEST_P(SectionChecksDeathTest, AReadersSectionIsNotAWriters) {
#ifdef NDEBUG
  GTEST_SKIP() << "this build has no checks";
#else
  MmuLock::Reader reader(engine_->mmu_lock());
  EXPECT_DEATH(
      {
        const MmuReadSection section(reader);
        space().WriteProtect(range_);
      },
      "check failed");
#endif
}

const Kind kKinds[] = {{"Direct", {}},
                       {"ReverseMapped", {.reverse_map = true}},
                       {"Nested", {.nested = true}},
                       {"Shadow", {.paging = Paging::kShadow}}};
const auto kName = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Kinds, SectionChecks, testing::ValuesIn(kKinds), kName);
INSTANTIATE_TEST_SUITE_P(Kinds, SectionChecksDeathTest, testing::ValuesIn(kKinds), kName);

// Shadow tables take a lock of their own inside readers' sections; a writer's section is as good.
class ShadowLockChecks : public testing::Test {
 protected:
  ShadowLockChecks()
      : engine_(Engine::Create(backend_, {.paging = Paging::kShadow}).value()),
        reader_(engine_->mmu_lock()) {}

  ShadowTables<PagingEntry>& tables() { return *engine_->space(0).shadow_tables(); }

  MinimalBackend backend_;
  std::unique_ptr<Engine> engine_;
  MmuLock::Reader reader_;
};
using ShadowLockChecksDeathTest = ShadowLockChecks;

TEST_F(ShadowLockChecks, TheirLockIsEnough) {
  const MmuReadSection section(reader_);
  const SpinLockHolder hold(tables().lock());
  EXPECT_FALSE(tables().Maps(Gfn(0), Gfn(1)));
  EXPECT_EQ(tables().excess(), 0u);
}

TEST_F(ShadowLockChecks, AWritersSectionIsEnough) {
  const MmuWriteSection section(engine_->mmu_lock());
  ShadowZap zap;
  tables().Detach(Gfn(0), Gfn(1), zap);
  EXPECT_EQ(tables().ZapOldest(1, zap), 0u);
  EXPECT_TRUE(zap.is_empty());
}

TEST_F(ShadowLockChecksDeathTest, AReadersSectionWithoutTheirLockAborts) {
#ifdef NDEBUG
  GTEST_SKIP() << "this build has no checks";
#else
  const MmuReadSection section(reader_);
  EXPECT_DEATH(tables().Maps(Gfn(0), Gfn(1)), "check failed");
  EXPECT_DEATH(tables().WriteProtect(Gfn(0), Gfn(1)), "check failed");
  EXPECT_DEATH(tables().excess(), "check failed");
#endif
}

TEST_F(ShadowLockChecksDeathTest, TheirLockIsNoWritersSection) {
#ifdef NDEBUG
  GTEST_SKIP() << "this build has no checks";
#else
  const MmuReadSection section(reader_);
  const SpinLockHolder hold(tables().lock());
  ShadowZap zap;
  EXPECT_DEATH(tables().Detach(Gfn(0), Gfn(1), zap), "check failed");
  EXPECT_DEATH(tables().SetRmap(0, nullptr), "check failed");
#endif
}

TEST(ReaderChecks, AReaderKnowsWhetherItIsInside) {
  MmuLock lock;
  MmuLock::Reader reader(lock);
  const MmuReadSection section(reader);
  AssertReading(reader);
}

TEST(ReaderChecksDeathTest, AReaderThatIsOutsideAborts) {
#ifdef NDEBUG
  GTEST_SKIP() << "this build has no checks";
#else
  MmuLock lock;
  MmuLock::Reader reader(lock);
  EXPECT_DEATH(AssertReading(reader), "check failed");
#endif
}

}  // namespace
}  // namespace tdp
