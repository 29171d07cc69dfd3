// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// KVM's calls for dirty logs and rings act on a `Vm` here.

#include <cstdint>
#include <memory>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/engine/vcpu_set.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr uint64_t kPages = 4096;

class DirtyRings : public HostTest {
 protected:
  void Start(DirtyTracking tracking = DirtyTracking::kWriteProtection) {
    HostTest::Start({.dirty_tracking = tracking}, false);
  }
  void AddSlot() {
    MemoryRegion region;
    region.slot = 3;
    region.flags = kSlotLogDirtyPages;
    region.gpa = Gpa(MiB(2));
    region.size = kPages * kPageSize;
    region.hva = Hva(0x7f0000000000);
    ASSERT_TRUE(vm_->SetMemoryRegion(region).ok());
  }
  void StartWithRings() {
    Start();
    ASSERT_TRUE(vm_->EnableDirtyRing(1024).ok());
    AddSlot();
  }
  static FaultOutcome Write(Vcpu& vcpu, uint64_t page) {
    return vcpu.HandleEptViolation(Gpa(MiB(2)) + page * kPageSize, kWriteFault).outcome;
  }
  // Returns the pages of slot 3 that all rings together show.
  std::set<uint64_t> Harvest() {
    std::set<uint64_t> pages;
    EXPECT_TRUE(vm_->HarvestDirtyRings([&](const DirtyRingEntry& entry) {
                     EXPECT_EQ(entry.slot, 3u);
                     pages.insert(entry.index);
                   })
                    .ok());
    return pages;
  }
  bool IsWritable(uint64_t page) {
    const auto found = vm_->Translate(Gpa(MiB(2)) + page * kPageSize);
    return found.ok() && found->access.can_write();
  }
};

TEST_F(DirtyRings, AreSetOnceAndBeforeTheFirstVcpu) {
  Start();
  EXPECT_EQ(vm_->EnableDirtyRing(1000).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(vm_->EnableDirtyRing(1 << 20).code(), absl::StatusCode::kOutOfRange);
  EXPECT_TRUE(vm_->EnableDirtyRing(1024).ok());
  EXPECT_EQ(vm_->EnableDirtyRing(1024).code(), absl::StatusCode::kInvalidArgument);
  Start();
  const auto vcpu = vm_->CreateVcpu();
  ASSERT_TRUE(vcpu.ok());
  EXPECT_EQ((*vcpu)->dirty_ring(), nullptr);
  EXPECT_EQ(vm_->EnableDirtyRing(1024).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DirtyRings, NeedWriteProtection) {
  Start(DirtyTracking::kDirtyBits);
  EXPECT_EQ(vm_->EnableDirtyRing(1024).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(DirtyRings, AreAFailedPreconditionWhereTheGuestsPagingIsShadowed) {
  HostTest::Start({.paging = Paging::kShadow}, false);
  const absl::Status refused = vm_->EnableDirtyRing(1024);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
}

TEST_F(DirtyRings, TakeThePlaceOfBitmaps) {
  StartWithRings();
  EXPECT_EQ(vm_->GetDirtyLog(3, [](uint64_t, uint64_t) {}).code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST_F(DirtyRings, APageIsPushedOnceUntilItsEntryIsReset) {
  StartWithRings();
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  ASSERT_EQ(Write(*vcpu, 700), FaultOutcome::kFixed);
  std::vector<DirtyRingEntry> entries(10);
  ASSERT_EQ(vcpu->dirty_ring()->Harvest(absl::MakeSpan(entries)), 2u);
  EXPECT_EQ(entries[0], (DirtyRingEntry{0, 3, 5}));
  EXPECT_EQ(entries[1], (DirtyRingEntry{0, 3, 700}));
  EXPECT_TRUE(IsWritable(5));
  EXPECT_EQ(vm_->ResetDirtyRings(), 2u);
  EXPECT_FALSE(IsWritable(5));
  EXPECT_FALSE(IsWritable(700));
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  EXPECT_EQ(vcpu->dirty_ring()->Harvest(absl::MakeSpan(entries)), 1u);
}

TEST_F(DirtyRings, ANearlyFullRingStopsWritesUntilItIsReset) {
  StartWithRings();
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  uint64_t page = 0;
  while (Write(*vcpu, page) == FaultOutcome::kFixed) ++page;
  EXPECT_EQ(page, 1024 - DirtyRing::kReservedEntries);
  EXPECT_EQ(Write(*vcpu, page), FaultOutcome::kDirtyRingFull);
  std::vector<DirtyRingEntry> entries(1024);
  EXPECT_EQ(vcpu->dirty_ring()->Harvest(absl::MakeSpan(entries)), page);
  EXPECT_EQ(vm_->ResetDirtyRings(), page);
  EXPECT_EQ(Write(*vcpu, page), FaultOutcome::kFixed);
}

TEST_F(DirtyRings, AnEntryOfASlotThatIsGoneIsResetAllTheSame) {
  StartWithRings();
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 3}).ok());
  std::vector<DirtyRingEntry> entries(10);
  ASSERT_EQ(vcpu->dirty_ring()->Harvest(absl::MakeSpan(entries)), 1u);
  EXPECT_EQ(vm_->ResetDirtyRings(), 1u);
}

TEST_F(DirtyRings, StayWhateverIsSaidOfBitmaps) {
  StartWithRings();
  ASSERT_TRUE(vm_->SetManualDirtyLogProtect(kDirtyLogManualProtect | kDirtyLogInitiallySet).ok());
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  EXPECT_EQ(Harvest(), std::set<uint64_t>{5});
}

TEST_F(DirtyRings, AResetProtectsNothingOfASlotThatLogsNoMore) {
  StartWithRings();
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  ASSERT_EQ(Harvest(), std::set<uint64_t>{5});
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 3,
                                    .gpa = Gpa(MiB(2)),
                                    .size = kPages * kPageSize,
                                    .hva = Hva(0x7f0000000000)})
                  .ok());
  Write(*vcpu, 5);
  ASSERT_TRUE(IsWritable(5));
  EXPECT_EQ(vm_->ResetDirtyRings(), 1u);
  EXPECT_TRUE(IsWritable(5));
}

