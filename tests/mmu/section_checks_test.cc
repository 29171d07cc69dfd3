// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Calls that belong inside a section or under a lock abort elsewhere, in builds with checks.

#include <memory>
#include <thread>

#include "gtest/gtest.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/dirty/detached_dirt.h"
#include "tdp/mmu/engine/engine.h"
#include "tdp/mmu/engine/slot_change.h"
#include "tdp/mmu/guest/guest_window.h"
#include "tdp/mmu/reverse_mapped/reverse_mapped_mmu.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"
#include "tdp/mmu/reverse_mapped/slot_rmaps.h"
#include "tdp/mmu/shadow/shadow_faults.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/collapse.h"
#include "tdp/mmu/tables/staged_table.h"
#include "tdp/mmu/vm/view_change.h"

namespace tdp {
namespace {

const char* const kDies = "check failed";

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
class SectionChecksDeathTest : public SectionChecks {
 protected:
  void SetUp() override {
    if (!kAsksSections) GTEST_SKIP() << "this build has no checks";
  }
};

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
  TableCache none(engine_->pool());
  TableList detached;
  EXPECT_DEATH(space().WriteProtect(range_), kDies);
  EXPECT_DEATH(space().Detach(range_, none, detached), kDies);
  EXPECT_DEATH(space().NarrowPages(Gfn(0), 1, WriteNotice::kFault), kDies);
}

TEST_P(SectionChecksDeathTest, AReadersSectionIsNotAWriters) {
  MmuLock::Reader reader(engine_->mmu_lock());
  EXPECT_DEATH(
      {
        const MmuReadSection section(reader);
        space().WriteProtect(range_);
      },
      kDies);
}

const Kind kKinds[] = {{"Direct", {}},
                       {"ReverseMapped", {.reverse_map = true}},
                       {"Nested", {.nested = true}},
                       {"Shadow", {.paging = Paging::kShadow}}};
const auto kName = [](const auto& info) { return info.param.name; };
INSTANTIATE_TEST_SUITE_P(Kinds, SectionChecks, testing::ValuesIn(kKinds), kName);
INSTANTIATE_TEST_SUITE_P(Kinds, SectionChecksDeathTest, testing::ValuesIn(kKinds), kName);

// The structure of shadow tables changes in a writer's section; a reader's is not enough.
class ShadowChecks : public testing::Test {
 protected:
  ShadowChecks()
      : engine_(Engine::Create(backend_, {.paging = Paging::kShadow}).value()),
        reader_(engine_->mmu_lock()) {}

  ShadowTables<PagingEntry>& tables() { return *engine_->space(0).shadow_tables(); }

