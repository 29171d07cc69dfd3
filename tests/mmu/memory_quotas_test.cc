// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/policy/memory_quotas.h"

#include <array>
#include <cstdint>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};

MemorySlot SlotOf(Gfn base, uint64_t pages, AddressSpaceId space = 0) {
  MemorySlot slot;
  slot.address_space = space;
  slot.base = base;
  slot.pages = PageCount(pages);
  return slot;
}

TEST(MemoryQuotas, ShadowPagesAreTwoPercentOfThePagesButSixtyFourAtLeast) {
  MemoryQuotas quotas(4, 2);
  quotas.AddShadowPages();
  EXPECT_EQ(quotas.ShadowPages(0), 64u);
  quotas.AddSlot(SlotOf(Gfn(0), 3200));
  EXPECT_EQ(quotas.ShadowPages(0), 64u);
  quotas.AddSlot(SlotOf(Gfn(10000), 100000));
  EXPECT_EQ(quotas.ShadowPages(0), 2064u);
  EXPECT_EQ(quotas.ShadowPages(1), 64u) << "another address space";
  quotas.RemoveSlot(SlotOf(Gfn(0), 3200));
  EXPECT_EQ(quotas.ShadowPages(0), 2000u);
}

TEST(MemoryQuotas, TablesAreTwiceWhatMapsTheSlotsInEveryView) {
  MemoryQuotas quotas(4, 1);
  const size_t none = quotas.Tables();
  quotas.AddVcpu();
  EXPECT_EQ(quotas.Tables(), none + 96);
  quotas.RemoveVcpu();
  // This slot needs two tables of leaves, one above them for its 1 GiB, one for its 512 GiB.
  quotas.AddSlot(SlotOf(Gfn(511), 2));
  EXPECT_EQ(quotas.Tables(), none + 2 * (2 + 1 + 1));
  quotas.SetViews(0, 3);
  EXPECT_EQ(quotas.Tables(), none + 3 * 2 * 4);
  quotas.RemoveSlot(SlotOf(Gfn(511), 2));
  EXPECT_EQ(quotas.Tables(), none);
  MemoryQuotas five_levels(5, 1);
  five_levels.AddSlot(SlotOf(Gfn(511), 2));
  EXPECT_EQ(five_levels.Tables(), none + 2 * 5);
}

class DefaultQuotas : public HostTest {
 protected:
  // Returns the quota of tables: what is in use, and what could be had beside that.
  size_t Quota() {
    size_t least = 0;
    size_t most = 1 << 13;
    while (least < most) {
      const size_t middle = (least + most + 1) / 2;
      if (vm_->ReserveTables(middle).ok()) {
        least = middle;
      } else {
        most = middle - 1;
      }
    }
    return vm_->Stats().tables_in_use + least;
  }
};

TEST_F(DefaultQuotas, WhateverGoesGivesItsPartOfTheQuotaBack) {
  Start();
  const size_t none = Quota();
  {
    const auto vcpu = *vm_->CreateVcpu();
    EXPECT_EQ(Quota(), none + 96);
  }
  EXPECT_EQ(Quota(), none);
  // It needs 32 tables of leaves, one above them, and one above that.
  constexpr size_t kOfRegion = 2 * (32 + 1 + 1);
  for (const bool in_batch : {false, true}) {
    SCOPED_TRACE(in_batch ? "in a batch" : "by itself");
    const auto set = [&](const MemoryRegion& region) {
      const std::array change{Change::Region(region)};
      EXPECT_EQ(in_batch ? vm_->Apply(change) : vm_->SetMemoryRegion(region), absl::OkStatus());
    };
    set({.size = MiB(64), .hva = kRam});
    EXPECT_EQ(Quota(), none + kOfRegion);
    set({.gpa = Gpa(GiB(1)), .size = MiB(64), .hva = kRam});
    EXPECT_EQ(Quota(), none + kOfRegion) << "moved";
    set({.size = 0});
    EXPECT_EQ(Quota(), none);
  }
}

