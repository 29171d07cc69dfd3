// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/guest/guest_window.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

// Gives memory of the aligned operator new back to the aligned operator delete.
struct AlignedDelete {
  void operator()(std::byte* bytes) const {
    ::operator delete[](bytes, std::align_val_t{kPageSize});
  }
};

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kTable = guest::kPresent | guest::kWrite | guest::kUser;

// There are two memories of 1024 frames; the guest's 4-level tables stand in frames 64, 128, 192
// and 256 of the first, and map gva 0x5000 to gpa 0x123000.
class GuestWindowTest : public HostTest {
 protected:
  GuestWindowTest() { Start({.dirty_tracking = DirtyTracking::kWriteProtection}); }
  void SetUp() override {
    for (uint64_t level = 4; level > 1; --level) {
      Set(TableAt(level), TableAt(level - 1) | kTable);
    }
    Set(kLeaf, 0x123000 | kTable);
    ASSERT_TRUE(SetRam(0).ok());
  }
  static constexpr uint64_t TableAt(uint64_t level) { return (5 - level) * 64 * kPageSize; }
  static constexpr uint64_t kLeaf = 256 * kPageSize + 5 * 8;
  static constexpr ByteCount kSize = 1024 * kPageSize;

  absl::Status SetRam(uint32_t flags) {
    return vm_->SetMemoryRegion(
        {.flags = flags, .size = kSize, .hva = Hva(reinterpret_cast<uintptr_t>(ram_.get()))});
  }
  void Set(uint64_t gpa, uint64_t value) { std::memcpy(ram_.get() + gpa, &value, 8); }
  uint64_t Get(uint64_t gpa) const {
    uint64_t value;
    std::memcpy(&value, ram_.get() + gpa, 8);
    return value;
  }
  GuestWalk Walk(GuestAccess access = GuestAccess::Read()) {
    GuestWalk walk;
    status_ = vcpu_->WalkGuest(paging_, roots_, Gva(0x5678), access, walk);
    return walk;
  }
  std::set<uint64_t> TakeDirty() { return TakenPages(*vm_); }

  std::unique_ptr<std::byte[], AlignedDelete> ram_{new (std::align_val_t{kPageSize})
                                                       std::byte[2 * kSize]()};
  GuestPaging paging_{GuestControls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                    .cr4 = guest::kCr4PhysicalAddressExtension,
                                    .efer = guest::kEferLongModeActive}};
  GuestRoots roots_{.cr3 = TableAt(4)};
  absl::Status status_;
};

TEST_F(GuestWindowTest, TablesAreReadThroughTheSlotsAndTheHostIsAskedOnce) {
  EXPECT_EQ(Walk().gpa, Gpa(0x123678));
  ASSERT_TRUE(status_.ok()) << status_;
  const int before = host_.resolves;
  EXPECT_EQ(Walk().outcome, GuestWalkOutcome::kMapped);
  EXPECT_EQ(host_.resolves, before);
  EXPECT_EQ(Get(kLeaf) & guest::kAccessed, guest::kAccessed);
}

// Either the slot names the frames of the guest's memory, without W, or a view does over such a
// slot, and leaves no more rights than that has.
TEST_F(GuestWindowTest, TablesInFramesThatMayNotBeWrittenKeepTheirFlagsClear) {
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 0}).ok());
  const Hpa ram(reinterpret_cast<uintptr_t>(ram_.get()));
  for (const Access rights : {Access::Read(), Access::ReadExecute(), Access::All()}) {
    for (const bool is_shown : {false, true}) {
      SCOPED_TRACE(is_shown);
      ASSERT_EQ(vm_->SetMemoryRegion(
                    {.flags = kSlotHostFrames, .size = kSize, .hpa = ram, .rights = rights}),
                absl::OkStatus());
      const auto frames = is_shown ? std::optional(Hfn::Of(ram)) : std::nullopt;
      ASSERT_EQ(vm_->SetViewFrames(kBaseView, Gfn(0), PageCount::FromBytes(kSize), frames),
                absl::OkStatus());
      Set(kLeaf, Get(kLeaf) & ~uint64_t{guest::kDirty});
      const GuestWalk walk = Walk(GuestAccess::Write());
      ASSERT_EQ(status_, absl::OkStatus());
      EXPECT_EQ(walk.outcome, GuestWalkOutcome::kMapped);
      EXPECT_EQ(walk.gpa, Gpa(0x123678));
      EXPECT_EQ(walk.write_protected_table, !rights.can_write());
      EXPECT_EQ(Get(kLeaf) & guest::kDirty, rights.can_write() ? guest::kDirty : 0);
      ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 0}).ok());
    }
  }
}