TEST_F(DirtyRings, PagesOfSmmThatTheVmmHasMarkedAreHarvestedToo) {
  HostTest::Start({.dirty_tracking = DirtyTracking::kWriteProtection, .address_spaces = 2},
                  /*with_vcpu=*/false);
  ASSERT_TRUE(vm_->EnableDirtyRing(1024).ok());
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 3,
                                    .address_space = 1,
                                    .flags = kSlotLogDirtyPages,
                                    .size = MiB(2),
                                    .hva = Hva(0x7f0000000000)})
                  .ok());
  ASSERT_TRUE(vm_->MarkDirty(Gpa(0x7000), 1, 1).ok());
  EXPECT_EQ(Harvest(), std::set<uint64_t>{7});
}

// The entries are of pages that the slot of that number has no more: others stand there.
TEST_F(DirtyRings, AResetLeavesWhatLiesBehindASlotThatHasBecomeSmaller) {
  StartWithRings();
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  const std::set<uint64_t> written{70, 75, 200};
  for (const uint64_t page : written) ASSERT_EQ(Write(*vcpu, page), FaultOutcome::kFixed);
  ASSERT_EQ(Harvest(), written);
  constexpr ByteCount kLeft = 72 * kPageSize;
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 3}).ok());
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 3,
                                    .flags = kSlotLogDirtyPages,
                                    .gpa = Gpa(MiB(2)),
                                    .size = kLeft,
                                    .hva = Hva(0x7f0000000000)})
                  .ok());
  ASSERT_TRUE(
      vm_->SetMemoryRegion(
             {.slot = 4, .gpa = Gpa(MiB(2) + kLeft), .size = MiB(2), .hva = Hva(0x7f0000000000)})
          .ok());
  for (const uint64_t page : written) ASSERT_EQ(Write(*vcpu, page), FaultOutcome::kFixed);
  EXPECT_GE(vm_->ResetDirtyRings(), 3u);
  EXPECT_TRUE(IsWritable(75) && IsWritable(200)) << "of slot 4";
}

TEST_F(DirtyRings, TheCallsForBitmapsAreRefusedAsSuch) {
  StartWithRings();
  const auto ignore = [](uint64_t, uint64_t) {};
  const std::vector<uint64_t> bits(1, ~uint64_t{0});
  for (const absl::Status& refused :
       {vm_->TakeDirtyLog(3, ignore), vm_->GetDirtyLog(3, ignore),
        vm_->ClearDirtyLog(3, {0, 64}, bits), vm_->TakeDirtyLog(9, ignore)}) {
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(refused.message(), testing::HasSubstr("rings"));
  }
}

TEST_F(DirtyRings, AreRefusedWhileASlotLogsIntoABitmap) {
  Start();
  AddSlot();
  const absl::Status refused = vm_->EnableDirtyRing(1024);
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), testing::HasSubstr("slot 3 of address space 0"));
  EXPECT_TRUE(vm_->TakeDirtyLog(3, [](uint64_t, uint64_t) {}).ok()) << "nothing has changed";
  EXPECT_EQ(vm_->HarvestDirtyRings([](const DirtyRingEntry&) {}).code(),
            absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 3}).ok());
  EXPECT_TRUE(vm_->EnableDirtyRing(1024).ok());
}

