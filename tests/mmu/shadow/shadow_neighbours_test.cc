// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A fault on shadow tables asks the host for its page and for neighbours of it, and fills them in
// with it.

#include <array>
#include <cstdint>
#include <set>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/format/paging_entry.h"
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
// 517, and a second table of leaves, for gva 2 MiB and on, is in frame 513. A second slot, of which
// nobody reads or writes anything, is at 1 GiB.
class ShadowNeighbours : public HostTest {
 protected:
  static constexpr uint64_t kSecondSlot = 1 << 18;  // its first frame

  ShadowNeighbours() {
    Start({.paging = Paging::kShadow});
    const Hva memory(reinterpret_cast<uintptr_t>(memory_.data()));
    EXPECT_TRUE(vm_->SetMemoryRegion({.size = sizeof(memory_), .hva = memory}).ok());
    host_.on_answer = [this, memory](Hva hva, Access access, HostPage& page) {
      const uint64_t frame = (hva.raw() - memory.raw()) >> kPageShift;
      asked_.insert(frame);
      if (access.can_write()) asked_to_write_.insert(frame);
      if (refuses_writes_) page.writable = false;
    };
    SetSecondSlot(0);
    for (uint64_t table = 514; table < 517; ++table) SetEntry(table, 0, table + 1);
    SetEntry(516, 1, 513);
    SetEntry(513, 0, 8);
    SetEntry(517, 0, 8);
    const GuestControls controls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                 .cr4 = guest::kCr4PhysicalAddressExtension,
                                 .efer = guest::kEferLongModeActive | guest::kEferNoExecute};
    EXPECT_TRUE(vcpu_->shadow()->SetPaging(controls, uint64_t{514} << kPageShift).ok());
    // Neighbours are asked for where the page of a table is there already.
    FaultOn(0);
    FaultOn(MiB(2));
    asked_.clear();
  }

  void SetSecondSlot(uint32_t flags) {
    const MemoryRegion region = {.slot = 1,
                                 .flags = flags,
                                 .gpa = Gpa(kSecondSlot << kPageShift),
                                 .size = GiB(1),
                                 .hva = Hva(TiB(16))};
    EXPECT_EQ(vm_->SetMemoryRegion(region), absl::OkStatus());
  }
  void SetEntry(uint64_t table, uint64_t index, uint64_t frame, uint64_t bits = kAll) {
    memory_[table][index] = frame << kPageShift | bits;
  }
  // Lets eight entries, 0x30 to 0x37 by default, map frames in a row.
  void SetRow(uint64_t first, uint64_t index = 0x30) {
    for (uint64_t i = 0; i < 8; ++i) SetEntry(517, index + i, first + i);
  }
  PagingFaultResult Fault(uint64_t gva, uint32_t error_code = 0) {
    return vcpu_->shadow()->HandlePageFault(Gva(gva), error_code);
  }
  void FaultOn(uint64_t gva, uint32_t error_code = 0) {
    const PagingFaultResult result = Fault(gva, error_code);
    EXPECT_EQ(result.outcome, PagingOutcome::kFixed) << result.status;
  }
  PagingEntry LeafAt(uint64_t gva) { return vcpu_->shadow()->impl().Look(Gva(gva)).entry; }
  // Lets the guest write the table of leaves by itself, which goes out of sync.
  void WriteTheTable() {
    SetEntry(517, 8, 517);
    FaultOn(0x8000, guest::kFaultWrite);
    EXPECT_EQ(vm_->Stats().shadow.mmu_unsync, 1u);
  }

  // The frames that the host is asked for, by their place behind the guest's memory.
  std::set<uint64_t> asked_;
  std::set<uint64_t> asked_to_write_;
  bool refuses_writes_ = false;

 private:
  alignas(kPageSize) std::array<std::array<uint64_t, 512>, 520> memory_{};
};

TEST_F(ShadowNeighbours, AreAskedForWithThePage) {
  SetRow(0x10);
  FaultOn(0x33000);
  EXPECT_EQ(asked_, (std::set<uint64_t>{0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17}));
}

TEST_F(ShadowNeighbours, EndWhereTheRowDoes) {
  SetRow(0x10);
  SetEntry(517, 0x35, 0x100);
  FaultOn(0x33000);
  EXPECT_EQ(asked_, (std::set<uint64_t>{0x10, 0x11, 0x12, 0x13, 0x14}));
}

TEST_F(ShadowNeighbours, EndWithTheSlot) {
  SetRow(kSecondSlot - 4);
  FaultOn(0x36000);
  EXPECT_EQ(asked_.size(), 4u);
  asked_.clear();
  SetRow(kSecondSlot + (GiB(1) >> kPageShift) - 4, 0x40);
  FaultOn(0x41000);
  EXPECT_EQ(asked_.size(), 4u);
}

