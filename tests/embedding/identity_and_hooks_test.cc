// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This hypervisor lies below a running system (like hvpp): all memory is mapped to itself, and
// whoever reads a page does not see its hooks.

#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/embedding/machine.h"

namespace tdp {
namespace {

// [identity and hooks]
// The base view shows the machine as it is, and does not let hooked pages run; the other view shows
// other frames there, and lets them do nothing else.
class HookedMachine {
 public:
  // `memory` bytes appear at their own addresses, by the largest pages that the CPU has. Nobody is
  // asked for a frame, now or later.
  static absl::StatusOr<std::unique_ptr<Vm>> Create(Backend& machine, ByteCount memory) {
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<Vm> vm, Vm::Create(machine));
    TDP_RETURN_IF_ERROR(vm->SetMemoryRegion(
        {.flags = kSlotHostFrames, .gpa = Gpa(0), .size = memory, .hpa = Hpa(0)}));
    TDP_ASSIGN_OR_RETURN(const ByteCount mapped, vm->Populate(Gpa(0), memory));
    if (mapped != memory) return absl::ResourceExhaustedError("no tables for all memory");
    TDP_RETURN_IF_ERROR(vm->CreateView().status());
    return vm;
  }

  // Fetches from `page` run the code in `code`; reads and writes see what was there before. All of
  // it or nothing, with one flush.
  static absl::Status Hook(Vm& vm, Gfn page, Hfn code) {
    return vm.Apply({Change::ViewRights(kBaseView, page, PageCount(1), Access::ReadWrite()),
                     Change::ViewFrames(kRun, page, PageCount(1), code),
                     Change::ViewRights(kRun, page, PageCount(1), Access::Execute())});
  }
  static absl::Status Unhook(Vm& vm, Gfn page) {
    return vm.Apply({Change::ViewRights(kBaseView, page, PageCount(1), Access::All()),
                     Change::ViewFrames(kRun, page, PageCount(1), std::nullopt),
                     Change::ViewRights(kRun, page, PageCount(1), Access::All())});
  }

  // Returns whether the guest may go on: what one view denies the other allows. It takes a few
  // stores, and no flush.
  static absl::Status OnViolation(Vcpu& vcpu, Gpa gpa, ExitQualification qualification) {
    const FaultResult fault = vcpu.HandleEptViolation(gpa, qualification);
    if (fault.outcome != FaultOutcome::kViewDenied) return fault.status;
    return vcpu.SetView(vcpu.view() == kBaseView ? kRun : kBaseView);
  }

 private:
  static constexpr ViewId kRun = 1;
};
// [identity and hooks]

TEST(IdentityAndHooks, AHookedPageRunsOtherCodeThanItShows) {
  Machine machine;
  const Hpa data = machine.Allocate(MiB(2));
  const Hpa code = machine.Allocate(MiB(2));
  machine.Write(data, 1);
  machine.Write(code, 2);
  std::unique_ptr<Vm> vm = *HookedMachine::Create(machine.backend(), GiB(4));
  const Gfn page = Gfn::Of(Gpa(data.raw()));
  ASSERT_EQ(HookedMachine::Hook(*vm, page, Hfn::Of(code)), absl::OkStatus());
  std::unique_ptr<Vcpu> vcpu = *vm->CreateVcpu();

  int exits = 0;
  const auto sees = [&](sim::AccessKind kind) {
    for (;;) {
      const EptExit exit = machine.Run(*vcpu, Gpa(data.raw()), kind);
      if (!exit.is_violation) return machine.Read(machine.reached);
      ++exits;
      EXPECT_EQ(HookedMachine::OnViolation(*vcpu, exit.gpa, exit.qualification), absl::OkStatus());
    }
  };
  EXPECT_EQ(sees(sim::AccessKind::kLoad), 1u);
  EXPECT_EQ(sees(sim::AccessKind::kFetch), 2u);
  EXPECT_EQ(sees(sim::AccessKind::kLoad), 1u);
  exits = 0;
  EXPECT_EQ(sees(sim::AccessKind::kFetch), 2u);
  EXPECT_EQ(exits, 1) << "a flip is one exit; nothing is mapped or resolved anew";
  ASSERT_EQ(HookedMachine::Unhook(*vm, page), absl::OkStatus());
  EXPECT_EQ(sees(sim::AccessKind::kFetch), 1u);
  vcpu.reset();
}

}  // namespace
}  // namespace tdp
