// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Whatever asks the host for a page is overtaken by a change while the host answers, and must not
// map the answer: not only the plain fault, but prefault and collapse, and for each kind of change.

#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr Hva kPrivate{TiB(2)};

// Makes one change while it answers, and says so by another frame from then on.
class OvertakenHost : public TestHost {
 public:
  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override {
    const absl::StatusOr<HostPage> before = TestHost::Resolve(hva, access);
    if (change != nullptr) std::exchange(change, nullptr)();
    return before;
  }

  std::function<void()> change;
};

class ChangeWhileResolving : public HostTestOn<OvertakenHost> {
 protected:
  void Start(VmOptions options = {}, int order = 0) {
    host_.order = order;
    HostTestOn::Start(options);
    MemoryRegion ram{.gpa = Gpa(0), .size = MiB(8), .hva = kRam};
    if (options.private_memory) {
      ram.flags = kSlotPrivateMemory;
      ram.private_hva = kPrivate;
    }
    ASSERT_TRUE(vm_->SetMemoryRegion(ram).ok());
  }

  void Invalidate(Hva hva) { ASSERT_TRUE(vm_->InvalidateHostRange(hva, kPageSize).ok()); }
};

TEST_F(ChangeWhileResolving, AFaultIsToldToTryAgainIfAnInvalidationBeganAndEnded) {
  Start();
  host_.change = [&] {
    ASSERT_TRUE(vm_->BeginHostInvalidation(kRam + 0x3000, kPageSize).ok());
    vm_->EndHostInvalidation();
  };
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kRetry);
  EXPECT_FALSE(IsMapped(Gpa(0x3000)));
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
}

// The page lies in the table of the last fault, so the fault goes its shortest way.
TEST_F(ChangeWhileResolving, AFaultBesideTheLastOneMapsNothingThatIsInvalidatedMeanwhile) {
  Start();
  ASSERT_EQ(Fault(Gpa(0x1000)), FaultOutcome::kFixed);
  ASSERT_EQ(Fault(Gpa(0x2000)), FaultOutcome::kFixed);
  host_.change = [&] { Invalidate(kRam + 0x3000); };
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kRetry);
  EXPECT_FALSE(IsMapped(Gpa(0x3000)));
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
}

// D bits find the writes here, so the start of a log takes no table and no leaf away: the fault
// that goes by the last one's table must see by itself that the slot logs.
TEST_F(ChangeWhileResolving, ALargeFaultBesideTheLastOneMapsNothingInASlotThatLogsMeanwhile) {
  Start({.dirty_tracking = DirtyTracking::kDirtyBits}, 9);
  ASSERT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
  ASSERT_EQ(Fault(Gpa(MiB(2))), FaultOutcome::kFixed);
  host_.change = [&] {
    ASSERT_EQ(vm_->SetMemoryRegion(
                  {.flags = kSlotLogDirtyPages, .gpa = Gpa(0), .size = MiB(8), .hva = kRam}),
              absl::OkStatus());
  };
  EXPECT_EQ(Fault(Gpa(MiB(4))), FaultOutcome::kRetry);
  EXPECT_FALSE(IsMapped(Gpa(MiB(4))));
  EXPECT_EQ(Fault(Gpa(MiB(4))), FaultOutcome::kFixed);
}

TEST_F(ChangeWhileResolving, AChangeOfSlotsBesideAnInvalidationBringsNoneOfItsPagesBack) {
  Start();
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  ASSERT_TRUE(vm_->BeginHostInvalidation(kRam + 0x5000, kPageSize).ok());
  ASSERT_TRUE(
      vm_->SetMemoryRegion({.slot = 1, .gpa = Gpa(GiB(1)), .size = MiB(2), .hva = kRam}).ok());
  EXPECT_EQ(Fault(Gpa(0x4000)), FaultOutcome::kFixed);
  EXPECT_EQ(Fault(Gpa(0x5000)), FaultOutcome::kRetry);
  EXPECT_FALSE(IsMapped(Gpa(0x5000)));
  vm_->EndHostInvalidation();
  EXPECT_EQ(Fault(Gpa(0x5000)), FaultOutcome::kFixed);
}

TEST_F(ChangeWhileResolving, OfTwoInvalidationsAtOnceEachKeepsItsRange) {
  Start();
  for (const uint64_t first : {0x3000, 0x9000}) {
    ASSERT_TRUE(vm_->BeginHostInvalidation(kRam + first, kPageSize).ok());
  }
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kRetry);
  EXPECT_EQ(Fault(Gpa(0x9000)), FaultOutcome::kRetry);
  vm_->EndHostInvalidation();
  vm_->EndHostInvalidation();
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
}

TEST_F(ChangeWhileResolving, APrefaultMapsNothingOfASlotThatIsDeleted) {
  Start();
  host_.change = [&] { ASSERT_TRUE(vm_->SetMemoryRegion({.size = 0}).ok()); };
  EXPECT_FALSE(vcpu_->Prefault(Gpa(0), MiB(2)).ok());
  for (uint64_t i = 0; i < 512; ++i) ASSERT_FALSE(IsMapped(Gpa(i * kPageSize))) << i;
}

TEST_F(ChangeWhileResolving, APrefaultMapsNoPageOfTheRunThatIsInvalidated) {
  Start();
  host_.change = [&] {
    Invalidate(kRam + 0x5000);
    host_.offset = GiB(1);  // the host has other memory there now
  };
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2)), MiB(2));
  EXPECT_EQ(vm_->Translate(Gpa(0x5000))->entry.frame(), Hfn::Of(Hpa(TiB(1) + GiB(1) + 0x5000)));
}

