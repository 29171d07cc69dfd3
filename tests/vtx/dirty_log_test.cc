// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Dirty pages are logged by write-protection, by the CPU's D bits and by its page-modification log:
// each must agree with what the guest wrote.

#include <bit>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/mmu/vm_options.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

constexpr uint32_t kSlot = 1;
constexpr Gpa kData{MiB(8)};
constexpr ByteCount kBytes = MiB(4);
constexpr uint64_t kMask = (kBytes - 1) & ~uint64_t{7};

struct Param {
  DirtyTracking tracking;
  int max_order;  // of host pages
};

std::string Name(const testing::TestParamInfo<Param>& info) {
  const char* const pages = info.param.max_order == 0 ? "OnSmallPages" : "OnLargePages";
  switch (info.param.tracking) {
    case DirtyTracking::kWriteProtection:
      return std::string("WriteProtection") + pages;
    case DirtyTracking::kDirtyBits:
      return std::string("DirtyBits") + pages;
    default:
      return std::string("Pml") + pages;
  }
}

class DirtyLogging : public testing::TestWithParam<Param> {
 protected:
  static MachineOptions Options() {
    MachineOptions options;
    options.vm.dirty_tracking = GetParam().tracking;
    options.vcpu.pml = GetParam().tracking == DirtyTracking::kPml;
    options.max_order = GetParam().max_order;
    return options;
  }

  DirtyLogging() : machine_(Options()) {
    // The slot logs from its second life on, so that its pages are mapped and dirty by then.
    memory_ = machine_.AddSlot(kSlot, kData, kBytes, 0);
    machine_.Start64(ScatterProgram());
  }

  GuestRegisters Scatter(uint64_t seed, uint64_t writes) const {
    GuestRegisters registers;
    registers.rax = seed;
    registers.rdi = kData.raw();
    registers.rsi = kMask;
    registers.rcx = writes;
    return registers;
  }

  // Runs the guest from the start with these registers, to its end.
  void Write(uint64_t seed, uint64_t writes) {
    machine_.Start64(ScatterProgram());
    machine_.registers() = Scatter(seed, writes);
    ASSERT_EQ(machine_.Run().reason, ExitReason::kHlt);
  }

  // Returns the pages that `Write` writes.
  static std::set<uint64_t> Written(uint64_t seed, uint64_t writes) {
    std::set<uint64_t> pages;
    for (uint64_t i = 0; i < writes; ++i) {
      seed = NextScatter(seed);
      pages.insert((seed >> 20 & kMask) / kPageSize);
    }
    return pages;
  }

  void SwitchLogging(bool on) {
    CheckOk(machine_.vm().SetMemoryRegion({.slot = kSlot,
                                           .flags = on ? kSlotLogDirtyPages : 0,
                                           .gpa = kData,
                                           .size = kBytes,
                                           .hva = Hva(reinterpret_cast<uint64_t>(memory_))}));
  }

  std::set<uint64_t> Take() {
    std::set<uint64_t> pages;
    CheckOk(machine_.vm().TakeDirtyLog(kSlot, [&pages](uint64_t base, uint64_t mask) {
      for (int bit = 0; bit < 64; ++bit) {
        if ((mask >> bit & 1) != 0) pages.insert(base + static_cast<uint64_t>(bit));
      }
    }));
    return pages;
  }

  Machine machine_;
  uint8_t* memory_ = nullptr;
};

TEST_P(DirtyLogging, EachTakeHasExactlyWhatTheGuestWroteSinceTheLast) {
  Write(1, 300);  // before logging: of no concern
  SwitchLogging(true);
  EXPECT_EQ(Take(), std::set<uint64_t>());
  for (uint64_t seed = 2; seed < 7; ++seed) {
    Write(seed, 40 * seed);
    EXPECT_EQ(Take(), Written(seed, 40 * seed)) << "seed " << seed;
    EXPECT_EQ(Take(), std::set<uint64_t>());
  }
  CheckOk(machine_.vm().CheckInvariants());
}

TEST_P(DirtyLogging, APageWrittenInEveryRoundIsInEveryTake) {
  SwitchLogging(true);
  for (int round = 0; round < 5; ++round) {
    Write(3, 20);
    EXPECT_EQ(Take(), Written(3, 20)) << "round " << round;
  }
}

