// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These vCPUs run on one CPU in turn: one may meet in the TLB what another left there, since
// guest-physical translations are tagged by their root and by nothing else.

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/mmu/viewing_guest.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr FaultOutcome kDone = FaultOutcome::kFixed;
constexpr FaultOutcome kDenied = FaultOutcome::kViewDenied;
constexpr PageCount kPage{1};
constexpr Gpa kHooked{0x3000};
constexpr Gpa kOther{0x5000};
constexpr Gpa kElsewhere{GiB(1)};  // no memory is there but in another VM

ViewingGuestOptions WithVmfunc(const VmOptions& vm = {}) {
  ViewingGuestOptions options{.vm = vm};
  options.features.eptp_switching = true;
  return options;
}

class SharedCpu : public testing::Test, protected ViewingGuest {
 protected:
  explicit SharedCpu(const VmOptions& options = {}) : ViewingGuest(WithVmfunc(options)) {
    backend().share_one_cpu = true;
    AddSlot(Gpa(0), MiB(2));
  }

  // Lets vCPU 0 use a page in `view` while vCPU 1 runs elsewhere; then the view denies the page.
  void LeaveInTlb(ViewId view) {
    ASSERT_EQ(Load(kOther, 1), kDone);
    ASSERT_EQ(vcpu(0).SetView(view), absl::OkStatus());
    ASSERT_EQ(Load(kHooked, 0), kDone);
    ASSERT_EQ(vm().SetViewRights(view, Gfn::Of(kHooked), kPage, Access::None()), absl::OkStatus());
    ASSERT_EQ(Load(kOther, 1), kDone) << "here vCPU 1 makes its flush";
  }

  // Lets another VM run on the CPU and go. Returns where its root was.
  Hpa LeaveInTlbOfAnotherVm() {
    const auto other = *Vm::Create(backend());
    EXPECT_EQ(other->SetMemoryRegion({.gpa = kElsewhere, .size = MiB(1), .hva = kRam}),
              absl::OkStatus());
    const auto runs = *other->CreateVcpu();
    const auto load = [&] { return cpu().AccessGpa(kElsewhere, Kind::kLoad, 8).event; };
    const auto answer = [&](const sim::Exit& exit) {
      return AnswerEptExit(*runs, exit).outcome == kDone;
    };
    EXPECT_TRUE(RunUntilDone(*runs, cpu(), load, answer));
    return other->eptp().root();
  }
  // Makes views until the root of one is there.
  ViewId MakeViewOn(Hpa root) {
    for (;;) {
      const absl::StatusOr<ViewId> view = vm().CreateView();
      if (!view.ok()) {
        ADD_FAILURE() << "the memory of the other VM is not used again";
        return kBaseView;
      }
      if (vm().eptp(0, *view).root() == root) return *view;
    }
  }
};

TEST_F(SharedCpu, AFirstSwitchToAViewMeetsNothingThatAnotherVcpuLeftThere) {
  const ViewId view = *vm().CreateView();
  LeaveInTlb(view);
  ASSERT_EQ(vcpu(1).SetView(view), absl::OkStatus());
  EXPECT_EQ(Load(kHooked, 1), kDenied);
}

TEST_F(SharedCpu, AGuestThatMayUseVmfuncMeetsNothingThatAnotherVcpuLeftThere) {
  const ViewId view = *vm().CreateView();
  LeaveInTlb(view);
  sim::Controls controls;
  controls.eptp_switching = true;
  controls.eptp_list = *vm().EptpList();
  ASSERT_EQ(cpu().SetControls(controls), absl::OkStatus());
  const GuestEntry entry = vcpu(1).EnterGuest();
  while (cpu().Enter(entry.eptp()) == sim::Event::kKick) {
  }
  ASSERT_EQ(cpu().Vmfunc(0, view), sim::Event::kNone);
  EXPECT_EQ(cpu().AccessGpa(kHooked, Kind::kLoad, 8).event, sim::Event::kEptViolation);
}

TEST_F(SharedCpu, AGuestThatMayUseVmfuncMeetsNothingThatAnotherVmLeftInItsNewViews) {
  sim::Controls controls;
  controls.eptp_switching = true;
  controls.eptp_list = *vm().EptpList();
  ASSERT_EQ(Load(kOther, 0), kDone);
  const Hpa root = LeaveInTlbOfAnotherVm();
  ASSERT_EQ(cpu().SetControls(controls), absl::OkStatus());
  const ViewId view = MakeViewOn(root);
  const GuestEntry entry = vcpu(0).EnterGuest();
  while (cpu().Enter(entry.eptp()) == sim::Event::kKick) {
  }
  ASSERT_EQ(cpu().Vmfunc(0, view), sim::Event::kNone);
  EXPECT_EQ(cpu().AccessGpa(kElsewhere, Kind::kLoad, 8).event, sim::Event::kEptViolation);
}

TEST_F(SharedCpu, ASwitchToANewViewMeetsNothingThatAnotherVmLeftThere) {
  ASSERT_EQ(vcpu(0).SetView(*vm().CreateView()), absl::OkStatus());
  ASSERT_EQ(Load(kOther, 0), kDone);
  const Hpa root = LeaveInTlbOfAnotherVm();
  ASSERT_EQ(vcpu(0).SetView(MakeViewOn(root)), absl::OkStatus());
  EXPECT_EQ(Load(kElsewhere, 0), FaultOutcome::kMmio);
}

class SharedCpuWithSmm : public SharedCpu {
 protected:
  SharedCpuWithSmm() : SharedCpu({.address_spaces = 2}) {}
};

TEST_F(SharedCpuWithSmm, AFirstSwitchOfAddressSpacesMeetsNothingThatAnotherVcpuLeftThere) {
  MemoryRegion smram{.address_space = 1, .gpa = Gpa(0), .size = MiB(2), .hva = kRam};
  ASSERT_EQ(vm().SetMemoryRegion(smram), absl::OkStatus());
  ASSERT_EQ(Load(kOther, 1), kDone);
  ASSERT_EQ(vcpu(0).SetAddressSpace(1), absl::OkStatus());
  ASSERT_EQ(Load(kHooked, 0), kDone);
  smram.size = 0;
  ASSERT_EQ(vm().SetMemoryRegion(smram), absl::OkStatus());
  ASSERT_EQ(Load(kOther, 1), kDone);
  ASSERT_EQ(vcpu(1).SetAddressSpace(1), absl::OkStatus());
  EXPECT_EQ(Load(kHooked, 1), FaultOutcome::kMmio);
}

using SharedCpuNested = HostTest;

// L2's root may be in the new memory.
TEST_F(SharedCpuNested, TheEntryAfterNewMemoryForTablesDropsWhatRootsThereLeft) {
  Start({.nested = true});
  const auto flushes_of_entry = [&] {
    const int before = host_.invalidations_of_all;
    (void)vcpu_->EnterGuest();
    return host_.invalidations_of_all - before;
  };
  EXPECT_EQ(flushes_of_entry(), 1) << "the first";
  EXPECT_EQ(flushes_of_entry(), 0);
  ASSERT_EQ(vm_->ReserveTables(400), absl::OkStatus());
  EXPECT_EQ(flushes_of_entry(), 1);
  EXPECT_EQ(flushes_of_entry(), 0);
}

}  // namespace
}  // namespace tdp