  MinimalBackend backend_;
  std::unique_ptr<Engine> engine_;
  MmuLock::Reader reader_;
};
class ShadowChecksDeathTest : public ShadowChecks {
 protected:
  void SetUp() override {
    if (!kAsksSections) GTEST_SKIP() << "this build has no checks";
  }
};

TEST_F(ShadowChecks, AReadersSectionIsEnoughToLook) {
  const MmuReadSection section(reader_);
  EXPECT_EQ(tables().excess(), 0u);
  EXPECT_FALSE(tables().Shadows(Gfn(0)));
  EXPECT_EQ(tables().unsync().first(), nullptr);
}

TEST_F(ShadowChecks, AWritersSectionIsEnough) {
  const MmuWriteSection section(engine_->mmu_lock());
  ShadowZap zap;
  EXPECT_FALSE(tables().Maps(Gfn(0), Gfn(1)));
  tables().Detach(Gfn(0), Gfn(1), zap);
  EXPECT_EQ(tables().ZapOldest(1, zap), 0u);
  EXPECT_TRUE(zap.is_empty());
}

TEST_F(ShadowChecksDeathTest, AReadersSectionIsNoWriters) {
  const MmuReadSection section(reader_);
  ShadowZap zap;
  EXPECT_DEATH(tables().Maps(Gfn(0), Gfn(1)), kDies);
  EXPECT_DEATH(tables().WriteProtect(Gfn(0), Gfn(1)), kDies);
  EXPECT_DEATH(tables().Find(Gfn(0), PageRole()), kDies);
  EXPECT_DEATH(tables().MustTrackEvenUnsync(Gfn(0)), kDies);
  EXPECT_DEATH(tables().BeginResync(zap), kDies);
  EXPECT_DEATH(tables().ZapOldest(1, zap), kDies);
  EXPECT_DEATH(tables().Detach(Gfn(0), Gfn(1), zap), kDies);
  EXPECT_DEATH(tables().SetRmap(0, nullptr), kDies);
}

TEST_F(ShadowChecksDeathTest, ALookOutsideOfEverySectionAborts) {
  EXPECT_DEATH(tables().excess(), kDies);
  EXPECT_DEATH(tables().Shadows(Gfn(0)), kDies);
  EXPECT_DEATH(tables().MustTrack(Gfn(0)), kDies);
  EXPECT_DEATH(tables().WriteProtectPages(Gfn(0), 1), kDies);
}

TEST_F(ShadowChecksDeathTest, ALeafChangesUnderItsPagesLockOnly) {
  const MmuReadSection section(reader_);
  ShadowPage page;
  ShadowZap zap;
  EXPECT_DEATH(tables().ChangeLeaf(page, 0, PagingEntry(), LeafOrigin(), zap), kDies);
}

// Shows what a shadowed vCPU looks at in a section.
struct Faults : ShadowFaults<PagingEntry> {
  Faults(Engine& engine, const FlushClock::Member& member, GuestWindow& window)
      : ShadowFaults(engine.shadow_parts(), member, window, nullptr) {}
  using ShadowFaults::EndOfWay;
  using ShadowFaults::LeafPageOf;
};

TEST_F(ShadowChecksDeathTest, AShadowedVcpuGoesThroughTablesInASection) {
  FlushClock::Member member(engine_->clock(), 0);
  GuestWindow window(backend_, engine_->slots(), engine_->sequence());
  Faults faults(*engine_, member, window);
  ShadowPage page;
  EXPECT_DEATH(faults.EndOfWay(page, 0), kDies);
  EXPECT_DEATH(faults.LeafPageOf(page, 0), kDies);
}

// Classes that know no lock ask whether the thread is in a section of any.
class AnySectionDeathTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!kAsksSections) GTEST_SKIP() << "this build has no checks";
  }
  std::unique_ptr<Engine> Make(const VmOptions& options) {
    return Engine::Create(backend_, options).value();
  }
  DirectMmu& mmu() { return engine_->mmu(0); }
  View& view() { return engine_->views(0).base(); }

  MinimalBackend backend_;
  const std::unique_ptr<Engine> engine_ = Make({});
  MmuLock::Reader reader_{engine_->mmu_lock()};
  const MemorySlot slot_;
};

TEST_F(AnySectionDeathTest, ALookAtTablesOutsideOfEverySectionAborts) {
  EXPECT_DEATH(mmu().Walk(Gfn(0)), kDies);
  EXPECT_DEATH(mmu().NarrowPages(Gfn(0), 1, WriteNotice::kFault), kDies);
  const MmuReadSection section(reader_);
  EXPECT_FALSE(mmu().Walk(Gfn(0)).is_mapped());
}

TEST_F(AnySectionDeathTest, AnotherThreadsSectionIsNoneOfThisOne) {
  const MmuReadSection section(reader_);
  std::thread([&] { EXPECT_DEATH(mmu().Walk(Gfn(0)), kDies); }).join();
}

