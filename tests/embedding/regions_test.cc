// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The callers of this hypervisor map memory over memory (like WHvMapGpaRange and HAXM's ram
// blocks): the last one shows, and what it hid comes back when it goes.

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/region.h"
#include "tdp/memslot/region_slots.h"
#include "tdp/mmu/vm.h"
#include "tests/embedding/machine.h"

namespace tdp {
namespace {

// [regions]
class OverlappingMemory {
 public:
  explicit OverlappingMemory(Vm& vm)
      : root_(*tree_.Create({.name = "memory", .size = kWholeAddressSpace})),
        slots_(&tree_, root_, &vm) {}

  // Shows `size` bytes of host memory from `host` on at `gpa`, over whatever is there.
  absl::StatusOr<Region*> Map(Gpa gpa, ByteCount size, Hva host) {
    TDP_ASSIGN_OR_RETURN(
        Region * region,
        tree_.Create({.name = "ram", .kind = RegionKind::kRam, .size = size, .host = host}));
    TDP_RETURN_IF_ERROR(tree_.Attach(root_, region, gpa.raw(), ++newest_));
    return region;
  }

  // Lets what it hid show again.
  absl::Status Unmap(Region* region) {
    TDP_RETURN_IF_ERROR(tree_.Detach(region));
    return tree_.Destroy(region);
  }

 private:
  RegionTree tree_;
  Region* const root_;
  RegionSlots slots_;  // changes the slots of the `Vm` whenever what shows has changed
  int newest_ = 0;
};
// [regions]

TEST(Regions, TheLastOneShowsAndWhatItHidComesBack) {
  Machine machine;
  const Hpa below = machine.Allocate(MiB(2));
  const Hpa above = machine.Allocate(MiB(2));
  const std::unique_ptr<Vm> vm = *Vm::Create(machine.backend(), {.mmio_caching = false});
  const std::unique_ptr<Vcpu> vcpu = *vm->CreateVcpu();
  OverlappingMemory memory(*vm);
  const auto reached = [&](Gpa gpa) {
    for (int tries = 0; tries < 4; ++tries) {
      const EptExit exit = machine.Run(*vcpu, gpa, sim::AccessKind::kLoad);
      if (!exit.is_violation) return machine.reached;
      const FaultResult fault = vcpu->HandleEptViolation(exit.gpa, exit.qualification);
      if (fault.outcome == FaultOutcome::kMmio) break;
    }
    return Hpa(0);
  };
  ASSERT_TRUE(memory.Map(Gpa(0), MiB(2), Hva(below.raw())).ok());
  EXPECT_EQ(reached(Gpa(0x5000)), below + 0x5000);
  const absl::StatusOr<Region*> over = memory.Map(Gpa(0x4000), 0x2000, Hva(above.raw()));
  ASSERT_TRUE(over.ok());
  EXPECT_EQ(reached(Gpa(0x3000)), below + 0x3000);
  EXPECT_EQ(reached(Gpa(0x5000)), above + 0x1000);
  EXPECT_EQ(reached(Gpa(0x6000)), below + 0x6000);
  ASSERT_EQ(memory.Unmap(*over), absl::OkStatus());
  EXPECT_EQ(reached(Gpa(0x5000)), below + 0x5000);
  EXPECT_EQ(reached(Gpa(MiB(2))), Hpa(0));
}

}  // namespace
}  // namespace tdp
