// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests list leaves by `Vm::VisitLeaves`, and get tables' memory in advance and give it back.

#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/mappings.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};

class VisitLeavesTest : public HostTest {
 protected:
  void Start(const VmOptions& options = {}) {
    HostTest::Start(options);
    ASSERT_TRUE(vm_->SetMemoryRegion({.gpa = Gpa(0), .size = GiB(4), .hva = kRam}).ok());
  }
  void Touch(Gpa gpa, ExitQualification how = kWriteFault) {
    ASSERT_EQ(vcpu_->HandleEptViolation(gpa, how).outcome, FaultOutcome::kFixed);
  }
  std::vector<LeafRun> Runs(Gfn first = Gfn(0), PageCount count = PageCount(1 << 20)) {
    std::vector<LeafRun> runs;
    EXPECT_TRUE(
        vm_->VisitLeaves(first, count, [&](const LeafRun& run) { runs.push_back(run); }).ok());
    return runs;
  }
};

TEST_F(VisitLeavesTest, NeighboursThatDifferInTheirFramesAloneAreOneRun) {
  Start({.max_leaf_level = kLevel4K});
  for (uint64_t page = 0x10; page < 0x20; ++page) Touch(Gpa(page << kPageShift));
  const std::vector<LeafRun> runs = Runs();
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].gfn, Gfn(0x10));
  EXPECT_EQ(runs[0].pages, PageCount(0x10));
  EXPECT_EQ(runs[0].hfn, vm_->Translate(Gpa(0x10000))->entry.frame());
  EXPECT_EQ(runs[0].level, kLevel4K);
  EXPECT_TRUE(runs[0].access.can_write() && runs[0].accessed && runs[0].dirty);
}

TEST_F(VisitLeavesTest, AnotherUseOrSizeOrAHoleBeginsAnotherRun) {
  Start({.max_leaf_level = kLevel4K});
  Touch(Gpa(0x1000));
  Touch(Gpa(0x2000), kReadFault);
  Touch(Gpa(0x4000));
  const std::vector<LeafRun> runs = Runs();
  ASSERT_EQ(runs.size(), 3u) << "D, and a hole";
  EXPECT_TRUE(runs[0].dirty);
  EXPECT_FALSE(runs[1].dirty);
  EXPECT_EQ(runs[2].gfn, Gfn(4));
}

TEST_F(VisitLeavesTest, LargeLeavesAreCutAtTheEndsOfWhatIsAskedFor) {
  host_.order = 9;
  Start();
  Touch(Gpa(0));
  Touch(Gpa(MiB(2)));
  const std::vector<LeafRun> runs = Runs(Gfn(0x10), PageCount(0x300));
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].gfn, Gfn(0x10));
  EXPECT_EQ(runs[0].pages, PageCount(0x300));
  EXPECT_EQ(runs[0].hfn, vm_->Translate(Gpa(0x10000))->FrameOf(Gfn(0x10)));
  EXPECT_EQ(runs[0].level, kLevel2M);
}

TEST_F(VisitLeavesTest, MoreRunsThanOneSectionHoldsAreAllShownOnce) {
  Start({.max_leaf_level = kLevel4K});
  for (uint64_t page = 0; page < 1000; page += 2) Touch(Gpa(page << kPageShift));
  const std::vector<LeafRun> runs = Runs();
  ASSERT_EQ(runs.size(), 500u);
  for (size_t i = 0; i < runs.size(); ++i) {
    EXPECT_EQ(runs[i].gfn, Gfn(2 * i));
    EXPECT_EQ(runs[i].pages, PageCount(1));
  }
}

TEST_F(VisitLeavesTest, MoreTablesThanOneSectionVisitsAreAllShown) {
  Start({.max_leaf_level = kLevel4K});
  for (uint64_t i = 0; i < 60; ++i) Touch(Gpa(i * MiB(2)));
  EXPECT_EQ(Runs().size(), 60u);
}

