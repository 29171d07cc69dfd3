// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This microhypervisor delegates memory (like NOVA): a capability space hands ranges of frames,
// with rights, to a protection domain and revokes them.

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/change.h"
#include "tests/embedding/machine.h"

namespace tdp {
namespace {

// [delegation]
// Holds the memory that a domain was given; guests of the domain run on it.
class MemorySpace {
 public:
  static absl::StatusOr<MemorySpace> Create(Backend& machine) {
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<Vm> vm, Vm::Create(machine, {.mmio_caching = false}));
    return MemorySpace(std::move(vm));
  }

  // 2^order frames from `from` on appear at `at`. A capability's selector names the delegation.
  absl::Status Delegate(uint32_t selector, Hfn from, Gfn at, int order, Access rights) {
    return vm_->SetMemoryRegion({.slot = selector,
                                 .flags = kSlotHostFrames,
                                 .gpa = at.address(),
                                 .size = PageCount(uint64_t{1} << order).bytes(),
                                 .hpa = from.address(),
                                 .rights = rights});
  }

  // When it returns no CPU of the domain reaches the frames, so they may be given to another. All
  // of the delegations are there, or none is revoked; CPUs are interrupted once.
  absl::Status Revoke(absl::Span<const uint32_t> selectors) {
    std::vector<Change> changes;
    for (const uint32_t selector : selectors) {
      changes.push_back(Change::Region({.slot = selector, .size = 0}));
    }
    return vm_->Apply(changes);
  }

  absl::StatusOr<std::unique_ptr<Vcpu>> CreateVcpu() { return vm_->CreateVcpu(); }

 private:
  explicit MemorySpace(std::unique_ptr<Vm> vm) : vm_(std::move(vm)) {}

  std::unique_ptr<Vm> vm_;
};
// [delegation]

TEST(Delegation, GivesFramesWithTheirRightsAndTakesThemBack) {
  Machine machine;
  absl::StatusOr<MemorySpace> space = MemorySpace::Create(machine.backend());
  ASSERT_EQ(space.status(), absl::OkStatus());
  absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = space->CreateVcpu();
  ASSERT_EQ(vcpu.status(), absl::OkStatus());
  const Hpa frames = machine.Allocate(MiB(2));
  ASSERT_EQ(space->Delegate(7, Hfn::Of(frames), Gfn(0x1000), 4, Access::Read()), absl::OkStatus());

  using Kind = sim::AccessKind;
  const auto access = [&](Gpa gpa, Kind kind) {
    const EptExit exit = machine.Run(**vcpu, gpa, kind);
    if (!exit.is_violation) return FaultOutcome::kSpurious;
    return (*vcpu)->HandleEptViolation(exit.gpa, exit.qualification).outcome;
  };
  const Gpa page = Gfn(0x1003).address();
  EXPECT_EQ(access(page, Kind::kLoad), FaultOutcome::kFixed);
  EXPECT_EQ(access(page, Kind::kLoad), FaultOutcome::kSpurious) << "the guest reads";
  EXPECT_EQ(machine.reached, frames + 3 * kPageSize);
  EXPECT_EQ(access(page, Kind::kFetch), FaultOutcome::kViewDenied);
  EXPECT_EQ(access(page, Kind::kStore), FaultOutcome::kViewDenied);

  EXPECT_TRUE(absl::IsInvalidArgument(space->Revoke({7, 8}))) << "there is no 8, so 7 stays";
  EXPECT_EQ(access(page, Kind::kLoad), FaultOutcome::kSpurious);
  ASSERT_EQ(space->Revoke({7}), absl::OkStatus());
  EXPECT_EQ(access(page, Kind::kLoad), FaultOutcome::kMmio) << "nothing is there";
  vcpu->reset();
}

}  // namespace
}  // namespace tdp