TEST_F(AnySectionDeathTest, AWritersWorkInAReadersSectionAborts) {
  const MmuReadSection section(reader_);
  TableCache none(engine_->pool());
  TableList detached;
  EXPECT_DEATH(mmu().WriteProtect(Gfn(0), Gfn(1)), kDies);
  EXPECT_DEATH(mmu().Detach(Gfn(0), Gfn(1), none, detached), kDies);
  EXPECT_DEATH(mmu().DetachAll(detached), kDies);
  EXPECT_DEATH(Collapse(Gfn(0), kLevel2M, EptEntry()).Replace(mmu()), kDies);
  EXPECT_DEATH(engine_->views(0).UpdateList(view()), kDies);
  EXPECT_DEATH(engine_->sequence().Move(), kDies);
  EXPECT_DEATH(SlotRmaps().Set(0, nullptr), kDies);
  EXPECT_DEATH(DetachedDirt(engine_->slots(), 0).OnLost(Gfn(0)), kDies);
}

TEST_F(AnySectionDeathTest, AReadersWorkOutsideOfEverySectionAborts) {
  TableCache cache(engine_->pool());
  ASSERT_TRUE(cache.Refill().ok());
  StagedTable staged(mmu(), Gfn(0), cache);
  EXPECT_DEATH(staged.Publish(Access::Read()), kDies);
  EXPECT_DEATH(Collapse(Gfn(0), kLevel2M, EptEntry()).AddLateBits(mmu(), false), kDies);
  EXPECT_DEATH(engine_->sequence().MovedSince(0, Hva(0), true), kDies);
  EXPECT_DEATH(MarkWritten(slot_, {}), kDies);
}

TEST_F(AnySectionDeathTest, RulesAskedForOutsideOfEverySectionAbort) {
  EXPECT_DEATH(view().policy().RuleOf(Gfn(0)), kDies);
  EXPECT_DEATH(view().policy().IsPrivate(Gfn(0)), kDies);
  EXPECT_DEATH(view().policy().BackingOf(slot_, Gfn(0)), kDies);
}

TEST_F(AnySectionDeathTest, AWindowOnGuestMemoryOutsideOfEverySectionAborts) {
  GuestWindow window(backend_, engine_->slots(), engine_->sequence());
  GuestWalkOutcome why = GuestWalkOutcome::kMapped;
  EXPECT_DEATH(window.Reach(Gpa(0), false, why), kDies);
  EXPECT_DEATH(window.Wrote(Gpa(0)), kDies);
}

TEST_F(AnySectionDeathTest, SlotsAndRulesShownOutsideOfAWritersSectionAbort) {
  TableList detached;
  EXPECT_DEATH(ProtectForLog(*engine_, slot_, false, detached), kDies);
  EXPECT_DEATH(DetachOldMmio(*engine_, 0, 0, detached), kDies);
  EXPECT_DEATH(ViewChange(*engine_, view()).Publish(), kDies);
}

TEST_F(AnySectionDeathTest, AReverseMapWantsItsSidesOfTheLock) {
  const auto mapped = Make({.reverse_map = true});
  ReverseMappedMmu& mmu = *mapped->reverse_mapped(0);
  EXPECT_DEATH(mmu.RmapOf(slot_), kDies);
  MmuLock::Reader reader(mapped->mmu_lock());
  const MmuReadSection section(reader);
  TableCache none(mapped->pool());
  TableList detached;
  EXPECT_DEATH(mmu.Detach(Gfn(0), Gfn(1), none, detached), kDies);
  EXPECT_DEATH(mmu.WriteProtect(Gfn(0), Gfn(1)), kDies);
  EXPECT_DEATH(mmu.SetRmap(0, nullptr), kDies);
  EXPECT_DEATH(mmu.CheckInvariants().IgnoreError(), kDies);
}

TEST(ReaderChecks, AReaderKnowsWhetherItIsInside) {
  MmuLock lock;
  MmuLock::Reader reader(lock);
  const MmuReadSection section(reader);
  AssertReading(reader);
}

TEST(ReaderChecksDeathTest, AReaderThatIsOutsideAborts) {
  if (!kAsksSections) GTEST_SKIP() << "this build has no checks";
  MmuLock lock;
  MmuLock::Reader reader(lock);
  EXPECT_DEATH(AssertReading(reader), kDies);
}

}  // namespace
}  // namespace tdp