TEST_F(VisitLeavesTest, AProtectionAboveALeafTakesTheRightFromItsRun) {
  Start({.dirty_tracking = DirtyTracking::kWriteProtection, .max_leaf_level = kLevel4K});
  Touch(Gpa(0x1000));
  ASSERT_TRUE(vm_->SetMemoryRegion(
                     {.flags = kSlotLogDirtyPages, .gpa = Gpa(0), .size = GiB(4), .hva = kRam})
                  .ok());
  const std::vector<LeafRun> runs = Runs();
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_FALSE(runs[0].access.can_write()) << "the log took W at the top of the tables";
}

TEST_F(VisitLeavesTest, TheVisitorMayChangeWhatItIsShown) {
  Start({.max_leaf_level = kLevel4K});
  for (uint64_t page = 0; page < 1000; page += 2) Touch(Gpa(page << kPageShift));
  size_t shown = 0;
  const auto zap = [&](const LeafRun& run) {
    ++shown;
    vm_->ZapRange(run.gfn, run.pages)->Settle();
  };
  ASSERT_TRUE(vm_->VisitLeaves(Gfn(0), PageCount(1000), zap).ok());
  EXPECT_EQ(shown, 500u);
  EXPECT_TRUE(Runs().empty());
}

TEST_F(VisitLeavesTest, EachViewShowsItsOwn) {
  Start({.max_leaf_level = kLevel4K});
  const ViewId view = *vm_->CreateView();
  Touch(Gpa(0x1000));
  size_t shown = 0;
  const auto count = [&](const LeafRun&) { ++shown; };
  ASSERT_TRUE(vm_->VisitLeaves(Gfn(0), PageCount(16), count, 0, view).ok());
  EXPECT_EQ(shown, 0u);
  EXPECT_TRUE(absl::IsNotFound(vm_->VisitLeaves(Gfn(0), PageCount(16), count, 0, view + 1)));
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->VisitLeaves(Gfn(0), PageCount(16), count, 7)));
}

using TableMemory = VisitLeavesTest;

TEST_F(TableMemory, AfterAReserveNoFaultAsksTheBackendUntilItIsUsed) {
  Start({.max_leaf_level = kLevel4K});
  ASSERT_TRUE(vm_->ReserveTables(1024).ok());
  host_.blocks = 0;
  for (uint64_t table = 0; table < 900; ++table) {
    ASSERT_EQ(Fault(Gpa(table * MiB(2))), FaultOutcome::kFixed) << table;
  }
  EXPECT_TRUE(absl::IsResourceExhausted(vm_->ReserveTables(1 << 20)));
}

TEST_F(TableMemory, ReleasedBlocksGoBackAndFaultsGoOn) {
  Start({.max_leaf_level = kLevel4K});
  for (uint64_t table = 0; table < 900; ++table) {
    Fault(Gpa(table * MiB(2)));
  }
  EXPECT_EQ(vm_->ReleaseTableMemory(), 0u) << "every table is in use, but for a few";
  vm_->ZapAll()->Settle();
  const ByteCount reserved = vm_->Stats().table_bytes_reserved;
  const ByteCount released = vm_->ReleaseTableMemory();
  EXPECT_GT(released, MiB(3));
  EXPECT_EQ(vm_->Stats().table_bytes_reserved, reserved - released);
  EXPECT_EQ(static_cast<ByteCount>(host_.freed_blocks) * kTableBlockBytes, released);
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
}

// A vCPU still looks into the table of its last fault: were the block given back, the next fault
// would read poisoned memory.
TEST_F(TableMemory, TheTableOfTheLastFaultStaysReadable) {
  Start({.max_leaf_level = kLevel4K});
  for (uint64_t table = 0; table < 900; ++table) {
    Fault(Gpa(table * MiB(2)));
  }
  vm_->ZapAll()->Settle();
  EXPECT_GT(vm_->ReleaseTableMemory(), MiB(3));
  EXPECT_EQ(Fault(Gpa(899 * MiB(2))), FaultOutcome::kFixed);
}

}  // namespace
}  // namespace tdp