TEST_F(DirtyRings, AreRefusedWhileASlotOfSmmLogsIntoABitmap) {
  HostTest::Start({.dirty_tracking = DirtyTracking::kWriteProtection, .address_spaces = 2},
                  /*with_vcpu=*/false);
  MemoryRegion smram{
      .address_space = 1, .flags = kSlotLogDirtyPages, .size = MiB(2), .hva = Hva(0x7f0000000000)};
  ASSERT_TRUE(vm_->SetMemoryRegion(smram).ok());
  const absl::Status refused = vm_->EnableDirtyRing(1024);
  EXPECT_THAT(refused.message(), testing::HasSubstr("slot 0 of address space 1"));
  smram.flags = 0;
  ASSERT_TRUE(vm_->SetMemoryRegion(smram).ok());
  EXPECT_TRUE(vm_->EnableDirtyRing(1024).ok());
}

TEST_F(DirtyRings, WhatAVcpuLeavesStaysToBeHarvestedAndReset) {
  StartWithRings();
  std::vector<DirtyRingEntry> one(1);
  {
    const std::unique_ptr<Vcpu> first = *vm_->CreateVcpu();
    const std::unique_ptr<Vcpu> second = *vm_->CreateVcpu();
    ASSERT_EQ(Write(*first, 5), FaultOutcome::kFixed);
    ASSERT_EQ(Write(*first, 6), FaultOutcome::kFixed);
    ASSERT_EQ(Write(*second, 7), FaultOutcome::kFixed);
    ASSERT_EQ(first->dirty_ring()->Harvest(absl::MakeSpan(one)), 1u);
  }
  EXPECT_EQ(Harvest(), (std::set<uint64_t>{6, 7}));
  EXPECT_EQ(vm_->ResetDirtyRings(), 3u) << "page 5 was harvested before its vCPU went";
  for (const uint64_t page : {5, 6, 7}) EXPECT_FALSE(IsWritable(page));
  EXPECT_TRUE(Harvest().empty());
  EXPECT_EQ(vm_->ResetDirtyRings(), 0u);
}

TEST_F(DirtyRings, ANewVcpuTakesARingOverWithItsEntries) {
  StartWithRings();
  for (uint64_t page = 0; page < 20; ++page) {
    const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
    EXPECT_EQ(vcpu->dirty_ring()->used(), page);
    ASSERT_EQ(Write(*vcpu, page), FaultOutcome::kFixed);
  }
  EXPECT_EQ(Harvest().size(), 20u);
  EXPECT_EQ(vm_->ResetDirtyRings(), 20u);
  EXPECT_EQ((*vm_->CreateVcpu())->dirty_ring()->used(), 0u);
}

// The collector may come between the two halves of `Vm::CreateVcpu`.
TEST(VcpuSet, ARingThatAVcpuTakesOverIsHarvestedAndResetBeforeTheVcpuIsComplete) {
  VcpuSet vcpus;
  ASSERT_EQ(vcpus.EnableRings(1024), absl::OkStatus());
  const VcpuId gone = *vcpus.TakeId();
  std::unique_ptr<DirtyRing> left = *vcpus.TakeRing(gone);
  ASSERT_TRUE(left->Push({.slot = 3, .index = 5}));
  vcpus.Remove(gone, std::move(left), {});
  const VcpuId made = *vcpus.TakeId();
  std::unique_ptr<DirtyRing> taken = *vcpus.TakeRing(made);
  ASSERT_EQ(taken->used(), 1u);
  std::vector<DirtyRingEntry> entries(2);
  EXPECT_EQ(vcpus.HarvestRings(absl::MakeSpan(entries)), 1u);
  uint64_t reset = 0;
  vcpus.ForEachRing([&](DirtyRing& ring) { reset += ring.Reset([](auto&, uint64_t) {}); });
  EXPECT_EQ(reset, 1u);
  vcpus.Remove(made, std::move(taken), {});
}

TEST_F(DirtyRings, PagesMarkedByTheVmmAreHarvestedWithoutAVcpu) {
  StartWithRings();
  // These are more pages than all rings have room for.
  ASSERT_TRUE(vm_->MarkDirty(Gpa(MiB(2)), kPages * kPageSize).ok());
  EXPECT_EQ(Harvest().size(), kPages);
  EXPECT_TRUE(Harvest().empty());
  ASSERT_TRUE(vm_->MarkDirty(Gpa(MiB(2) + 9 * kPageSize), 1).ok());
  EXPECT_EQ(Harvest(), std::set<uint64_t>{9});
}