TEST_F(ChangeWhileResolving, APrefaultStopsAtAPageWhoseInvalidationHasNotEnded) {
  Start();
  host_.change = [&] { ASSERT_TRUE(vm_->BeginHostInvalidation(kRam + 0x5000, kPageSize).ok()); };
  (void)vcpu_->Prefault(Gpa(0), MiB(2));
  EXPECT_FALSE(IsMapped(Gpa(0x5000)));
  vm_->EndHostInvalidation();
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2)), MiB(2));
}

// The host makes its page large, and tells nobody, since nothing that is mapped gets wrong by it.
TEST_F(ChangeWhileResolving, APrefaultLeavesALargeLeafThatAFaultHasMappedMeanwhile) {
  Start();
  const std::unique_ptr<Vcpu> other = *vm_->CreateVcpu();
  host_.change = [&] {
    host_.order = 9;
    EXPECT_EQ(other->HandleEptViolation(Gpa(0x7000), kWriteFault).outcome, FaultOutcome::kFixed);
  };
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2)), MiB(2));
  EXPECT_EQ(vm_->Translate(Gpa(0))->level, kLevel2M);
}

TEST_F(ChangeWhileResolving, ACollapseOfWhichAPageIsInvalidatedIsNone) {
  Start({}, 9);
  ASSERT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
  vm_->SplitRange(Gfn(0), kLevel2M.pages())->Settle();
  host_.change = [&] { Invalidate(kRam + 0x5000); };
  EXPECT_EQ(*vm_->CollapseRange(Gfn(0), kLevel2M.pages()), 0u);
  EXPECT_FALSE(IsMapped(Gpa(0x5000)));
}

TEST_F(ChangeWhileResolving, ACollapseBesideAnInvalidationThatHasNotEndedIsNone) {
  Start({}, 9);
  ASSERT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
  vm_->SplitRange(Gfn(0), kLevel2M.pages())->Settle();
  host_.change = [&] { ASSERT_TRUE(vm_->BeginHostInvalidation(kRam + 0x5000, kPageSize).ok()); };
  EXPECT_EQ(*vm_->CollapseRange(Gfn(0), kLevel2M.pages()), 0u);
  EXPECT_FALSE(IsMapped(Gpa(0x5000)));
  vm_->EndHostInvalidation();
}

TEST_F(ChangeWhileResolving, AFaultMapsNothingByRightsThatTheViewHasTaken) {
  Start();
  const ViewId view = *vm_->CreateView();
  ASSERT_TRUE(vcpu_->SetView(view).ok());
  host_.change = [&] {
    ASSERT_TRUE(vm_->SetViewRights(view, Gfn(3), PageCount(1), Access::ReadExecute()).ok());
  };
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kRetry);
  EXPECT_FALSE(vm_->Translate(Gpa(0x3000), 0, view).ok());
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kViewDenied);
}

TEST_F(ChangeWhileResolving, AFaultMapsNothingByAnAttributeThatHasChanged) {
  Start({.private_memory = true});
  host_.change = [&] {
    ASSERT_TRUE(vm_->SetMemoryAttributes(Gpa(0x3000), kPageSize, kMemoryAttributePrivate).ok());
  };
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kRetry);
  EXPECT_FALSE(IsMapped(Gpa(0x3000)));
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(vm_->Translate(Gpa(0x3000))->entry.frame(), Hfn::Of(Hpa(TiB(2) + 0x3000)));
}

TEST_F(ChangeWhileResolving, AFaultMapsNothingWithATypeThatHasChanged) {
  Start();
  host_.change = [&] {
    ASSERT_TRUE(vm_->SetMemoryTypes({.non_coherent_dma = true}).ok());  // the MTRRs are off
  };
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kRetry);
  EXPECT_FALSE(IsMapped(Gpa(0x3000)));
  EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
  EXPECT_EQ(vm_->Translate(Gpa(0x3000))->entry.memory_type(), MemoryType::kUncacheable);
}

// While the memory for a table is brought, another thread deletes the slot; its rights and type,
// which a slot of host frames keeps in its state, are gone then.
TEST_F(ChangeWhileResolving, APrefaultAsksNothingOfASlotThatHasGone) {
  Start({.max_leaf_level = kLevel4K});
  EXPECT_EQ(Fault(Gpa(0)), FaultOutcome::kFixed);
  const MemoryRegion frames{
      .slot = 1, .flags = kSlotHostFrames, .gpa = Gpa(GiB(1)), .size = MiB(2), .hpa = Hpa(MiB(2))};
  ASSERT_EQ(vm_->SetMemoryRegion(frames), absl::OkStatus());
  std::vector<std::unique_ptr<Vcpu>> others;  // their stocks use up what is there
  bool deleted = false;
  host_.on_block = [&] {
    std::thread([&] { deleted = vm_->SetMemoryRegion({.slot = 1}).ok(); }).join();
  };
  for (int i = 0; i < 3 && !deleted; ++i) {
    const auto populated = vm_->Populate(Gpa(GiB(1)), MiB(2));
    if (deleted) {
      EXPECT_TRUE(absl::IsNotFound(populated.status())) << populated.status();
      break;
    }
    EXPECT_EQ(*populated, MiB(2));
    vm_->ZapAll()->Settle();
    others.push_back(*vm_->CreateVcpu());
    ASSERT_EQ(others.back()->HandleEptViolation(Gpa(0x1000), kWriteFault).outcome,
              FaultOutcome::kFixed);
  }
  EXPECT_TRUE(deleted);
  EXPECT_FALSE(IsMapped(Gpa(GiB(1))));
}

}  // namespace
}  // namespace tdp
