// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/reverse_mapped/reverse_mapped_mmu.h"

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/vm.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Hva kRam{0x7f0000000000};

class ReverseMapTest : public HostTest {
 protected:
  void Start(VmOptions options = {}) {
    options.reverse_map = true;
    HostTest::Start(options);
  }

  absl::Status SetRam(Gpa gpa, ByteCount size, uint32_t flags = 0, Hva hva = kRam) {
    return vm_->SetMemoryRegion({.flags = flags, .gpa = gpa, .size = size, .hva = hva});
  }
  bool IsWritable(Gpa gpa) { return vm_->Translate(gpa)->access.can_write(); }
  std::set<uint64_t> TakeDirty() { return TakenPages(*vm_); }
};

TEST_F(ReverseMapTest, EveryLeafIsInItAsLongAsItStands) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(8)).ok());
  for (uint64_t page = 0; page < 2048; page += 3) {
    EXPECT_EQ(Fault(Gpa(page * kPageSize)), FaultOutcome::kFixed);
  }
  ASSERT_TRUE(vm_->CheckInvariants().ok()) << vm_->CheckInvariants();
  vm_->ZapRange(Gfn(100), PageCount(1000))->Settle();
  ASSERT_TRUE(vm_->CheckInvariants().ok()) << vm_->CheckInvariants();
  EXPECT_EQ(LevelOf(Gpa(99 * kPageSize)), 1);
  EXPECT_EQ(LevelOf(Gpa(102 * kPageSize)), 0);
  EXPECT_EQ(Fault(Gpa(102 * kPageSize)), FaultOutcome::kFixed);
}

TEST_F(ReverseMapTest, AHostRangeIsFoundThroughIt) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  Fault(Gpa(0x3000));
  Fault(Gpa(0x4000));
  ASSERT_TRUE(vm_->InvalidateHostRange(kRam + 0x3000, KiB(4)).ok());
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 0);
  EXPECT_EQ(LevelOf(Gpa(0x4000)), 1);
}

TEST_F(ReverseMapTest, EachAddressSpaceHasItsOwn) {
  Start({.address_spaces = 2});
  for (AddressSpaceId space = 0; space < 2; ++space) {
    ASSERT_TRUE(
        vm_->SetMemoryRegion({.address_space = space, .size = MiB(2), .hva = kRam + MiB(2) * space})
            .ok());
  }
  ASSERT_TRUE(vcpu_->SetAddressSpace(1).ok());
  for (const uint64_t page : {3, 4, 5}) {
    ASSERT_EQ(Fault(Gpa(page * kPageSize)), FaultOutcome::kFixed);
  }
  EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
  vm_->ZapRange(Gfn(3), PageCount(1), 1)->Settle();
  EXPECT_FALSE(IsMapped(Gpa(0x3000)));
  ASSERT_TRUE(vm_->InvalidateHostRange(kRam + MiB(2) + 0x4000, kPageSize).ok());
  EXPECT_FALSE(IsMapped(Gpa(0x4000)));
  EXPECT_TRUE(IsMapped(Gpa(0x5000)));
}

TEST_F(ReverseMapTest, TheTypesOfTheGuestCountForAPageBesideTheLastOneToo) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  ASSERT_EQ(vm_->SetMemoryTypes({.non_coherent_dma = true}), absl::OkStatus());
  for (uint64_t gpa = 0; gpa < 4 * kPageSize; gpa += kPageSize) {
    EXPECT_EQ(Fault(Gpa(gpa)), FaultOutcome::kFixed);
    EXPECT_EQ(EntryAt(Gpa(gpa)).memory_type(), MemoryType::kUncacheable) << gpa;
  }
}

TEST_F(ReverseMapTest, PartOfALargeLeafTakesAllOfItAway) {
  host_.order = 9;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  Fault(Gpa(0));
  ASSERT_EQ(LevelOf(Gpa(0)), 2);
  vm_->ZapRange(Gfn(5), PageCount(1))->Settle();
  EXPECT_EQ(LevelOf(Gpa(0)), 0);
}

TEST_F(ReverseMapTest, NoPartOfALargeLeafTakesNothingAway) {
  host_.order = 9;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  Fault(Gpa(0));
  vm_->ZapRange(Gfn(5), PageCount(0))->Settle();
  EXPECT_EQ(LevelOf(Gpa(0)), 2);
}

