// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// With `VmOptions::execute_4k_only` no way by which a large leaf gains rights may give it X.

#include <optional>
#include <random>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Gfn kFirst{0};
constexpr PageCount kPages{GiB(2) >> kPageShift};
constexpr Hva kHost{GiB(64)};

struct Setting {
  const char* name;
  VmOptions options;
};

// The guest has 2 GiB over host pages that are as large as can be, and that become writable only
// once they have been asked for to be written, as pages do that the host shares until then.
class Execute4K : public HostTest, public testing::WithParamInterface<Setting> {
 protected:
  Execute4K() {
    host_.order = 18;
    host_.writable = false;
    VmOptions options = GetParam().options;
    options.execute_4k_only = true;
    HostTest::Start(options);
    SetSlot(0);
  }

  void SetSlot(uint32_t flags) {
    ASSERT_EQ(vm_->SetMemoryRegion({.slot = 0,
                                    .flags = flags,
                                    .gpa = kFirst.address(),
                                    .size = kPages.bytes(),
                                    .hva = kHost}),
              absl::OkStatus());
    Check();
  }
  // Checks that no large leaf is executable, and every other rule.
  void Check() { ASSERT_EQ(vm_->CheckInvariants(), absl::OkStatus()); }

  // Faults until the page allows the access, as a CPU does when it may run on.
  void Touch(Gpa gpa, Access access) {
    for (int i = 0; i < 8 && !Allows(gpa, access); ++i) {
      const auto found = vm_->Translate(gpa, 0, vcpu_->view());
      const Access there = found.ok() ? found->access : Access::None();
      const FaultResult result =
          vcpu_->HandleEptViolation(gpa, ExitQualification::Make(access, there, true, true));
      ASSERT_LE(result.outcome, FaultOutcome::kRetry) << result.status;
      Check();
    }
    EXPECT_TRUE(Allows(gpa, access)) << access.raw() << " at " << gpa.raw();
  }
  void Read(Gpa gpa) { Touch(gpa, Access::Read()); }
  void Write(Gpa gpa) { Touch(gpa, Access::Write()); }
  void Fetch(Gpa gpa) { Touch(gpa, Access::Execute()); }
  bool Allows(Gpa gpa, Access access) {
    const auto found = vm_->Translate(gpa, 0, vcpu_->view());
    return found.ok() && found->access.Covers(access);
  }
  void Age() {
    auto aged = vm_->AgeHostRange(kHost, kPages.bytes());
    ASSERT_EQ(aged.status(), absl::OkStatus());
    aged->flush.Settle();
    Check();
  }
  bool KeepsReverseMap() const { return GetParam().options.reverse_map; }
};

TEST_P(Execute4K, AWriteAfterAReadOfAPageThatIsReadOnlyUntilThen) {
  Read(Gpa(0x3000));
  const int level = LevelOf(Gpa(0x3000));
  EXPECT_GT(level, 1);
  Write(Gpa(0x3000));
  EXPECT_EQ(LevelOf(Gpa(0x3000)), level) << "the leaf grows as a whole";
  EXPECT_FALSE(Allows(Gpa(0x3000), Access::Execute()));
  Fetch(Gpa(0x3000));
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 1);
}

TEST_P(Execute4K, AWriteInALeafOf2MOr1GThatStandsAboveSmallerRequests) {
  Read(Gpa(0x3000));
  host_.order = 9;  // the host has split its page meanwhile, and said nothing: the frames stay
  Write(Gpa(0x3000));
  host_.order = 0;
  Write(Gpa(MiB(600)));
  Write(Gpa(0x5000));
  EXPECT_FALSE(Allows(Gpa(0x9000), Access::Execute()));
}

TEST_P(Execute4K, RightsThatAgingTookComeBackWithoutX) {
  Read(Gpa(0x3000));
  Age();
  Read(Gpa(0x3000));
  EXPECT_GT(LevelOf(Gpa(0x3000)), 1);
  EXPECT_FALSE(Allows(Gpa(0x3000), Access::Execute()));
  Age();
  Write(Gpa(0x3000));
  EXPECT_FALSE(Allows(Gpa(0x3000), Access::Execute()));
  Age();
  Write(Gpa(0x3000));
  Age();
  Fetch(Gpa(0x3000));
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 1);
}

TEST_P(Execute4K, WThatTheLogTookComesBackWithoutX) {
  Write(Gpa(0x3000));
  SetSlot(kSlotLogDirtyPages);
  Read(Gpa(MiB(2)));
  SetSlot(0);
  Write(Gpa(0x3000));
  Write(Gpa(MiB(2)));
  EXPECT_FALSE(Allows(Gpa(MiB(4)), Access::Execute()));
  SetSlot(kSlotLogDirtyPages);
  Write(Gpa(0x3000));
  Fetch(Gpa(0x3000));
  SetSlot(0);
  Write(Gpa(0x4000));
}

TEST_P(Execute4K, WhatThePushOfALogSplitsGetsXByItsOwnFetchesOnly) {
  Write(Gpa(0x3000));
  SetSlot(kSlotLogDirtyPages);
  ASSERT_EQ(vm_->PushDownDirtyLog(0), absl::OkStatus());
  Check();
  EXPECT_FALSE(Allows(Gpa(0x4000), Access::Execute()));
  Fetch(Gpa(0x4000));
  EXPECT_FALSE(Allows(Gpa(0x5000), Access::Execute()));
}

