// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs fault at once on shadow tables that are linked: each sets its leaves as a reader.

#include <array>
#include <barrier>
#include <cstdint>
#include <memory>
#include <thread>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vcpu.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr uint64_t kEntries = 512;

// The guest has two tables of leaves, in frames 3 and 4, at gva 0 and 2 MiB. Its pages are in a
// slot of their own, from gpa 1 GiB on.
class ShadowBeside : public HostTest {
 protected:
  ShadowBeside() {
    Start({.paging = Paging::kShadow});
    other_ = *vm_->CreateVcpu();
    const Hva tables(reinterpret_cast<uintptr_t>(tables_.data()));
    EXPECT_TRUE(vm_->SetMemoryRegion({.size = sizeof(tables_), .hva = tables}).ok());
    EXPECT_TRUE(
        vm_->SetMemoryRegion({.slot = 1, .gpa = Gpa(GiB(1)), .size = kPagesBytes, .hva = kPages})
            .ok());
    SetEntry(0, 0, 1 << kPageShift);
    SetEntry(1, 0, 2 << kPageShift);
    SetEntry(2, 0, 3 << kPageShift);
    SetEntry(2, 1, 4 << kPageShift);
    for (Vcpu* vcpu : {vcpu_.get(), other_.get()}) {
      const GuestControls controls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                   .cr4 = guest::kCr4PhysicalAddressExtension,
                                   .efer = guest::kEferLongModeActive};
      EXPECT_TRUE(vcpu->shadow()->SetPaging(controls, 0).ok());
    }
  }

  void SetEntry(uint64_t table, uint64_t index, uint64_t gpa) {
    tables_[table][index] = gpa | 0x67;
  }
  void FaultOn(uint64_t vcpu, uint64_t gva) {
    const PagingFaultResult result =
        (vcpu == 0 ? vcpu_ : other_)->shadow()->HandlePageFault(Gva(gva), guest::kFaultWrite);
    EXPECT_LE(result.outcome, PagingOutcome::kSpurious) << result.status;
  }
  // Lets each vCPU fault on the gvas that `gva_of(vcpu, i)` gives for each i below `faults`, all at
  // once, after which everything is as it should be; then takes the pages away. And again.
  void FaultAtOnce(uint64_t faults, absl::FunctionRef<uint64_t(uint64_t vcpu, uint64_t i)> gva_of) {
    constexpr int kRounds = 300;
    for (int round = 0; round < kRounds; ++round) {
      std::barrier together(2);
      const auto fault_on_all = [&](uint64_t id) {
        together.arrive_and_wait();
        for (uint64_t i = 0; i < faults; ++i) FaultOn(id, gva_of(id, i));
      };
      std::thread other(fault_on_all, 1);
      fault_on_all(0);
      other.join();
      ASSERT_EQ(vm_->CheckInvariants(), absl::OkStatus()) << "round " << round;
      ASSERT_TRUE(vm_->InvalidateHostRange(kPages, kPagesBytes).ok());
      ASSERT_EQ(vm_->CheckInvariants(), absl::OkStatus()) << "round " << round;
    }
  }

 private:
  static constexpr Hva kPages{TiB(16)};
  static constexpr ByteCount kPagesBytes = MiB(8);

  alignas(kPageSize) std::array<std::array<uint64_t, kEntries>, 8> tables_{};
  std::unique_ptr<Vcpu> other_;
};

// The heads of the one vCPU's frames have another lock than those of the other's.
TEST_F(ShadowBeside, FaultsOnTheEntriesOfOneTableEachCount) {
  for (uint64_t i = 0; i < kEntries; ++i) {
    SetEntry(3, i, GiB(1) + (i % 2 * kEntries + i) * kPageSize);
  }
  FaultAtOnce(kEntries / 2, [](uint64_t vcpu, uint64_t i) { return (2 * i + vcpu) << kPageShift; });
}

// Sees whether each store to a shadow page is made with the page's lock.
class LockWatch : public EntryStoreHook {
 public:
  LockWatch() : before_(SetEntryStoreHook(this)) {}
  ~LockWatch() override { SetEntryStoreHook(before_); }
  void OnStore(const uint64_t* where, EptEntry, EptEntry) override {
    ++(ShadowPage::Of(where)->leaf_lock.is_held() ? with : without);
  }

  int with = 0;
  int without = 0;

 private:
  EntryStoreHook* const before_;
};

TEST_F(ShadowBeside, AFaultOnALinkedTableHoldsTheLockOfItsPage) {
  for (uint64_t i = 0; i < kEntries; ++i) SetEntry(3, i, GiB(1) + i * kPageSize);
  FaultOn(0, 0);  // makes the page
  LockWatch watch;
  for (uint64_t i = 8; i < kEntries; i += 8) FaultOn(1, i << kPageShift);
  EXPECT_EQ(watch.with, 504);
  EXPECT_EQ(watch.without, 0);
}

TEST_F(ShadowBeside, LeavesOfOneFrameInTwoTablesAreAllFoundByIt) {
  for (uint64_t i = 0; i < kEntries; ++i) {
    for (const uint64_t table : {3, 4}) SetEntry(table, i, GiB(1) + i * kPageSize);
  }
  FaultAtOnce(kEntries,
              [](uint64_t vcpu, uint64_t i) { return (vcpu * kEntries + i) << kPageShift; });
}

TEST_F(ShadowBeside, FaultsOnOneEntryMakeOneLeaf) {
  for (uint64_t i = 0; i < kEntries; ++i) SetEntry(3, i, GiB(1) + i * kPageSize);
  FaultAtOnce(kEntries, [](uint64_t, uint64_t i) { return i << kPageShift; });
}

}  // namespace
}  // namespace tdp
