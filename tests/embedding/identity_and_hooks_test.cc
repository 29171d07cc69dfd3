// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A hypervisor below a running system (like hvpp): all memory mapped to itself, and hooks that
// whoever reads the page does not see.

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"
#include "tests/embedding/machine.h"

namespace tdp {
namespace {

// [identity and hooks]
// Address space 0 shows the machine as it is, and does not let the hooked page run; space 1 shows
// another frame there, and lets it do nothing else.
class HookedMachine {
 public:
  static absl::StatusOr<std::unique_ptr<Vm>> Create(Backend& machine, ByteCount memory) {
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<Vm> vm, Vm::Create(machine, {.address_spaces = 2}));
    TDP_RETURN_IF_ERROR(Show(*vm, 0, 0, Gfn(0), Gfn::Of(Gpa(memory)), Hfn(0)));
    return vm;
  }

  // Fetches from `page` run the code in `code`; reads and writes see what was there before.
  static absl::Status Hook(Vm& vm, Gfn page, Hfn code, Gfn end) {
    const Gfn next = page + PageCount(1);
    TDP_RETURN_IF_ERROR(Show(vm, 1, 0, Gfn(0), page, Hfn(0)));
    TDP_RETURN_IF_ERROR(Show(vm, 1, 1, page, next, code));
    TDP_RETURN_IF_ERROR(Show(vm, 1, 2, next, end, Hfn(next.raw())));
    TDP_ASSIGN_OR_RETURN(const ViewId data, vm.CreateView(0));
    TDP_ASSIGN_OR_RETURN(const ViewId run, vm.CreateView(1));
    TDP_RETURN_IF_ERROR(vm.SetViewRights(data, page, PageCount(1), Access::ReadWrite(), 0));
    return vm.SetViewRights(run, page, PageCount(1), Access::Execute(), 1);
  }

  // Whether the guest may go on: what one space denies the other allows. No flush, two stores.
  static absl::Status OnViolation(Vcpu& vcpu, Gpa gpa, ExitQualification qualification) {
    const FaultResult fault = vcpu.HandleEptViolation(gpa, qualification);
    if (fault.outcome != FaultOutcome::kViewDenied) return fault.status;
    TDP_RETURN_IF_ERROR(vcpu.SetAddressSpace(fault.denied.can_execute() ? 1 : 0));
    return vcpu.SetView(ViewId(1));
  }

 private:
  static absl::Status Show(Vm& vm, AddressSpaceId space, uint32_t slot, Gfn first, Gfn end,
                           Hfn frames) {
    return vm.SetMemoryRegion({.slot = slot,
                               .address_space = space,
                               .gpa = first.address(),
                               .size = (end - first).bytes(),
                               .hva = Hva(frames.address().raw())});
  }
};
// [identity and hooks]

TEST(IdentityAndHooks, AHookedPageRunsOtherCodeThanItShows) {
  Machine machine;
  const Hpa data = machine.Allocate(MiB(2));
  const Hpa code = machine.Allocate(MiB(2));
  machine.Write(data, 1);
  machine.Write(code, 2);
  std::unique_ptr<Vm> vm = *HookedMachine::Create(machine.backend(), GiB(4));
  ASSERT_EQ(HookedMachine::Hook(*vm, Gfn(data.raw() >> 12), Hfn::Of(code), Gfn::Of(Gpa(GiB(4)))),
            absl::OkStatus());
  std::unique_ptr<Vcpu> vcpu = *vm->CreateVcpu();
  ASSERT_EQ(vcpu->SetView(ViewId(1)), absl::OkStatus());

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
  vcpu.reset();
}

}  // namespace
}  // namespace tdp
