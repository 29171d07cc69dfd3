// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This hypervisor divides the machine once (like Jailhouse): cells have lists of regions.

#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"
#include "tests/embedding/machine.h"

namespace tdp {
namespace {

// [static partition]
struct CellRegion {
  Hpa phys;
  Gpa virt;
  ByteCount size;
  bool writable;
};

class Cell {
 public:
  // Everything is mapped before the cell runs, and nothing is allocated afterwards.
  static absl::StatusOr<Cell> Create(Backend& machine, absl::Span<const CellRegion> regions) {
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<Vm> vm, Vm::Create(machine, {.mmio_caching = false}));
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<Vcpu> cpu, vm->CreateVcpu());
    uint32_t slot = 0;
    for (const CellRegion& region : regions) {
      const uint32_t read_only = region.writable ? 0 : kSlotReadOnly;
      TDP_RETURN_IF_ERROR(vm->SetMemoryRegion({.slot = slot++,
                                               .flags = kSlotHostFrames | read_only,
                                               .gpa = region.virt,
                                               .size = region.size,
                                               .hpa = region.phys}));
      TDP_ASSIGN_OR_RETURN(const ByteCount mapped, vm->Populate(region.virt, region.size));
      if (mapped != region.size) return absl::ResourceExhaustedError("the cell's tables");
    }
    return Cell(std::move(vm), std::move(cpu));
  }

  Vcpu& cpu() { return *cpu_; }
  // A cell that reaches beyond its regions is at its end; what is MMIO here is to be emulated.
  FaultOutcome OnViolation(const EptExit& exit) {
    return cpu_->HandleEptViolation(exit.gpa, exit.qualification).outcome;
  }

 private:
  Cell(std::unique_ptr<Vm> vm, std::unique_ptr<Vcpu> cpu)
      : vm_(std::move(vm)), cpu_(std::move(cpu)) {}

  std::unique_ptr<Vm> vm_;
  std::unique_ptr<Vcpu> cpu_;
};
// [static partition]

TEST(StaticPartition, CellsRunWithoutAViolationInsideTheirRegionsAndWithOneOutside) {
  Machine machine;
  const Hpa ram = machine.Allocate(MiB(4));
  const Hpa shared = machine.Allocate(MiB(2));
  absl::StatusOr<Cell> cell = Cell::Create(
      machine.backend(), {{ram, Gpa(0), MiB(4), true}, {shared, Gpa(GiB(1)), KiB(16), false}});
  ASSERT_EQ(cell.status(), absl::OkStatus());
  using Kind = sim::AccessKind;
  EXPECT_FALSE(machine.Run(cell->cpu(), Gpa(MiB(3)), Kind::kStore).is_violation);
  EXPECT_EQ(machine.reached, ram + MiB(3));
  EXPECT_FALSE(machine.Run(cell->cpu(), Gpa(GiB(1)), Kind::kLoad).is_violation);
  EXPECT_EQ(machine.reached, shared);

  const EptExit write = machine.Run(cell->cpu(), Gpa(GiB(1)), Kind::kStore);
  ASSERT_TRUE(write.is_violation);
  EXPECT_EQ(cell->OnViolation(write), FaultOutcome::kMmio);
  const EptExit outside = machine.Run(cell->cpu(), Gpa(GiB(1) + KiB(16)), Kind::kLoad);
  ASSERT_TRUE(outside.is_violation);
  EXPECT_EQ(cell->OnViolation(outside), FaultOutcome::kMmio);
}

}  // namespace
}  // namespace tdp