TEST_P(Execute4K, SplittingAndCollapsing) {
  if (KeepsReverseMap()) {
    EXPECT_TRUE(absl::IsFailedPrecondition(vm_->SplitRange(kFirst, kPages).status()))
        << "leaves keep their size";
    return;
  }
  Read(Gpa(0x3000));
  vm_->SplitRange(kFirst, PageCount(1024))->Settle();
  Check();
  Fetch(Gpa(0x3000));
  Fetch(Gpa(0x4000));
  EXPECT_GT(*vm_->CollapseRange(kFirst, kPages), 0u);
  Check();
  EXPECT_GT(LevelOf(Gpa(0x3000)), 1);
  EXPECT_FALSE(Allows(Gpa(0x3000), Access::Execute()));
  Write(Gpa(0x3000));
  EXPECT_GT(LevelOf(Gpa(0x3000)), 1) << "the collapsed leaf grows as a whole";
  EXPECT_FALSE(Allows(Gpa(0x3000), Access::Execute()));
}

TEST_P(Execute4K, PrefaultOfEveryKindOfAccessOverEveryOther) {
  for (const Access first : {Access::Read(), Access::Write(), Access::Execute()}) {
    for (const Access second : {Access::Read(), Access::Write(), Access::Execute()}) {
      vm_->ZapAll()->Settle();
      for (const Access access : {first, second}) {
        EXPECT_EQ(vcpu_->Prefault(Gpa(0), MiB(4), access).value_or(0), MiB(4));
        Check();
        EXPECT_TRUE(Allows(Gpa(0x3000), access));
      }
    }
  }
}

TEST_P(Execute4K, AStagedTableOfSmallPagesThatAreThenMadeLarge) {
  host_.order = 0;
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2), Access::Read()), MiB(2));
  EXPECT_EQ(LevelOf(Gpa(0)), 1);
  EXPECT_TRUE(Allows(Gpa(0), Access::Execute())) << "small pages may run";
  host_.order = 18;
  if (!KeepsReverseMap()) {
    EXPECT_GT(*vm_->CollapseRange(kFirst, kPages), 0u);
  }
  Check();
  Write(Gpa(0x3000));
}

TEST_P(Execute4K, AHostPageThatBecomesWritableAfterAnInvalidation) {
  Read(Gpa(0x3000));
  ASSERT_EQ(vm_->BeginHostInvalidation(kHost + MiB(4), MiB(2)), absl::OkStatus());
  Check();
  Read(Gpa(0x3000));
  host_.writable = true;
  vm_->EndHostInvalidation();
  Write(Gpa(0x3000));
  Write(Gpa(MiB(4)));
  EXPECT_FALSE(Allows(Gpa(MiB(8)), Access::Execute()) && LevelOf(Gpa(MiB(8))) > 1);
}

TEST_P(Execute4K, EveryView) {
  if (KeepsReverseMap()) {
    EXPECT_TRUE(absl::IsFailedPrecondition(vm_->CreateView().status())) << "one place a frame";
    return;
  }
  const ViewId view = *vm_->CreateView();
  ASSERT_EQ(vcpu_->SetView(view), absl::OkStatus());
  Read(Gpa(0x3000));
  Write(Gpa(0x3000));
  EXPECT_GT(LevelOf(Gpa(0x3000)), 1);
  EXPECT_FALSE(Allows(Gpa(0x3000), Access::Execute()));
  ASSERT_EQ(vm_->SetViewRights(view, kFirst, kPages, Access::Read()), absl::OkStatus());
  Read(Gpa(0x3000));
  ASSERT_EQ(vm_->SetViewRights(view, kFirst, kPages, Access::All()), absl::OkStatus());
  Read(Gpa(0x3000));
  Write(Gpa(0x3000));
  Fetch(Gpa(0x3000));
  EXPECT_EQ(LevelOf(Gpa(0x3000)), 1);
}

TEST_P(Execute4K, AnyOrderOfThem) {
  std::mt19937 random(1);
  for (int i = 0; i < 1000; ++i) {
    const Gpa gpa(random() % 16 * MiB(1) / 2 + random() % 4 * kPageSize);
    host_.order = random() % 4 == 0 ? 0 : random() % 2 == 0 ? 9 : 18;
    switch (random() % 10) {
      case 0:
        Age();
        break;
      case 1:
        SetSlot(random() % 2 == 0 ? kSlotLogDirtyPages : 0);
        break;
      case 2:
        vm_->ZapRange(Gfn::Of(gpa), PageCount(random() % 1024))->Settle();
        break;
      case 3:
        if (auto split = vm_->SplitRange(Gfn::Of(gpa), PageCount(512)); split.ok()) split->Settle();
        break;
      case 4:
        vm_->CollapseRange(kFirst, kPages).IgnoreError();
        break;
      case 5:
        vcpu_->Prefault(gpa, MiB(1), random() % 2 == 0 ? Access::Read() : Access::Write())
            .IgnoreError();
        break;
      case 6:
        vm_->PushDownDirtyLog(0).IgnoreError();  // the slot may not log
        break;
      case 7:
        Fetch(gpa);
        break;
      case 8:
        Read(gpa);
        break;
      default:
        Write(gpa);
        break;
    }
    Check();
    if (HasFatalFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, Execute4K,
    testing::Values(
        Setting{"WithADBits", {}}, Setting{"WithoutADBits", {.accessed_dirty = Use::kNever}},
        Setting{"ByWriteProtection", {.dirty_tracking = DirtyTracking::kWriteProtection}},
        Setting{"Of2M", {.max_leaf_level = kLevel2M}}, Setting{"ReverseMap", {.reverse_map = true}},
        Setting{"ReverseMapWithoutADBits", {.accessed_dirty = Use::kNever, .reverse_map = true}},
        Setting{"PrivateMemory", {.private_memory = true}}),
    [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tdp
