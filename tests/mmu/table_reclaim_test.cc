// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/cold_tables.h"

#include <bit>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr size_t kQuota =
    64;  // a root, two tables below it, a vCPU's stock, and 20 and more leaves

constexpr FaultOutcome kFixed = FaultOutcome::kFixed;

class TableReclaimTest : public HostTest {
 protected:
  void Start(VmOptions options = {}, uint32_t flags = 0) {
    if (options.table_quota == kQuotaByMemory) options.table_quota = kQuota;
    HostTest::Start(options);
    ASSERT_TRUE(
        vm_->SetMemoryRegion({.flags = flags, .gpa = Gpa(0), .size = GiB(64), .hva = kRam}).ok());
  }
  FaultResult Fault(uint64_t region) {
    return vcpu_->HandleEptViolation(Gpa(region * MiB(2)), kWriteFault);
  }
  bool IsMapped(uint64_t region) { return vm_->Translate(Gpa(region * MiB(2))).ok(); }
  // Returns the entry that points to the leaf table of the region.
  EntryRef LinkOf(uint64_t region) {
    const auto* leaf = EntryOf(*vm_, Gpa(region * MiB(2)));
    const Eptp eptp = vm_->eptp();
    auto* table = reinterpret_cast<uint64_t*>(eptp.root().raw());
    for (Level level = eptp.root_level();; level = level.below()) {
      const EntryRef entry(table + level.IndexOf(Gfn(region * 512)));
      table = reinterpret_cast<uint64_t*>(entry.Load().address().raw());
      if (table <= leaf && leaf < table + Level::kEntries) return entry;
    }
  }
};

TEST_F(TableReclaimTest, AGuestRunsInFewerTablesThanItTouches) {
  Start();
  for (uint64_t region = 0; region < 2000; ++region) {
    const FaultResult result = Fault(region);
    ASSERT_EQ(result.outcome, FaultOutcome::kFixed) << region << " " << result.status;
    ASSERT_TRUE(IsMapped(region));
    ASSERT_LE(vm_->Stats().tables_in_use, kQuota);
  }
  EXPECT_GT(vm_->Stats().table_reclaims, 0u);
}

TEST_F(TableReclaimTest, StocksOfOtherVcpusLeaveEachFaultItsTables) {
  Start();
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  for (uint64_t i = 0; i < 6; ++i) {
    vcpus.push_back(*vm_->CreateVcpu());
    const FaultResult result = vcpus.back()->HandleEptViolation(Gpa(i * GiB(1)), kWriteFault);
    EXPECT_EQ(result.outcome, kFixed) << "vCPU " << i << ": " << result.status;
  }
  EXPECT_LE(vm_->Stats().tables_in_use, kQuota);
}

TEST_F(TableReclaimTest, ATableThatIsUsedStaysAndOneThatIsNotGoes) {
  Start();
  for (uint64_t region = 0; region < 500; ++region) {
    ASSERT_EQ(Fault(region).outcome, FaultOutcome::kFixed);
    LinkOf(0).FetchOr(ept::kAccessed);  // the CPU uses region 0 all the time
    ASSERT_TRUE(IsMapped(0)) << region;
  }
  EXPECT_FALSE(IsMapped(1));
  for (uint64_t region = 499; region > 0; --region) {
    ASSERT_LE(Fault(region).outcome, FaultOutcome::kSpurious);
  }
  EXPECT_FALSE(IsMapped(0)) << "and not any more";
}

// The tables above are not used by anything else, and go with none that is used.
TEST_F(TableReclaimTest, ATableThatIsUsedStaysWhereItIsAloneBelowItsGigabyte) {
  Start();
  for (uint64_t gib = 0; gib < 60; ++gib) {
    ASSERT_EQ(Fault(gib * 512).outcome, kFixed);
    LinkOf(0).FetchOr(ept::kAccessed);
    ASSERT_TRUE(IsMapped(0)) << gib;
  }
}

