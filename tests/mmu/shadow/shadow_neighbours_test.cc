// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A fault on shadow tables asks the host for neighbours of its page, and fills them in with it.

#include <array>
#include <cstdint>
#include <set>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/shadow/shadow_vcpu_impl.h"
#include "tdp/mmu/vcpu.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr uint64_t kAll = 0x67;  // present, writable, user, A, D

// The guest's memory is this process's own. Its tables are in the second 2 MiB, in frames 514 to
// 517, and a second table of leaves, for gva 2 MiB and on, is in frame 513.
class ShadowNeighbours : public HostTest {
 protected:
  ShadowNeighbours() {
    Start({.paging = Paging::kShadow});
    const Hva memory(reinterpret_cast<uintptr_t>(memory_.data()));
    EXPECT_TRUE(vm_->SetMemoryRegion({.size = sizeof(memory_), .hva = memory}).ok());
    for (uint64_t table = 514; table < 517; ++table) SetEntry(table, 0, table + 1);
    SetEntry(516, 1, 513);
    SetEntry(513, 0, 8);
    SetEntry(517, 0, 8);
    const GuestControls controls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                 .cr4 = guest::kCr4PhysicalAddressExtension,
                                 .efer = guest::kEferLongModeActive};
    EXPECT_TRUE(vcpu_->shadow()->SetPaging(controls, uint64_t{514} << kPageShift).ok());
    // Neighbours are asked for where the page of a table is there already.
    FaultOn(0);
    FaultOn(MiB(2));
  }

  void SetEntry(uint64_t table, uint64_t index, uint64_t frame) {
    memory_[table][index] = frame << kPageShift | kAll;
  }
  void FaultOn(uint64_t gva) {
    const PagingFaultResult result = vcpu_->shadow()->HandlePageFault(Gva(gva), 0);
    EXPECT_EQ(result.outcome, PagingOutcome::kFixed) << result.status;
  }
  PagingEntry LeafAt(uint64_t gva) { return vcpu_->shadow()->impl().Look(Gva(gva)).entry; }
  // Returns the frames of the guest that the host is asked for from here on.
  std::set<uint64_t>& WatchTheHost() {
    host_.frame_of = [this](Hva hva) {
      asked_.insert((hva.raw() - reinterpret_cast<uintptr_t>(memory_.data())) >> kPageShift);
      return Hfn(hva.raw() >> kPageShift);
    };
    return asked_;
  }

 private:
  alignas(kPageSize) std::array<std::array<uint64_t, 512>, 520> memory_{};
  std::set<uint64_t> asked_;
};

TEST_F(ShadowNeighbours, AreAskedForWithThePage) {
  for (uint64_t i = 0; i < 8; ++i) SetEntry(517, 0x30 + i, 0x10 + i);
  const std::set<uint64_t>& asked = WatchTheHost();
  FaultOn(0x33000);
  EXPECT_EQ(asked, (std::set<uint64_t>{0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17}));
}

// The entry before that of frame 0 looks as if it mapped the frame before.
TEST_F(ShadowNeighbours, NoneLiesBeforeFrame0) {
  SetEntry(517, 0x31, 0);
  SetEntry(517, 0x30, ~uint64_t{0} >> kPageShift);
  const std::set<uint64_t>& asked = WatchTheHost();
  FaultOn(0x31000);
  EXPECT_EQ(asked, std::set<uint64_t>{0}) << "what lies in front of the guest's memory is not its";
}

// The host answers for less than it was asked for, up to the end of 2 MiB: not for the page of the
// fault, frame 513, which is a table, and which the next entry maps once more.
TEST_F(ShadowNeighbours, ATableAmongThemIsNotMadeWritableWhereTheHostAnswersForFewer) {
  for (uint64_t i = 0; i < 4; ++i) SetEntry(517, 0x20 + i, 510 + i);
  SetEntry(517, 0x24, 513);
  host_.run = PageCount(2);
  FaultOn(0x23000);
  EXPECT_FALSE(LeafAt(0x23000).is_writable());
  EXPECT_FALSE(LeafAt(0x24000).is_writable());
}

}  // namespace
}  // namespace tdp