TEST_F(DefaultQuotas, AQuotaThatWasGivenFollowsMemoryAgainWhenAsked) {
  Start();
  const MemoryRegion region{.gpa = Gpa(0), .size = GiB(64), .hva = kRam};
  ASSERT_TRUE(vm_->SetTableQuota(64).ok());
  ASSERT_TRUE(vm_->SetMemoryRegion(region).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(vm_->ReserveTables(100)));
  ASSERT_TRUE(vm_->SetTableQuota(kQuotaByMemory).ok());
  EXPECT_TRUE(vm_->ReserveTables(100).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(vm_->ReserveTables(1 << 18))) << "64 GiB need 2^15";
  ASSERT_TRUE(vm_->SetMemoryRegion({.size = 0}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(vm_->ReserveTables(1 << 12)));
}

// Tables remember frames without memory, too, and a guest has 2^36 of them: that must stay bounded.
TEST_F(DefaultQuotas, AGuestThatTouchesFramesWithoutMemoryTakesABoundedNumberOfTables) {
  Start();
  ASSERT_TRUE(vm_->SetMemoryRegion({.size = MiB(64), .hva = kRam}).ok());
  for (uint64_t i = 1; i < 4000; ++i) {
    ASSERT_EQ(Fault(Gpa(i * GiB(1))), FaultOutcome::kMmio);
  }
  EXPECT_LT(vm_->Stats().tables_in_use, 800u);
  for (uint64_t gpa = 0; gpa < MiB(64); gpa += MiB(2)) {
    ASSERT_EQ(Fault(Gpa(gpa)), FaultOutcome::kFixed);
  }
}

// All that the slots show can be mapped, page by page, however they lie, and in every view.
TEST_F(DefaultQuotas, WhatTheSlotsShowCanBeMappedInEveryView) {
  Start({.ept_levels = 5});
  std::mt19937_64 random(1);
  std::vector<Gpa> places;
  for (uint32_t slot = 0; slot < 1000; ++slot) {
    const Gpa gpa((random() % (uint64_t{1} << 40)) << kPageShift & ((uint64_t{1} << 52) - 1));
    if (!vm_->SetMemoryRegion({.slot = slot, .gpa = gpa, .size = kPageSize, .hva = kRam}).ok()) {
      continue;
    }
    places.push_back(gpa);
  }
  for (int view = 0; view < 3; ++view) {
    if (view > 0) {
      ASSERT_TRUE(vcpu_->SetView(*vm_->CreateView()).ok());
    }
    for (const Gpa gpa : places) {
      ASSERT_EQ(Fault(gpa), FaultOutcome::kFixed);
    }
  }
  EXPECT_EQ(vm_->Stats().table_reclaims, 0u);
  // All of it is mapped once more, while what is taken away waits for its flush.
  ASSERT_TRUE(vcpu_->SetView(kBaseView).ok());
  PendingFlush flush = *vm_->ZapAll();
  for (const Gpa gpa : places) {
    ASSERT_EQ(Fault(gpa), FaultOutcome::kFixed);
  }
  EXPECT_EQ(vm_->Stats().table_reclaims, 0u);
  flush.Settle();
}

TEST_F(DefaultQuotas, AQuotaThatTheEmbedderSetsStaysWhateverTheSlotsDo) {
  Start();
  ASSERT_TRUE(vm_->SetTableQuota(64).ok());
  ASSERT_TRUE(vm_->SetMemoryRegion({.size = GiB(64), .hva = kRam}).ok());
  for (uint64_t i = 0; i < 200; ++i) {
    ASSERT_EQ(Fault(Gpa(i * MiB(2))), FaultOutcome::kFixed);
    ASSERT_LE(vm_->Stats().tables_in_use, 64u);
  }
}

}  // namespace
}  // namespace tdp