TEST_F(TableReclaimTest, TablesOfTheOtherAddressSpaceAreTakenToo) {
  Start({.address_spaces = 2});
  ASSERT_TRUE(vm_->SetMemoryRegion({.address_space = 1, .size = GiB(64), .hva = kRam}).ok());
  for (const AddressSpaceId space : {1, 0, 1}) {
    ASSERT_TRUE(vcpu_->SetAddressSpace(space).ok());
    for (uint64_t region = 0; region < 200; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  }
}

TEST_F(TableReclaimTest, WhereEveryTableIsUsedTheSecondTurnOfTheHandTakesOne) {
  Start();
  for (uint64_t region = 0; region < 500; ++region) {
    ASSERT_EQ(Fault(region).outcome, FaultOutcome::kFixed) << region;
    LinkOf(region).FetchOr(ept::kAccessed);
  }
}

// It looks at 32 tables in each section, and a table whose A it has just taken is not cold.
TEST_F(TableReclaimTest, NoTableIsLookedAtTwiceInOneTurnOfTheHand) {
  constexpr uint64_t kRegions = 80;
  Start({.table_quota = 128});
  for (uint64_t region = 0; region < kRegions; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  for (uint64_t region = 0; region < kRegions; ++region) {
    LinkOf(region).FetchOr(ept::kAccessed);
  }
  ASSERT_TRUE(vm_->SetTableQuota(vm_->Stats().tables_in_use).ok());
  for (uint64_t region = 1000; vm_->Stats().table_reclaims == 0; ++region) {
    ASSERT_EQ(Fault(region).outcome, kFixed);
  }
  for (uint64_t region = 8; region < kRegions; ++region) EXPECT_TRUE(IsMapped(region)) << region;
}

// The harvest of D bits skips every link that has neither A nor this note.
TEST_F(TableReclaimTest, TheABitThatItClearsIsNotedForTheHarvest) {
  Start();
  ASSERT_EQ(Fault(0).outcome, FaultOutcome::kFixed);
  LinkOf(0).FetchOr(ept::kAccessed);
  uint64_t region = 1;
  while (LinkOf(0).Load().accessed()) ASSERT_EQ(Fault(region++).outcome, FaultOutcome::kFixed);
  EXPECT_TRUE(LinkOf(0).Load().must_revisit());
}

TEST_F(TableReclaimTest, WritesThatOnlyTheTablesKnewOfReachTheDirtyLog) {
  Start({.dirty_tracking = DirtyTracking::kDirtyBits}, kSlotLogDirtyPages);
  for (uint64_t region = 0; region < 200; ++region) {
    ASSERT_EQ(Fault(region).outcome, FaultOutcome::kFixed);
    EntryRef(EntryOf(*vm_, Gpa(region * MiB(2)))).FetchOr(ept::kDirty);
  }
  ASSERT_FALSE(IsMapped(0));
  uint64_t dirty = 0;
  const auto count = [&](uint64_t, uint64_t bits) {
    dirty += static_cast<uint64_t>(std::popcount(bits));
  };
  // Links that no CPU has walked lack the A that guides the harvest of what is still there.
  for (uint64_t region = 0; region < 200; ++region) {
    if (!IsMapped(region)) continue;
    LinkOf(region).FetchOr(ept::kAccessed);
  }
  for (uint64_t* table = reinterpret_cast<uint64_t*>(vm_->eptp().root().raw());;) {
    const EptEntry above = EntryRef(table).FetchOr(ept::kAccessed);
    table = reinterpret_cast<uint64_t*>(above.address().raw());
    if (table == nullptr || EptEntry(*table).kind(kLevel2M) != EntryKind::kTable) break;
  }
  ASSERT_TRUE(vm_->TakeDirtyLog(0, count).ok());
  EXPECT_EQ(dirty, 200u);
}

TEST_F(TableReclaimTest, TablesOfLargeLeavesAreTakenToo) {
  host_.order = 9;
  Start();
  for (uint64_t gib = 0; gib < 60; ++gib) {
    ASSERT_EQ(Fault(gib * 512).outcome, FaultOutcome::kFixed) << gib;
    ASSERT_EQ(vm_->Translate(Gpa(gib * GiB(1)))->level, kLevel2M);
  }
}

TEST_F(TableReclaimTest, WithNothingToTakeTheAnswerIsResourceExhausted) {
  Start({.table_quota = 3});
  const FaultResult result = Fault(0);
  EXPECT_EQ(result.outcome, FaultOutcome::kError);
  EXPECT_TRUE(absl::IsResourceExhausted(result.status)) << result.status;
  EXPECT_FALSE(IsMapped(0));
}

TEST_F(TableReclaimTest, WhatZapsKeepAtHandGoesToAFaultThatLacksTables) {
  for (size_t quota = 6; quota < 16; ++quota) {  // from a root and what one fault may need on
    vcpu_.reset();
    Start({.table_quota = quota});
    ASSERT_EQ(vm_->InvalidateHostRange(kRam, kPageSize), absl::OkStatus());
    const FaultResult result = Fault(0);
    EXPECT_EQ(result.outcome, kFixed) << quota << " " << result.status;
  }
}

TEST_F(TableReclaimTest, ASmallerQuotaTakesColdTablesAtOnceAndALargerOneGivesRoom) {
  Start({.table_quota = 128});
  for (uint64_t region = 0; region < 80; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  ASSERT_GT(vm_->Stats().tables_in_use, 80u);
  ASSERT_TRUE(vm_->SetTableQuota(64).ok());
  EXPECT_LE(vm_->Stats().tables_in_use, 64u);
  ASSERT_TRUE(vm_->SetTableQuota(256).ok());
  for (uint64_t region = 0; region < 150; ++region) ASSERT_TRUE(Fault(region).status.ok());
  for (uint64_t region = 0; region < 150; ++region) EXPECT_TRUE(IsMapped(region)) << region;
}

TEST_F(TableReclaimTest, AQuotaBelowWhatCannotBeTakenStandsAndStopsGrowth) {
  Start({.table_quota = 64});
  ASSERT_EQ(Fault(0).outcome, kFixed);
  ASSERT_TRUE(vm_->SetTableQuota(1).ok());
  EXPECT_GT(vm_->Stats().tables_in_use, 1u) << "the root, and the vCPU's stock";
  EXPECT_FALSE(IsMapped(0));
  EXPECT_TRUE(absl::IsInvalidArgument(vm_->SetTableQuota(0)));
}

TEST_F(TableReclaimTest, ZapAllWorksAtTheQuotaAndGivesTheTablesBack) {
  Start();
  for (int round = 0; round < 3; ++round) {
    for (uint64_t region = 1; region < 15; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
    const size_t full = vm_->Stats().tables_in_use;
    ASSERT_TRUE(vm_->SetTableQuota(full).ok());
    auto flush = vm_->ZapAll();
    ASSERT_TRUE(flush.ok()) << flush.status();
    flush->Settle();
    EXPECT_LT(vm_->Stats().tables_in_use, full);
    ASSERT_TRUE(vm_->SetTableQuota(kQuota).ok());
    EXPECT_FALSE(IsMapped(0));
    EXPECT_EQ(Fault(0).outcome, kFixed);
  }
}

TEST_F(TableReclaimTest, ZapAllWorksFarAboveALoweredQuotaAndBeforeTheLastOneIsSettled) {
  Start({.table_quota = 64});
  ASSERT_EQ(Fault(0).outcome, kFixed);
  ASSERT_TRUE(vm_->SetTableQuota(1).ok());
  const size_t before = vm_->Stats().tables_in_use;
  auto first = vm_->ZapAll();
  auto second = vm_->ZapAll();
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  first->Settle();
  second->Settle();
  EXPECT_LE(vm_->Stats().tables_in_use, before) << "neither needs a table";
}

TEST_F(TableReclaimTest, ASplitAtTheQuotaTakesColdTablesOfOtherFrames) {
  Start();
  for (uint64_t region = 0; region < 200; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  host_.order = 9;
  for (uint64_t region = 1024; region < 1034; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  auto flush = vm_->SplitRange(Gfn(1024 * 512), PageCount(10 * 512));
  ASSERT_TRUE(flush.ok()) << flush.status();
  flush->Settle();
  for (uint64_t region = 1024; region < 1034; ++region) {
    const auto found = vm_->Translate(Gpa(region * MiB(2)));
    ASSERT_TRUE(found.ok()) << region;
    EXPECT_EQ(found->level, kLevel4K) << region;
  }
  EXPECT_LE(vm_->Stats().tables_in_use, kQuota);
}

TEST_F(TableReclaimTest, ASplitAtTheQuotaTakesColdTablesOfTheSameFramesInTheOtherAddressSpace) {
  constexpr uint64_t kRegions = 20;
  Start({.address_spaces = 2});
  ASSERT_TRUE(vm_->SetMemoryRegion({.address_space = 1, .size = GiB(64), .hva = kRam}).ok());
  for (const AddressSpaceId space : {1, 0}) {
    ASSERT_TRUE(vcpu_->SetAddressSpace(space).ok());
    host_.order = space == 1 ? 0 : 9;
    for (uint64_t region = 0; region < kRegions; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  }
  ASSERT_TRUE(vm_->SetTableQuota(vm_->Stats().tables_in_use).ok());
  auto flush = vm_->SplitRange(Gfn(0), PageCount(kRegions * 512));
  ASSERT_TRUE(flush.ok()) << flush.status();
  flush->Settle();
}

TEST_F(TableReclaimTest, ASplitAtTheQuotaGetsTheTablesThatAnotherFlushHolds) {
  Start();
  for (uint64_t region = 0; region < 10; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  host_.order = 9;
  for (uint64_t region = 1024; region < 1028; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  ASSERT_TRUE(vm_->SetTableQuota(vm_->Stats().tables_in_use).ok());
  std::optional<GuestEntry> entry = vcpu_->EnterGuest();
  host_.on_kick = [&] { entry.reset(); };
  PendingFlush held = *vm_->ZapRange(Gfn(0), PageCount(10 * 512));
  auto flush = vm_->SplitRange(Gfn(1024 * 512), PageCount(4 * 512));
  EXPECT_TRUE(flush.ok()) << flush.status();
  if (flush.ok()) flush->Settle();
  held.Settle();
}

TEST_F(TableReclaimTest, ASplitOfMoreThanTheQuotaHoldsDoesNotUndoItsBeginning) {
  host_.order = 9;
  Start();
  for (uint64_t region = 0; region < 200; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  const auto flush = vm_->SplitRange(Gfn(0), PageCount(200 * 512));
  EXPECT_TRUE(absl::IsResourceExhausted(flush.status())) << flush.status();
  for (uint64_t region = 0; region < 200; ++region) EXPECT_TRUE(IsMapped(region)) << region;
  EXPECT_EQ(vm_->Translate(Gpa(0))->level, kLevel4K);
}

TEST_F(TableReclaimTest, WhatWasSplitBeforeTablesWereShortIsFlushed) {
  host_.order = 9;
  Start();
  for (uint64_t region = 0; region < 8; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  ASSERT_TRUE(vm_->SetTableQuota(vm_->Stats().tables_in_use + 2).ok());
  std::optional<GuestEntry> entry = vcpu_->EnterGuest();
  host_.on_kick = [&] { entry.reset(); };
  const auto flush = vm_->SplitRange(Gfn(0), PageCount(8 * 512));
  EXPECT_TRUE(absl::IsResourceExhausted(flush.status())) << flush.status();
  ASSERT_EQ(vm_->Translate(Gpa(0))->level, kLevel4K);
  EXPECT_FALSE(entry.has_value()) << "a CPU goes on with a large translation";
}

TEST_F(TableReclaimTest, PushingADirtyLogDownAtTheQuotaTakesColdTablesOfOtherSlots) {
  Start();
  for (uint64_t region = 0; region < 200; ++region) ASSERT_EQ(Fault(region).outcome, kFixed);
  host_.order = 9;
  MemoryRegion logged{.slot = 1, .gpa = Gpa(GiB(64)), .size = MiB(20), .hva = kRam + GiB(64)};
  ASSERT_TRUE(vm_->SetMemoryRegion(logged).ok());
  const uint64_t first = GiB(64) / MiB(2);
  for (uint64_t region = first; region < first + 10; ++region) {
    ASSERT_EQ(Fault(region).outcome, kFixed);
  }
  logged.flags = kSlotLogDirtyPages;
  ASSERT_TRUE(vm_->SetMemoryRegion(logged).ok());
  const absl::Status pushed = vm_->PushDownDirtyLog(1);
  ASSERT_TRUE(pushed.ok()) << pushed;
  for (uint64_t region = first; region < first + 10; ++region) {
    ASSERT_TRUE(IsMapped(region)) << region;
    EXPECT_EQ(vm_->Translate(Gpa(region * MiB(2)))->level, kLevel4K) << region;
  }
}

TEST_F(TableReclaimTest, PrefaultTakesNothingAway) {
  Start();
  const auto done = vcpu_->Prefault(Gpa(0), GiB(1));
  ASSERT_TRUE(done.ok());
  EXPECT_LT(*done, GiB(1));
  for (uint64_t at = 0; at < *done; at += MiB(2)) EXPECT_TRUE(vm_->Translate(Gpa(at)).ok());
  EXPECT_EQ(vm_->Stats().table_reclaims, 0u);
}

TEST_F(TableReclaimTest, WithoutABitsTheHandTakesEachInItsTurn) {
  Start({.accessed_dirty = Use::kNever});
  for (uint64_t region = 0; region < 500; ++region) {
    ASSERT_EQ(Fault(region).outcome, FaultOutcome::kFixed);
    ASSERT_TRUE(IsMapped(region));
  }
}

TEST_F(TableReclaimTest, ManyVcpusShareFewTables) {
  Start({.table_quota = 128});
  std::vector<std::thread> threads;
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    threads.emplace_back([this, seed] {
      std::mt19937_64 random(seed);
      auto vcpu = *vm_->CreateVcpu();
      for (int i = 0; i < 1000; ++i) {
        const Gpa gpa(random() % 400 * MiB(2));
        const FaultResult result = vcpu->HandleEptViolation(gpa, kWriteFault);
        // The fault may fail if others were faster with every table that was freed, eight times in
        // a row.
        EXPECT_TRUE(result.outcome <= FaultOutcome::kRetry ||
                    absl::IsResourceExhausted(result.status))
            << result.status;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace tdp
