// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This hypervisor has slots, faults, an MMU notifier and dirty logs (like KVM).

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"
#include "tests/embedding/machine.h"

namespace tdp {
namespace {

// [slots and faults]
enum class ExitToUser { kNone, kMmio, kMemoryFault };

class GuestMmu {
 public:
  explicit GuestMmu(std::unique_ptr<Vm> vm) : vm_(std::move(vm)) {}
  Vm& vm() { return *vm_; }

  // Do what KVM_SET_USER_MEMORY_REGION and KVM_GET_DIRTY_LOG do.
  absl::Status SetUserMemoryRegion(const MemoryRegion& region) {
    return vm_->SetMemoryRegion(region);
  }
  absl::Status GetDirtyLog(uint32_t slot, std::vector<uint64_t>& bitmap) {
    return vm_->GetDirtyLog(slot,
                            [&](uint64_t first, uint64_t pages) { bitmap[first / 64] |= pages; });
  }

  // Answers as kvm_mmu_page_fault: with kNone the guest runs on, else user space has its turn.
  absl::StatusOr<ExitToUser> PageFault(Vcpu& vcpu, Gpa gpa, ExitQualification qualification) {
    const FaultResult fault = vcpu.HandleEptViolation(gpa, qualification);
    switch (fault.outcome) {
      case FaultOutcome::kMmio:
        return ExitToUser::kMmio;
      case FaultOutcome::kMemoryFault:
        return ExitToUser::kMemoryFault;
      case FaultOutcome::kError:
        return fault.status;
      default:
        return ExitToUser::kNone;
    }
  }

  // Serve the MMU notifier: invalidate_range_start and _end, clear_flush_young.
  absl::Status InvalidateRangeStart(Hva start, Hva end) {
    return vm_->BeginHostInvalidation(start, end - start);
  }
  void InvalidateRangeEnd() { vm_->EndHostInvalidation(); }
  absl::StatusOr<bool> ClearFlushYoung(Hva start, Hva end) {
    TDP_ASSIGN_OR_RETURN(AgeResult aged, vm_->AgeHostRange(start, end - start));
    aged.flush.Settle();
    return aged.young;
  }

 private:
  std::unique_ptr<Vm> vm_;
};
// [slots and faults]

TEST(SlotsAndFaults, FaultsInvalidationsAndDirtyLogsDoWhatTheirKvmNamesDo) {
  Machine machine;
  const Hpa ram = machine.Allocate(MiB(2));
  GuestMmu mmu(*Vm::Create(machine.backend()));
  ASSERT_EQ(mmu.SetUserMemoryRegion({.slot = 0,
                                     .flags = kSlotLogDirtyPages,
                                     .gpa = Gpa(MiB(16)),
                                     .size = MiB(2),
                                     .hva = Hva(ram.raw())}),
            absl::OkStatus());
  std::unique_ptr<Vcpu> vcpu = *mmu.vm().CreateVcpu();
  const auto run = [&](Gpa gpa, sim::AccessKind kind) {
    for (;;) {
      const EptExit exit = machine.Run(*vcpu, gpa, kind);
      if (!exit.is_violation) return ExitToUser::kNone;
      const auto result = mmu.PageFault(*vcpu, exit.gpa, exit.qualification);
      EXPECT_EQ(result.status(), absl::OkStatus());
      if (*result != ExitToUser::kNone) return *result;
    }
  };
  EXPECT_EQ(run(Gpa(MiB(16) + 5 * kPageSize), sim::AccessKind::kStore), ExitToUser::kNone);
  EXPECT_EQ(machine.reached, ram + 5 * kPageSize);
  EXPECT_EQ(run(Gpa(MiB(1)), sim::AccessKind::kLoad), ExitToUser::kMmio);

  std::vector<uint64_t> bitmap(8);
  ASSERT_EQ(mmu.GetDirtyLog(0, bitmap), absl::OkStatus());
  EXPECT_EQ(bitmap[0], uint64_t{1} << 5);

  const Hva page(ram.raw() + 5 * kPageSize);
  EXPECT_TRUE(*mmu.ClearFlushYoung(page, page + kPageSize));
  ASSERT_EQ(mmu.InvalidateRangeStart(page, page + kPageSize), absl::OkStatus());
  EXPECT_FALSE(mmu.vm().Translate(Gpa(MiB(16) + 5 * kPageSize)).ok());
  mmu.InvalidateRangeEnd();
  EXPECT_EQ(run(Gpa(MiB(16) + 5 * kPageSize), sim::AccessKind::kLoad), ExitToUser::kNone);
  vcpu.reset();
}

}  // namespace
}  // namespace tdp