TEST_F(ReverseMapTest, ALoggedWriteUnderALargeLeafDropsIt) {
  host_.order = 9;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4)).ok());
  Fault(Gpa(0));
  Fault(Gpa(MiB(2)));
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4), kSlotLogDirtyPages).ok());
  EXPECT_EQ(LevelOf(Gpa(0)), 2);
  EXPECT_FALSE(IsWritable(Gpa(0)));
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 1);
  EXPECT_EQ(LevelOf(Gpa(0x4000)), 0) << "it comes back with its next fault";
  EXPECT_EQ(LevelOf(Gpa(MiB(2))), 2);
  EXPECT_THAT(TakeDirty(), ElementsAre(3));
}

// Regression: the leaf went, and then the tables turned out to be missing, so that the answer was
// an error and the page was mapped no more.
TEST(ReverseMappedMmu, WithoutTablesALargeLeafStaysWhereASmallerOneIsWanted) {
  MinimalBackend host;
  MmuLock lock;
  const MmuWriteSection section(lock);  // nobody else is there
  TablePool pool(host, 100, EptEntry::Empty());
  TableCache stock(pool);
  TableCache nothing(pool);
  ASSERT_TRUE(stock.Refill().ok());
  DirectMmu mmu(DirectMmuOptions(), pool, stock.Pop());
  ReverseMappedMmu mapped(mmu);
  const auto rmap = *ReverseMappedMmu::MakeRmap({.base = Gfn(0), .pages = kLevel2M.pages()});
  ASSERT_TRUE(rmap->Prepare(Gfn(0)).ok());
  mapped.SetRmap(0, rmap);
  const auto leaf = [](Gfn gfn, Access access) {
    return EptEntry::Leaf(Hfn(gfn.raw()), kLevel4K, access, MemoryType::kWriteBack);
  };
  LeafMemo memo;
  const LeafRequest large{Gfn(0), kLevel2M, Access::Read(), leaf(Gfn(0), Access::Read())};
  ASSERT_EQ(mapped.Map(large, *rmap, memo, stock).outcome(), MapOutcome::kInstalled);

  const LeafRequest small{Gfn(3), kLevel4K, Access::Write(), leaf(Gfn(3), Access::All())};
  EXPECT_EQ(mapped.Map(small, *rmap, memo, nothing).outcome(), MapOutcome::kNeedsTables);
  EXPECT_EQ(mmu.Walk(Gfn(3)).level, kLevel2M);
  EXPECT_TRUE(mmu.Walk(Gfn(3)).is_mapped());
  EXPECT_EQ(mapped.Map(small, *rmap, memo, stock).outcome(), MapOutcome::kInstalled);
  EXPECT_EQ(mmu.Walk(Gfn(3)).level, kLevel4K);
  EXPECT_TRUE(mapped.CheckInvariants().ok());

  TableList tables;
  mmu.ForEach([&](TablePage*, int, EptEntry entry, Level level) {
    if (entry.kind(level) == EntryKind::kTable) {
      tables.Push(TablePage::Of(pool.EntriesOf(entry.address())));
    }
  });
  mapped.ForgetAll();
  tables.Push(mmu.TakeRoot());
  pool.Return(std::move(tables));
}

TEST_F(ReverseMapTest, TakingTheLogProtectsWhatWasWritten) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4), kSlotLogDirtyPages).ok());
  for (const uint64_t page : {1, 2, 700}) Fault(Gpa(page * kPageSize));
  Fault(Gpa(0x5000), kReadFault);
  EXPECT_THAT(TakeDirty(), ElementsAre(1, 2, 700));
  EXPECT_FALSE(IsWritable(Gpa(0x1000)));
  EXPECT_THAT(TakeDirty(), IsEmpty());
  const auto again = ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true);
  EXPECT_EQ(Fault(Gpa(0x1000), again), FaultOutcome::kFixed);
  EXPECT_THAT(TakeDirty(), ElementsAre(1));
}

TEST_F(ReverseMapTest, ASlotThatMovesTakesNothingAlong) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  Fault(Gpa(0x1000));
  ASSERT_TRUE(SetRam(Gpa(GiB(1)), MiB(2)).ok());
  EXPECT_EQ(LevelOf(Gpa(0x1000)), 0);
  EXPECT_EQ(Fault(Gpa(GiB(1) + 0x1000)), FaultOutcome::kFixed);
  ASSERT_TRUE(SetRam(Gpa(GiB(1)), 0).ok());
  ASSERT_TRUE(SetRam(Gpa(0), MiB(4), 0, kRam + MiB(64)).ok());
  EXPECT_EQ(Fault(Gpa(MiB(3))), FaultOutcome::kFixed);
}