// The host answers for more than it was asked for.
TEST_F(ShadowNeighbours, AreThoseThatWereAskedFor) {
  for (uint64_t i = 0; i < 4; ++i) SetEntry(517, 0x30 + i, 0x10 + i);
  SetEntry(517, 0x34, 0x1a);
  host_.run = PageCount(12);
  FaultOn(0x31000);
  EXPECT_TRUE(LeafAt(0x33000).is_present());
  EXPECT_FALSE(LeafAt(0x34000).is_present());
}

// The entry before that of frame 0 looks as if it mapped the frame before.
TEST_F(ShadowNeighbours, NoneLiesBeforeFrame0) {
  SetEntry(517, 0x31, 0);
  SetEntry(517, 0x30, ~uint64_t{0} >> kPageShift);
  FaultOn(0x31000);
  EXPECT_EQ(asked_, std::set<uint64_t>{0}) << "what lies in front of the guest's memory is not its";
}

// --- Rights ---

// The host shares every page until it is written.
TEST_F(ShadowNeighbours, AreSharedUntilTheyAreWritten) {
  host_.writable = false;
  SetRow(0x10);
  FaultOn(0x33000);
  for (uint64_t gva = 0x30000; gva < 0x38000; gva += kPageSize) {
    EXPECT_TRUE(LeafAt(gva).is_present());
    EXPECT_FALSE(LeafAt(gva).is_writable());
  }
  EXPECT_EQ(asked_to_write_, std::set<uint64_t>());
  FaultOn(0x33000, guest::kFaultPresent | guest::kFaultWrite);
  EXPECT_EQ(asked_to_write_, std::set<uint64_t>{0x13});
  EXPECT_TRUE(LeafAt(0x33000).is_writable());
  EXPECT_FALSE(LeafAt(0x34000).is_writable());
}

// The host was asked for a page to be written, and gives one that is not, since it changes its
// mind.
TEST_F(ShadowNeighbours, AWriteThatTheHostDoesNotAllowYetIsTriedAgain) {
  refuses_writes_ = true;
  SetEntry(517, 0x33, 0x13);
  EXPECT_EQ(Fault(0x33000, guest::kFaultWrite).outcome, PagingOutcome::kRetry);
}

TEST_F(ShadowNeighbours, HaveEachTheRightsOfTheirEntry) {
  SetRow(0x10);
  SetEntry(517, 0x31, 0x11, kAll & ~guest::kUser);
  SetEntry(517, 0x32, 0x12, kAll & ~guest::kWrite);
  SetEntry(517, 0x34, 0x14, kAll & ~guest::kDirty);
  SetEntry(517, 0x35, 0x15, kAll | guest::kNoExecute);
  FaultOn(0x33000);
  constexpr unsigned kRights = GuestRights::kAll;
  EXPECT_EQ(LeafAt(0x30000).rights().raw(), kRights);
  EXPECT_EQ(LeafAt(0x31000).rights().raw(), kRights & ~GuestRights::kUser);
  EXPECT_EQ(LeafAt(0x32000).rights().raw(), kRights & ~GuestRights::kWrite);
  EXPECT_EQ(LeafAt(0x33000).rights().raw(), kRights);
  EXPECT_EQ(LeafAt(0x34000).rights().raw(), kRights & ~GuestRights::kWrite);
  EXPECT_EQ(LeafAt(0x35000).rights().raw(), kRights & ~GuestRights::kExecute);
  EXPECT_EQ(LeafAt(0x36000).rights().raw(), kRights);
}

TEST_F(ShadowNeighbours, HaveNoRightThatAnEntryAboveTheirTableLacks) {
  SetEntry(516, 2, 512, kAll & ~guest::kWrite);
  for (uint64_t i = 0; i < 8; ++i) SetEntry(512, 8 + i, 0x10 + i);
  SetEntry(512, 0, 8);
  FaultOn(MiB(4));  // makes the page
  FaultOn(MiB(4) + 0xb000);
  EXPECT_TRUE(LeafAt(MiB(4) + 0xc000).is_present());
  EXPECT_FALSE(LeafAt(MiB(4) + 0xc000).is_writable());
}