// A view shows another table in place of the lowest.
TEST_F(GuestWindowTest, TablesAreThoseOfTheViewThatTheVcpuRunsIn) {
  const ViewId view = *vm_->CreateView();
  std::byte* const other = ram_.get() + kSize;
  const uint64_t entry = 0x124000 | kTable;
  std::memcpy(other + kLeaf % kPageSize, &entry, sizeof(entry));
  ASSERT_EQ(vm_->SetViewFrames(view, Gfn::Of(Gpa(kLeaf)), PageCount(1),
                               Hfn::Of(Hpa(reinterpret_cast<uintptr_t>(other)))),
            absl::OkStatus());
  EXPECT_EQ(Walk().gpa, Gpa(0x123678));
  ASSERT_EQ(vcpu_->SetView(view), absl::OkStatus());
  EXPECT_EQ(Walk().gpa, Gpa(0x124678));
  ASSERT_EQ(vcpu_->SetView(kBaseView), absl::OkStatus());
  EXPECT_EQ(Walk().gpa, Gpa(0x123678));
}

// Frames 14 and 27 share a line of the window, and each may use another one.
TEST_F(GuestWindowTest, TablesThatWantTheSameLineDoNotPutEachOtherOutForEver) {
  constexpr uint64_t kFrame14 = 14 * kPageSize;
  constexpr uint64_t kFrame27 = 27 * kPageSize;
  for (uint64_t other : {14 + 64, 27 + 64}) {
    // These other lines are taken by something else.
    Set(TableAt(4), other * kPageSize | kTable);
    Walk();
  }
  Set(TableAt(4), kFrame14 | kTable);
  Set(kFrame14, kFrame27 | kTable);
  Set(kFrame27, TableAt(1) | kTable);
  for (int i = 0; i < 8; ++i) {
    EXPECT_EQ(Walk().gpa, Gpa(0x123678));
    ASSERT_TRUE(status_.ok()) << status_;
  }
}

// Frames 24, 53 and 693 share two lines between the three of them.
TEST_F(GuestWindowTest, TablesWithFewerLinesThanTheyAreDoNotPutEachOtherOutForEver) {
  constexpr uint64_t kFrames[] = {24 * kPageSize, 53 * kPageSize, 693 * kPageSize};
  Set(TableAt(4), kFrames[0] | kTable);
  Set(kFrames[0], kFrames[1] | kTable);
  Set(kFrames[1], kFrames[2] | kTable);
  Set(kFrames[2] + 5 * 8, 0x123000 | kTable);
  ASSERT_TRUE(SetRam(kSlotLogDirtyPages).ok());
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(Walk(GuestAccess::Write()).gpa, Gpa(0x123678));
    ASSERT_TRUE(status_.ok()) << status_;
  }
  EXPECT_THAT(TakeDirty(), ElementsAre(24, 53, 64, 693)) << "each had a flag to set";
}

TEST_F(GuestWindowTest, ATableBeyondTheSlotsIsNoMemory) {
  Set(TableAt(2), kSize | kTable);
  EXPECT_EQ(Walk().outcome, GuestWalkOutcome::kNoMemory);
  EXPECT_EQ(Walk().gpa, Gpa(kSize + 5 * 8));
  ASSERT_TRUE(status_.ok()) << status_;
}

TEST_F(GuestWindowTest, TablesInAReadOnlySlotAreUsedAsTheyAre) {
  ASSERT_TRUE(vm_->SetMemoryRegion({}).ok());
  ASSERT_TRUE(SetRam(kSlotReadOnly).ok());
  EXPECT_EQ(Walk().outcome, GuestWalkOutcome::kMapped);
  EXPECT_EQ(Get(kLeaf), 0x123000 | kTable);
}

TEST_F(GuestWindowTest, FlagsThatTheWalkSetsAreDirtyPages) {
  ASSERT_TRUE(SetRam(kSlotLogDirtyPages).ok());
  Walk();
  EXPECT_THAT(TakeDirty(), ElementsAre(64, 128, 192, 256));
  Walk();
  EXPECT_THAT(TakeDirty(), IsEmpty()) << "nothing was left to set";
  Walk(GuestAccess::Write());
  EXPECT_THAT(TakeDirty(), ElementsAre(256));
}

