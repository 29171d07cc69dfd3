// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The paging of these guests is shadowed over slots that name host frames: their memory, their
// tables and their devices.

#include <cstdint>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/shadow_fault.h"

namespace tdp::shadow_test {
namespace {

using ::testing::ElementsAre;

// All of the guest's memory is one slot of host frames; the reference beside it has the same memory
// by its addresses.
class ShadowFrames : public ShadowFault {
 protected:
  void SetUp() override {
    MachineOptions options;
    options.ram = MiB(2);
    options.host_order = 9;
    Start(options);
    frames_ = {.size = MiB(2), .hpa = Hpa(machine_->HpaOf(Gpa(0)))};
    ASSERT_EQ(machine_->vm().SetMemoryRegion({.slot = 0}), absl::OkStatus());
    SetFrames(0);
  }
  void SetFrames(uint32_t flags) {
    frames_.flags = kSlotHostFrames | flags;
    ASSERT_EQ(machine_->vm().SetMemoryRegion(frames_), absl::OkStatus());
  }

  MemoryRegion frames_;
};

TEST_F(ShadowFrames, TheGuestReachesTheFramesThatAreNamedAndAAndDAreSetInThem) {
  Table(4, 0x10, 0x10007);
  Table(4, 0x11, 0x11007);
  ExpectSame(0x10123);
  EXPECT_EQ(EntryAt(4, 0x10), 0x10027u) << "a read sets A";
  ExpectSame(0x11123, kStore);
  EXPECT_EQ(EntryAt(4, 0x11), 0x11067u) << "a write sets A and D";
  for (uint64_t page = 0x10; page < 0x18; ++page) ExpectSame(page << kPageShift, kStore);
  EXPECT_EQ(machine_->Access({Gva(0x40000)}).what, Seen::What::kPageFault);
}

TEST_F(ShadowFrames, AWriteToATableIsFollowed) {
  ExpectSame(0x10000);
  ASSERT_EQ(machine_->Store(Gva(0x4000 + 0x10 * 8), 0x20000 | kAll).what, Seen::What::kMemory);
  machine_->Invlpg(Gva(0x10000));
  EXPECT_EQ(machine_->Access({Gva(0x10000)}).value, machine_->HpaOf(Gpa(0x20000)));
  // The page of an upper table stays tracked: the write is given back, and emulated.
  Table(4, 0x21, 0x1000 | kAll);
  ASSERT_EQ(machine_->Store(Gva(0x21000), 0).what, Seen::What::kMemory);
  EXPECT_TRUE(machine_->wants_emulation());
  EXPECT_EQ(machine_->Access({Gva(0x10000)}).what, Seen::What::kPageFault) << "the root is empty";
}

TEST_F(ShadowFrames, WritesAreLoggedOnceForEachTakeAndTheFlagsOfTablesToo) {
  for (uint64_t page = 0x10; page < 0x20; ++page) ExpectSame(page << kPageShift, kStore);
  SetFrames(kSlotLogDirtyPages);
  ExpectSame(0x10000);
  EXPECT_THAT(TakeDirty(), ElementsAre());
  ExpectSame(0x11000, kStore);
  ExpectSame(0x13000, kStore);
  EXPECT_THAT(TakeDirty(), ElementsAre(0x11, 0x13));
  Table(4, 0x14, 0x14007);
  machine_->Invlpg(Gva(0x14000));
  ExpectSame(0x14000, kStore);
  EXPECT_THAT(TakeDirty(), ElementsAre(4, 0x14)) << "A and D went to the table of leaves";
  SetFrames(0);
  ExpectSame(0x15000, kStore);
}

TEST_F(ShadowFrames, AReadOnlySlotMakesWritesMmioAndItsTablesGetNoFlags) {
  ASSERT_EQ(machine_->vm().SetMemoryRegion({.slot = 0}), absl::OkStatus());
  Table(4, 0x10, 0x10007);
  SetFrames(kSlotReadOnly);
  EXPECT_EQ(machine_->Access({Gva(0x10008)}).value, machine_->HpaOf(Gpa(0x10008)));
  EXPECT_EQ(EntryAt(4, 0x10), 0x10007u);
  EXPECT_EQ(machine_->Access({Gva(0x11000), kStore}).what, Seen::What::kMmio);
}

// The guest's PAT and the CPU's are not obeyed, so no other type of caching can be given.
TEST_F(ShadowFrames, WhatIsNotOrdinaryMemoryIsUncachedWhateverItsType) {
  Table(4, 0x30, 0x300000 | kAll);
  for (const MemoryType type :
       {MemoryType::kUncacheable, MemoryType::kWriteCombining, MemoryType::kWriteThrough,
        MemoryType::kWriteProtected, MemoryType::kWriteBack}) {
    MemoryRegion device{.slot = 1,
                        .flags = kSlotHostFrames,
                        .gpa = Gpa(0x300000),
                        .size = kPageSize,
                        .hpa = Hpa(0x20000000)};
    device.memory_type = type;
    ASSERT_EQ(machine_->vm().SetMemoryRegion(device), absl::OkStatus());
    ASSERT_EQ(machine_->Access({Gva(0x30000)}).value, 0x20000000u);
    EXPECT_EQ(machine_->cpu().ProbeLinear(Gva(0x30000)).memory_type,
              type == MemoryType::kWriteBack ? type : MemoryType::kUncacheable)
        << "type " << static_cast<int>(type);
    ASSERT_EQ(machine_->vm().SetMemoryRegion({.slot = 1}), absl::OkStatus());
  }
}

}  // namespace
}  // namespace tdp::shadow_test