TEST_F(ReverseMapTest, ZapAllForgetsEverything) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), GiB(1)).ok());
  for (uint64_t i = 0; i < 100; ++i) Fault(Gpa(i * MiB(2)));
  vm_->ZapAll()->Settle();
  ASSERT_TRUE(vm_->CheckInvariants().ok()) << vm_->CheckInvariants();
  for (uint64_t i = 0; i < 100; ++i) EXPECT_EQ(Fault(Gpa(i * MiB(2))), FaultOutcome::kFixed);
}

TEST_F(ReverseMapTest, AFrameThatTheHostChangedIsReplaced) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  Fault(Gpa(0x1000));
  host_.offset = MiB(64);
  EXPECT_EQ(Fault(Gpa(0x2000)), FaultOutcome::kFixed);
  ASSERT_TRUE(vm_->InvalidateHostRange(kRam + 0x1000, KiB(4)).ok());
  EXPECT_EQ(Fault(Gpa(0x1000)), FaultOutcome::kFixed);
  EXPECT_EQ(vm_->Translate(Gpa(0x1000))->FrameOf(Gfn(1)),
            Hfn((kRam.raw() + MiB(64) + 0x1000) >> kPageShift));
}

TEST_F(ReverseMapTest, EveryBudgetOfTablesIsAllOrNothing) {
  for (size_t quota = 1; quota < 12; ++quota) {
    Start({.table_quota = quota});
    ASSERT_TRUE(SetRam(Gpa(0), GiB(4)).ok());
    for (uint64_t i = 0; i < 4; ++i) {
      const Gpa gpa(i * GiB(1));
      const FaultResult result = vcpu_->HandleEptViolation(gpa, kWriteFault);
      EXPECT_EQ(result.outcome, LevelOf(gpa) != 0 ? FaultOutcome::kFixed : FaultOutcome::kError);
    }
    ASSERT_TRUE(vm_->CheckInvariants().ok()) << vm_->CheckInvariants();
    vcpu_ = nullptr;
  }
}

TEST_F(ReverseMapTest, FaultsOfTwoVcpusAndZapsAgree) {
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(64)).ok());
  auto other = *vm_->CreateVcpu();
  const auto fault = [](Vcpu& vcpu) {
    for (uint64_t i = 0; i < 20000; ++i) {
      const FaultResult result =
          vcpu.HandleEptViolation(Gpa(i * 7 % 16384 * kPageSize), kWriteFault);
      ASSERT_NE(result.outcome, FaultOutcome::kError) << result.status;
    }
  };
  std::thread thread(fault, std::ref(*other));
  for (int i = 0; i < 50; ++i)
    vm_->ZapRange(Gfn(static_cast<uint64_t>(i) * 300), PageCount(700))->Settle();
  fault(*vcpu_);
  thread.join();
}

// The fault that dropped a large leaf has not flushed yet: its other pages are in no entry, but in
// a CPU.
TEST_F(ReverseMapTest, AnInvalidationBesideADroppedLeafWaitsForTheCpusToo) {
  host_.order = 9;
  Start();
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2)).ok());
  Fault(Gpa(0));
  ASSERT_TRUE(SetRam(Gpa(0), MiB(2), kSlotLogDirtyPages).ok());
  auto in_guest = *vm_->CreateVcpu();
  std::optional<GuestEntry> entry = in_guest->EnterGuest();
  std::thread fault([this] { EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed); });
  while (host_.kicks.load() < 1) std::this_thread::yield();  // it waits for the other vCPU
  ASSERT_EQ(LevelOf(Gpa(0x4000)), 0);
  std::atomic<bool> done{false};
  std::thread invalidation([&] {
    EXPECT_TRUE(vm_->InvalidateHostRange(kRam + 0x4000, KiB(4)).ok());
    done.store(true);
  });
  while (host_.kicks.load() < 2 && !done.load()) std::this_thread::yield();
  EXPECT_FALSE(done.load());
  entry.reset();
  fault.join();
  invalidation.join();
}

TEST(ReverseMap, GoesWithWriteProtectionAlone) {
  MinimalBackend backend;
  const auto vm =
      Vm::Create(backend, {.dirty_tracking = DirtyTracking::kDirtyBits, .reverse_map = true});
  EXPECT_TRUE(absl::IsInvalidArgument(vm.status()));
  EXPECT_THAT(std::string(vm.status().message()), HasSubstr("dirty_tracking"));
}

}  // namespace
}  // namespace tdp