TEST_F(DirtyRings, APageMarkedWhileAVcpuMayWriteItIsProtectedByTheReset) {
  StartWithRings();
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  ASSERT_TRUE(vm_->MarkDirty(Gpa(MiB(2) + 5 * kPageSize), 8).ok());
  EXPECT_EQ(Harvest(), std::set<uint64_t>{5});
  EXPECT_EQ(vm_->ResetDirtyRings(), 1u);
  EXPECT_FALSE(IsWritable(5));
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  EXPECT_EQ(Harvest(), std::set<uint64_t>{5});
}

TEST_F(DirtyRings, ALogThatIsPushedDownGoesOnInTheRings) {
  StartWithRings();
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  ASSERT_TRUE(vm_->PushDownDirtyLog(3).ok());
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  EXPECT_EQ(Harvest(), std::set<uint64_t>{5});
  EXPECT_EQ(vm_->PushDownDirtyLog(4).code(), absl::StatusCode::kNotFound);
}

// An MMIO entry is W and X without R, so what is left of it without W would be executable.
TEST_F(DirtyRings, AResetLeavesEntriesThatRememberMmioAlone) {
  StartWithRings();
  const std::unique_ptr<Vcpu> vcpu = *vm_->CreateVcpu();
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kFixed);
  ASSERT_EQ(Write(*vcpu, 6), FaultOutcome::kFixed);
  ASSERT_EQ(Harvest().size(), 2u);
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 3}).ok());
  ASSERT_EQ(Write(*vcpu, 5), FaultOutcome::kMmio);
  AddSlot();
  // This write makes the table of the MMIO entry again, if it went.
  ASSERT_EQ(Write(*vcpu, 6), FaultOutcome::kFixed);
  ASSERT_EQ(vm_->ResetDirtyRings(), 2u);
  EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
  EXPECT_EQ(vcpu->HandleEptMisconfiguration(Gpa(MiB(2) + 5 * kPageSize)).outcome,
            FaultOutcome::kFixed)
      << "stale, and still an entry that remembers MMIO";
}

TEST_F(DirtyRings, ABitmapOfTooFewWordsIsRefused) {
  Start();
  AddSlot();
  const std::vector<uint64_t> bits(1, ~uint64_t{0});
  EXPECT_EQ(vm_->ClearDirtyLog(3, {0, 128}, bits).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(vm_->ClearDirtyLog(3, {0, 64}, bits).ok());
}

// The thread may have a vCPU in the guest, for which the one that harvests waits next.
TEST_F(DirtyRings, OtherThreadsNeedNotWaitForTheEndOfAHarvest) {
  StartWithRings();
  const auto vcpu = *vm_->CreateVcpu();
  ASSERT_EQ(Write(*vcpu, 0), FaultOutcome::kFixed);
  ASSERT_EQ(Write(*vcpu, 1), FaultOutcome::kFixed);
  std::set<uint64_t> pages;
  ASSERT_TRUE(vm_->HarvestDirtyRings([&](const DirtyRingEntry& entry) {
                   pages.insert(entry.index);
                   if (entry.index > 1) return;
                   std::thread([&] {
                     EXPECT_GE(vm_->Stats().faults.fixed, 2u);
                     const auto another = *vm_->CreateVcpu();  // comes and goes, with a ring
                     EXPECT_EQ(Write(*another, 7 + entry.index), FaultOutcome::kFixed);
                   }).join();
                   EXPECT_TRUE(vm_->MarkDirty(Gpa(MiB(2)) + 20 * kPageSize, 1).ok());
                 })
                  .ok());
  EXPECT_TRUE(pages.contains(0) && pages.contains(1) && pages.contains(20));
  pages.merge(Harvest());
  EXPECT_TRUE(pages.contains(7) && pages.contains(8));
}

// Where Abseil is built without NDEBUG it checks the order of mutexes as they are taken, and ends
// the process at the first cycle, whether or not two threads could meet in it.
TEST_F(DirtyRings, ANestedVmTakesItsMutexesInOneOrderToItsEnd) {
  HostTest::Start({.nested = true}, false);
  ASSERT_TRUE(vm_->EnableDirtyRing(1024).ok());
  AddSlot();
  {
    const auto vcpu = *vm_->CreateVcpu();
    ASSERT_EQ(Write(*vcpu, 0), FaultOutcome::kFixed);
    EXPECT_EQ(Harvest().size(), 1u);
    EXPECT_EQ(vm_->ResetDirtyRings(), 1u);
    vm_->ReleaseTableMemory();
  }
  ASSERT_EQ(vm_->CheckInvariants(), absl::OkStatus());
  vm_ = nullptr;
}

}  // namespace
}  // namespace tdp