// Without EFER.NXE bit 63 is reserved: an access by that entry faults.
TEST_F(ShadowNeighbours, AreNotWhatAReservedBitForbids) {
  GuestControls controls = vcpu_->shadow()->paging().controls();
  controls.efer &= ~guest::kEferNoExecute;
  ASSERT_TRUE(vcpu_->shadow()->SetPaging(controls, uint64_t{514} << kPageShift).ok());
  FaultOn(0);
  host_.order = 9;
  SetRow(kSecondSlot + 0x10);
  SetEntry(517, 0x31, kSecondSlot + 0x11, kAll | guest::kNoExecute);
  FaultOn(0x32000);
  EXPECT_TRUE(LeafAt(0x30000).is_present());
  EXPECT_FALSE(LeafAt(0x31000).is_present());
}

TEST_F(ShadowNeighbours, AreNotWritableInReadOnlyMemory) {
  ASSERT_EQ(vm_->SetMemoryRegion({.slot = 1}), absl::OkStatus());
  SetSecondSlot(kSlotReadOnly);
  SetRow(kSecondSlot + 0x10);
  FaultOn(0x33000);
  for (uint64_t gva = 0x30000; gva < 0x38000; gva += kPageSize) {
    EXPECT_TRUE(LeafAt(gva).is_present());
    EXPECT_FALSE(LeafAt(gva).is_writable());
  }
}

// --- Tables among them ---

TEST_F(ShadowNeighbours, ATableAmongThemIsNotMadeWritable) {
  SetRow(512);
  FaultOn(0x30000);
  for (const uint64_t frame : {513, 514, 515, 516, 517}) {
    EXPECT_FALSE(LeafAt((frame - 512 + 0x30) << kPageShift).is_writable()) << frame;
  }
  EXPECT_TRUE(LeafAt(0x36000).is_writable()) << "frame 518 is no table";
}

// The row begins in memory without tables.
TEST_F(ShadowNeighbours, ATableInTheNext2MiBIsNotMadeWritableEither) {
  for (uint64_t i = 0; i < 4; ++i) SetEntry(517, 0x30 + i, 510 + i);
  FaultOn(0x32000);
  EXPECT_TRUE(LeafAt(0x33000).is_present());
  EXPECT_FALSE(LeafAt(0x33000).is_writable());
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

TEST_F(ShadowNeighbours, ATableThatIsReadStaysInSync) {
  SetEntry(517, 8, 517);
  FaultOn(0x8000);
  EXPECT_FALSE(LeafAt(0x8000).is_writable());
  EXPECT_EQ(vm_->Stats().shadow.mmu_unsync, 0u);
}

// --- Host pages ---

// Host pages of two frames: the third frame is another's.
TEST_F(ShadowNeighbours, EndWithTheHostPage) {
  host_.order = 1;
  SetRow(kSecondSlot + 0x10);
  FaultOn(0x32000);
  for (uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(LeafAt((0x30 + i) << kPageShift).is_present(), i == 2 || i == 3) << i;
  }
}

// The answers that one fault got are nothing to the next: the pages have moved since.
TEST_F(ShadowNeighbours, AreThoseOfOneFault) {
  SetRow(kSecondSlot + 0x10);
  FaultOn(0x33000);
  ASSERT_TRUE(vm_->InvalidateHostRange(Hva(TiB(16)), MiB(1)).ok());
  ASSERT_FALSE(LeafAt(0x30000).is_present());
  FaultOn(0x33000, guest::kFaultPresent);
  EXPECT_FALSE(LeafAt(0x34000).is_present()) << "nobody was asked for it";
}

TEST_F(ShadowNeighbours, ALargePageOf1GiBIsMappedBy2MiB) {
  host_.order = 18;
  SetEntry(515, 1, kSecondSlot, kAll | guest::kLargePage);
  const PagingFaultResult result = Fault(GiB(1) + MiB(6), guest::kFaultWrite);
  EXPECT_EQ(result.outcome, PagingOutcome::kFixed);
  EXPECT_EQ(result.level, kLevel2M);
}

// --- Flushes ---

// The host cannot give the table back that a flush has to read.
TEST_F(ShadowNeighbours, AFlushOfATableThatTheHostDoesNotGiveDropsIt) {
  WriteTheTable();
  // After a change of slots what was found of guest memory has to be found again.
  ASSERT_EQ(vm_->SetMemoryRegion({.slot = 1}), absl::OkStatus());
  host_.answer = absl::UnavailableError("later");
  EXPECT_TRUE(vcpu_->shadow()->WriteCr3(uint64_t{514} << kPageShift).ok());
  EXPECT_EQ(vm_->Stats().shadow.mmu_unsync, 0u);
  EXPECT_FALSE(LeafAt(0).is_present());
  host_.answer = absl::OkStatus();
  FaultOn(0);
}

}  // namespace
}  // namespace tdp
