// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A backend that is asked for a block of table memory may wait for anything that another thread
// does with the `Vm`: a host that is short of memory takes pages of guests back to find one, and
// says so (`Backend::AllocateTableBlock`).

#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/table_block.h"
#include "tdp/mmu/format/table_page.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr ByteCount kSize = MiB(512);

struct Operation {
  std::string name;
  std::function<void(Vm&)> run;
};

class ShortOfBlocks : public HostTest {
 protected:
  void SetUp() override {
    host_.offered.eptp_switching = true;
    host_.order = 9;
    Start({.private_memory = true});
    for (uint32_t slot = 0; slot < 2; ++slot) {
      Set(slot, 0);
      ASSERT_EQ(*vm_->Populate(Gpa(kSize * slot), kSize), kSize);
    }
    Set(1, kSlotLogDirtyPages);
  }

  void Set(uint32_t slot, uint32_t flags) {
    const ByteCount at = kSize * slot;
    EXPECT_EQ(vm_->SetMemoryRegion(
                  {.slot = slot, .flags = flags, .gpa = Gpa(at), .size = kSize, .hva = kRam + at}),
              absl::OkStatus());
  }
  // Creates views, each of which takes one table for its root, until no table is free.
  void TakeTheFreeTables() {
    for (;;) {
      const VmStats stats = vm_->Stats();
      const size_t blocks = stats.table_bytes_reserved / kTableBlockBytes;
      if (blocks * kTablesPerBlock == stats.tables_in_use) return;
      ASSERT_TRUE(vm_->CreateView().ok());
    }
  }
};

class BlockAllocation : public ShortOfBlocks, public testing::WithParamInterface<Operation> {};

TEST_P(BlockAllocation, MayWaitForAnInvalidationAndForAChangeOfSlots) {
  TakeTheFreeTables();
  bool asked = false;
  host_.on_block = [&] {
    asked = true;
    std::thread([&] {
      EXPECT_EQ(vm_->InvalidateHostRange(kRam + kSize - kPageSize, kPageSize), absl::OkStatus());
      EXPECT_EQ(vm_->SetMemoryRegion({.slot = 7, .gpa = Gpa(GiB(4)), .size = kPageSize}),
                absl::OkStatus());
    }).join();
  };
  GetParam().run(*vm_);
  EXPECT_TRUE(asked) << "the operation needed no block, and shows nothing";
}

std::vector<Operation> Operations() {
  return {
      {"CreateView", [](Vm& vm) { EXPECT_TRUE(vm.CreateView().ok()); }},
      {"EptpList", [](Vm& vm) { EXPECT_TRUE(vm.EptpList().ok()); }},
      {"ZapRange", [](Vm& vm) { vm.ZapRange(Gfn(1), PageCount(1))->Settle(); }},
      {"InvalidateHostRange",
       [](Vm& vm) { EXPECT_TRUE(vm.InvalidateHostRange(kRam, kPageSize).ok()); }},
      {"BeginHostInvalidation",
       [](Vm& vm) {
         EXPECT_TRUE(vm.BeginHostInvalidation(kRam, kPageSize).ok());
         vm.EndHostInvalidation();
       }},
      {"SetViewRights",
       [](Vm& vm) {
         EXPECT_TRUE(vm.SetViewRights(kBaseView, Gfn(1), PageCount(1), Access::Read()).ok());
       }},
      {"SetMemoryAttributes",
       [](Vm& vm) {
         EXPECT_TRUE(vm.SetMemoryAttributes(Gpa(0x1000), kPageSize, kMemoryAttributePrivate).ok());
       }},
      {"Apply", [](Vm& vm) { EXPECT_TRUE(vm.Apply({Change::Zap(Gfn(1), PageCount(1))}).ok()); }},
      {"PushDownDirtyLog", [](Vm& vm) { EXPECT_TRUE(vm.PushDownDirtyLog(1).ok()); }},
      {"SplitRange", [](Vm& vm) { vm.SplitRange(Gfn(0), PageCount(512))->Settle(); }},
      {"Populate",
       [](Vm& vm) {
         EXPECT_TRUE(
             vm.SetMemoryRegion({.slot = 3, .gpa = Gpa(GiB(3)), .size = MiB(2), .hva = kRam}).ok());
         EXPECT_TRUE(vm.Populate(Gpa(GiB(3)), MiB(2)).ok());
       }},
      {"ReserveTables", [](Vm& vm) { EXPECT_TRUE(vm.ReserveTables(1).ok()); }},
      {"CreateVcpu",
       [](Vm& vm) {
         const auto vcpu = *vm.CreateVcpu();
         EXPECT_TRUE(
             vm.SetMemoryRegion({.slot = 3, .gpa = Gpa(GiB(3)), .size = MiB(2), .hva = kRam}).ok());
         const auto fault = [&] {
           return vcpu->HandleEptViolation(Gpa(GiB(3)), kReadFault).outcome;
         };
         EXPECT_EQ(fault(), FaultOutcome::kRetry) << "overtaken";
         EXPECT_EQ(fault(), FaultOutcome::kFixed);
       }},
  };
}

// Here a push takes its tables in turns and holds no lock between them, so the slot may change
// there.
class PushInTurns : public ShortOfBlocks {
 protected:
  bool IsSmall(ViewId view) {
    bool small = true;
    const Gfn first = Gfn::Of(Gpa(kSize));
    EXPECT_EQ(vm_->VisitLeaves(
                  first, PageCount::FromBytes(kSize),
                  [&](const LeafRun& run) { small = small && run.level == kLevel4K; }, 0, view),
              absl::OkStatus());
    return small;
  }
};