// The vCPU has a dirty ring here, which may be full.
class GuestWindowWithRing : public GuestWindowTest {
 protected:
  void SetUp() override {
    vcpu_.reset();
    vm_ = *Vm::Create(host_, {.dirty_tracking = DirtyTracking::kWriteProtection});
    ASSERT_TRUE(vm_->EnableDirtyRing(1024).ok());
    vcpu_ = *vm_->CreateVcpu();
    GuestWindowTest::SetUp();
    ASSERT_TRUE(SetRam(kSlotLogDirtyPages).ok());
  }
  std::vector<uint64_t> Harvest() {
    std::vector<uint64_t> pages;
    EXPECT_TRUE(
        vm_->HarvestDirtyRings([&](const DirtyRingEntry& entry) { pages.push_back(entry.index); })
            .ok());
    std::sort(pages.begin(), pages.end());
    return pages;
  }
};

TEST_F(GuestWindowWithRing, FlagsThatTheWalkSetsAreInTheRing) {
  Walk();
  EXPECT_EQ(vcpu_->dirty_ring()->used(), 4u);
  EXPECT_THAT(Harvest(), ElementsAre(64, 128, 192, 256));
  Walk(GuestAccess::Write());
  EXPECT_THAT(Harvest(), ElementsAre(256));
}

TEST_F(GuestWindowWithRing, ANearlyFullRingKeepsItsReserveAndLosesNoFlag) {
  for (uint64_t page = 512; vcpu_->HandleEptViolation(Gpa(page * kPageSize), kWriteFault).outcome !=
                            FaultOutcome::kDirtyRingFull;) {
    ++page;
  }
  ASSERT_EQ(vcpu_->dirty_ring()->used(), 1024 - DirtyRing::kReservedEntries);
  Walk(GuestAccess::Write());
  ASSERT_TRUE(status_.ok()) << status_;
  EXPECT_EQ(vcpu_->dirty_ring()->used(), 1024 - DirtyRing::kReservedEntries);
  std::vector<uint64_t> pages = Harvest();
  std::erase_if(pages, [](uint64_t page) { return page >= 512; });
  EXPECT_THAT(pages, ElementsAre(64, 128, 192, 256));
}

TEST_F(GuestWindowTest, AfterTheHostMovedAPageTheOldOneIsNotRead) {
  Walk();
  std::memcpy(ram_.get() + kSize, ram_.get(), kSize);
  Set(kSize + kLeaf, 0x77000 | kTable);
  host_.offset = kSize;
  ASSERT_TRUE(vm_->InvalidateHostRange(Hva(reinterpret_cast<uintptr_t>(ram_.get())), kSize).ok());
  EXPECT_EQ(Walk().gpa, Gpa(0x77678));
}

TEST_F(GuestWindowTest, WhileAPageIsBeingTakenAwayTheAnswerIsToTryAgain) {
  Walk();
  const Hva leaf(reinterpret_cast<uintptr_t>(ram_.get()) + TableAt(1));
  ASSERT_TRUE(vm_->BeginHostInvalidation(leaf, kPageSize).ok());
  Walk();
  EXPECT_TRUE(absl::IsUnavailable(status_)) << status_;
  vm_->EndHostInvalidation();
  EXPECT_EQ(Walk().outcome, GuestWalkOutcome::kMapped);
}

// While any page is being taken away no table counts as quiet, least of all one that was never
// read.
TEST_F(GuestWindowTest, WhileAnotherPageIsBeingTakenAwayTablesAreReadForTheFirstTime) {
  const Hva other(reinterpret_cast<uintptr_t>(ram_.get()) + kSize - kPageSize);
  ASSERT_TRUE(vm_->BeginHostInvalidation(other, kPageSize).ok());
  EXPECT_EQ(Walk().gpa, Gpa(0x123678));
  EXPECT_TRUE(status_.ok()) << status_;
  vm_->EndHostInvalidation();
}

TEST_F(GuestWindowTest, HostErrorsReachTheCaller) {
  TestHost refusing;
  refusing.answer = absl::PermissionDeniedError("no");
  auto vm = *Vm::Create(refusing, {});
  auto vcpu = *vm->CreateVcpu();
  ASSERT_TRUE(vm->SetMemoryRegion({.size = kSize, .hva = Hva(0x1000)}).ok());
  GuestWalk walk;
  EXPECT_TRUE(absl::IsPermissionDenied(
      vcpu->WalkGuest(paging_, roots_, Gva(0), GuestAccess::Read(), walk)));
}

TEST_F(GuestWindowTest, AVcpuInTheGuestIsRefused) {
  const GuestEntry entry = vcpu_->EnterGuest();
  Walk();
  EXPECT_TRUE(absl::IsFailedPrecondition(status_)) << status_;
}

}  // namespace
}  // namespace tdp