TEST_P(DirtyLogging, ReadingIsNotWriting) {
  Write(1, 300);
  SwitchLogging(true);
  machine_.Start64(ReadPagesProgram());
  machine_.registers().rdi = kData.raw();
  machine_.registers().rcx = kBytes / kPageSize;
  ASSERT_EQ(machine_.Run().reason, ExitReason::kHlt);
  EXPECT_EQ(Take(), std::set<uint64_t>());
}

TEST_P(DirtyLogging, SwitchedOffItCostsNoFaultAndSwitchedOnAgainItStartsEmpty) {
  Write(1, 300);
  SwitchLogging(true);
  Write(2, 100);
  SwitchLogging(false);
  Write(2, 100);
  const size_t faults = machine_.faults().size();
  Write(2, 100);
  EXPECT_EQ(machine_.faults().size(), faults);
  SwitchLogging(true);
  EXPECT_EQ(Take(), std::set<uint64_t>());
  Write(5, 100);
  EXPECT_EQ(Take(), Written(5, 100));
}

// The memory of a guest that runs on is copied as live migration does: dirty pages again and again,
// and the rest when it has stopped. Not one word may be missing from the copy.
TEST_P(DirtyLogging, AMigrationWhileTheGuestWritesOnLosesNothing) {
  Write(1, 300);
  SwitchLogging(true);
  std::vector<uint8_t> copy(memory_, memory_ + kBytes);
  const auto copy_dirty = [&] {
    const std::set<uint64_t> pages = Take();
    for (const uint64_t page : pages) {
      memcpy(&copy[page * kPageSize], memory_ + page * kPageSize, kPageSize);
    }
    return pages.size();
  };
  int rounds = 0;
  {
    // The guest writes much longer than the first rounds take.
    OtherCpu other(machine_, Machine::kCode, Scatter(99, 200000));
    while (!other.is_done()) {
      if (copy_dirty() != 0) ++rounds;
    }
    other.Join();
    EXPECT_EQ(other.exit().reason, ExitReason::kHlt);
  }
  copy_dirty();
  EXPECT_GE(rounds, 2);
  for (ByteCount at = 0; at < kBytes; at += kPageSize) {
    ASSERT_EQ(memcmp(&copy[at], memory_ + at, kPageSize), 0) << "page " << at / kPageSize;
  }
}

INSTANTIATE_TEST_SUITE_P(Strategies, DirtyLogging,
                         testing::Values(Param{DirtyTracking::kWriteProtection, 0},
                                         Param{DirtyTracking::kWriteProtection, 9},
                                         Param{DirtyTracking::kDirtyBits, 0},
                                         Param{DirtyTracking::kDirtyBits, 9},
                                         Param{DirtyTracking::kPml, 0},
                                         Param{DirtyTracking::kPml, 9}),
                         Name);

TEST(PageModificationLog, AFullLogExitsAndTheGuestGoesOn) {
  MachineOptions options;
  options.vm.dirty_tracking = DirtyTracking::kPml;
  options.vcpu.pml = true;
  Machine machine(options);
  machine.AddSlot(kSlot, kData, kBytes, kSlotLogDirtyPages);
  machine.Start64(WritePagesProgram());
  const auto start = [&machine] {
    machine.registers().rdi = kData.raw();
    machine.registers().rcx = kBytes / kPageSize;
  };
  start();
  ASSERT_EQ(machine.Run().reason, ExitReason::kHlt);
  uint64_t pages = 0;
  const auto count = [&pages](uint64_t, uint64_t mask) {
    pages += static_cast<uint64_t>(std::popcount(mask));
  };
  CheckOk(machine.vm().TakeDirtyLog(kSlot, count));
  EXPECT_EQ(pages, kBytes / kPageSize);

  // Now every page is mapped and clean: the CPU alone logs, 512 pages at a time.
  machine.Start64(WritePagesProgram());
  start();
  int full = 0;
  for (VmExit exit = machine.Step(); exit.reason != ExitReason::kHlt; exit = machine.Step()) {
    full += exit.reason == ExitReason::kPmlFull;
  }
  EXPECT_GE(full, 1);
  pages = 0;
  CheckOk(machine.vm().TakeDirtyLog(kSlot, count));
  EXPECT_EQ(pages, kBytes / kPageSize);
}

}  // namespace
}  // namespace tdp::vtx