TEST_F(PushInTurns, GoesThroughEveryView) {
  const ViewId view = *vm_->CreateView();
  Set(1, 0);
  ASSERT_EQ(*vm_->Populate(Gpa(kSize), kSize, 0, view), kSize);
  Set(1, kSlotLogDirtyPages);
  ASSERT_FALSE(IsSmall(kBaseView) || IsSmall(view));
  EXPECT_EQ(vm_->PushDownDirtyLog(1), absl::OkStatus());
  EXPECT_TRUE(IsSmall(kBaseView));
  EXPECT_TRUE(IsSmall(view));
}

TEST_F(PushInTurns, EndsWhereTheSlotEndsToLog) {
  TakeTheFreeTables();
  host_.on_block = [&] { std::thread([&] { Set(1, 0); }).join(); };
  EXPECT_TRUE(absl::IsNotFound(vm_->PushDownDirtyLog(1)));
}

TEST_F(PushInTurns, BeginsAnewWhereTheSlotHasBegunToLogAnew) {
  bool asked = false;
  host_.on_block = [&] {
    asked = true;
    std::thread([&] {
      Set(1, 0);
      Set(1, kSlotLogDirtyPages);
    }).join();
  };
  EXPECT_EQ(vm_->PushDownDirtyLog(1), absl::OkStatus());
  ASSERT_TRUE(asked);
  for (const ByteCount at : {ByteCount{0}, kSize / 2, kSize - kPageSize}) {
    EXPECT_TRUE(vm_->Translate(Gpa(kSize + at))->access.can_write()) << at;
  }
}

TEST_F(PushInTurns, FlushesWhatItHasSplit) {
  std::optional<GuestEntry> entry = vcpu_->EnterGuest();
  host_.on_kick = [&] { entry.reset(); };
  EXPECT_EQ(vm_->PushDownDirtyLog(1), absl::OkStatus());
  ASSERT_TRUE(IsSmall(kBaseView));
  EXPECT_FALSE(entry.has_value()) << "a CPU goes on with a large translation";
}

INSTANTIATE_TEST_SUITE_P(Operations, BlockAllocation, testing::ValuesIn(Operations()),
                         [](const auto& of) { return of.param.name; });

// The table that would remember it takes its time to come.
TEST_F(ShortOfBlocks, AFrameThatBecomesPrivateMeanwhileIsNotRememberedAsMmio) {
  constexpr Gpa kHole(GiB(8));
  TakeTheFreeTables();
  bool asked = false;
  host_.on_block = [&] {
    asked = true;
    std::thread([&] {
      EXPECT_EQ(vm_->SetMemoryAttributes(kHole, kPageSize, kMemoryAttributePrivate),
                absl::OkStatus());
    }).join();
  };
  EXPECT_EQ(Fault(kHole), FaultOutcome::kMmio) << "it was no private frame yet";
  ASSERT_TRUE(asked);
  EXPECT_NE(vcpu_->HandleEptMisconfiguration(kHole).outcome, FaultOutcome::kMmio);
  EXPECT_EQ(Fault(kHole), FaultOutcome::kMemoryFault);
}

// A full stock is more than what was reserved, but a fault needs no full stock.
TEST_F(ShortOfBlocks, AReserveSmallerThanAStockIsUsedUpBeforeABlockIsAskedFor) {
  TakeTheFreeTables();
  ASSERT_EQ(vm_->ReserveTables(1), absl::OkStatus());
  constexpr size_t kLeft = 20;
  for (size_t i = kTablesPerBlock; i > kLeft; --i) ASSERT_TRUE(vm_->CreateView().ok());
  ASSERT_EQ(vm_->ReserveTables(kLeft), absl::OkStatus());
  host_.blocks = 0;
  const auto vcpu = *vm_->CreateVcpu();
  const auto fault = [&](Gpa gpa) { return vcpu->HandleEptViolation(gpa, kWriteFault).outcome; };
  ASSERT_EQ(vcpu->SetView(1), absl::OkStatus());
  ASSERT_EQ(fault(Gpa(0)), FaultOutcome::kFixed);
  EXPECT_EQ(host_.refused_blocks, 0);
}

// A fault has five tables at hand, and uses one of them.
TEST_F(ShortOfBlocks, AReserveIsUsedToItsLastTableBeforeABlockIsAskedFor) {
  TakeTheFreeTables();
  ASSERT_EQ(vm_->ReserveTables(1), absl::OkStatus());
  constexpr size_t kLeft = 40;
  for (size_t i = kTablesPerBlock; i > kLeft; --i) ASSERT_TRUE(vm_->CreateView().ok());
  ASSERT_EQ(vm_->ReserveTables(kLeft), absl::OkStatus());
  host_.blocks = 0;
  host_.order = 0;
  const auto vcpu = *vm_->CreateVcpu();
  ASSERT_EQ(vcpu->SetView(1), absl::OkStatus());
  const size_t before = vm_->Stats().tables_in_use;
  // The first makes a table of each level below the root, the others one of the lowest.
  for (size_t table = 3; table <= kLeft; ++table) {
    const Gpa gpa(MiB(2) * table);
    ASSERT_EQ(vcpu->HandleEptViolation(gpa, kWriteFault).outcome, FaultOutcome::kFixed) << table;
  }
  EXPECT_GE(vm_->Stats().tables_in_use - before, kLeft);
  EXPECT_EQ(host_.refused_blocks, 0);
}

}  // namespace
}  // namespace tdp
