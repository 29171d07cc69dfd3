// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two guest frames have one host frame behind them: two slots show the same memory, or the host has
// merged equal pages. A guest moves an entry from one to the other and tells nobody yet.

#include <cstdint>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/nested_world.h"
#include "tests/mmu/shadow/shadow_fault.h"
#include "tests/world/dirty_logs.h"

namespace tdp::shadow_test {
namespace {

using ::testing::Contains;

constexpr uint64_t kAlias = GiB(1);  // there the second slot begins
constexpr uint64_t kClean = 0x27;    // present, writable, user, A: the write that sets D will fault

class ShadowAlias : public ShadowFault {
 protected:
  // The guest reads its page at 0x10000, then moves the entry to the other slot, in a table that is
  // out of sync, and writes: the shadow has a leaf of the same host frame already.
  void MoveToTheOtherSlot() {
    Start();
    ASSERT_EQ(machine_->SetRam(1, Gpa(kAlias), MiB(2), Machine::kRam), absl::OkStatus());
    Table(4, 0x10, 0x10000 | kClean);
    ExpectSame(0x10000);
    ASSERT_EQ(machine_->Store(Gva(0x4000 + 0x10 * 8), (kAlias + 0x10000) | kClean).what, kMemory);
    ASSERT_FALSE(machine_->wants_emulation());
    ASSERT_EQ(Access(0x10000, kStore).what, kMemory);
    ASSERT_EQ(machine_->vm().CheckInvariants(), absl::OkStatus());
  }
};

TEST_F(ShadowAlias, AnEntryThatMovesBetweenFramesOfOneHostPageGoesWithItsNewSlot) {
  MoveToTheOtherSlot();
  ASSERT_EQ(machine_->vm().SetMemoryRegion({.slot = 1}), absl::OkStatus());
  EXPECT_EQ(Access(0x10000).what, Seen::What::kMmio) << "nothing is there any more";
}

TEST_F(ShadowAlias, ItStaysWhereItsOldSlotGoes) {
  MoveToTheOtherSlot();
  ASSERT_EQ(machine_->vm().SetMemoryRegion({.slot = 0}), absl::OkStatus());
  ASSERT_EQ(machine_->SetRam(0, Gpa(0), MiB(16), Machine::kRam), absl::OkStatus());
  machine_->Invlpg(Gva(0x10000));
  ExpectSame(0x10000, kStore);
}

TEST_F(ShadowAlias, ItIsLoggedInItsNewSlot) {
  MoveToTheOtherSlot();
  ASSERT_EQ(machine_->SetRam(1, Gpa(kAlias), MiB(2), Machine::kRam, kSlotLogDirtyPages),
            absl::OkStatus());
  ASSERT_EQ(Access(0x10000, kStore).what, kMemory);
  EXPECT_THAT(TakenPages(machine_->vm(), 1), Contains(0x10));
}

// L1 does the same in EPT12: its entry was clean, so the write of L2 faults.
TEST(NestedAlias, AnEntryThatMovesBetweenFramesOfOneHostPageGoesWithItsNewSlot) {
  NestedWorld world;
  world.AddHighAlias();
  world.Map(0x10000, 0x400000);
  ASSERT_EQ(world.Access(0x10000, kLoad).what, Nested::What::kMemory);
  world.Map(0x10000, NestedWorld::kHighAlias + 0x400000);
  ASSERT_EQ(world.Access(0x10000, kStore).what, Nested::What::kMemory);
  ASSERT_EQ(world.vm().CheckInvariants(), absl::OkStatus());
  ASSERT_EQ(world.vm().SetMemoryRegion({.slot = 1}), absl::OkStatus());
  EXPECT_EQ(world.Access(0x10000, kLoad).what, Nested::What::kMmio);
  EXPECT_EQ(world.vm().CheckInvariants(), absl::OkStatus());
}

}  // namespace
}  // namespace tdp::shadow_test
