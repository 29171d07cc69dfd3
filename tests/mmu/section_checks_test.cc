// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What must be called inside a writer's section aborts outside of one, in builds with checks.

#include <memory>

#include "gtest/gtest.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/mmu/engine/engine.h"

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
