// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Memory changes here while a guest runs on another CPU: what was taken away is out of its reach
// when the call returns, and it is the kick that makes it so.

#include <atomic>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>

#include "gtest/gtest.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

// The guest reads kWord until it holds kGo, and counts its reads in kReads.
constexpr Gpa kWord{0x400000};
constexpr Gpa kReads{0x500000};
constexpr uint64_t kGo = 0x676f;

class Changes : public ::testing::Test {
 protected:
  explicit Changes(const MachineOptions& options = {}) : machine_(options) {
    machine_.Start64(WaitForProgram());
  }

  GuestRegisters WaitRegisters() const {
    GuestRegisters registers;
    registers.rdi = kWord.raw();
    registers.rsi = kReads.raw();
    registers.rax = kGo;
    return registers;
  }

  uint64_t Reads() {
    return std::atomic_ref<uint64_t>(machine_.At<uint64_t>(kReads)).load(std::memory_order_acquire);
  }
  // Returns when the guest has read the word `n` times more.
  void WaitForReads(uint64_t n) {
    const uint64_t end = Reads() + n;
    while (Reads() < end) {
    }
  }

  bool IsMapped(Gpa gpa) { return machine_.vm().Translate(gpa).ok(); }

  // Returns a fresh frame of the host with kGo where kWord's page has it.
  Hpa FrameWithGo() {
    FrameArena& arena = machine_.backend().arena();
    const Hpa frame = ValueOrDie(arena.AllocateZeroed(kPageSize, kPageSize));
    *arena.PointerTo<uint64_t>(frame) = kGo;
    return frame;
  }
  void Free(Hpa frame) { machine_.backend().arena().Free(frame, kPageSize); }

  Machine machine_;
};

TEST_F(Changes, AZappedPageIsFaultedInAgainWhileTheGuestRunsOn) {
  OtherCpu other(machine_, Machine::kCode, WaitRegisters());
  WaitForReads(100);
  for (int i = 0; i < 3; ++i) {
    ValueOrDie(machine_.vm().ZapRange(Gfn::Of(kWord), PageCount(1))).Settle();
    WaitForReads(100);
  }
  machine_.At<uint64_t>(kWord) = kGo;
  other.Join();
  EXPECT_EQ(other.exit().reason, ExitReason::kHlt);
  int faults = 0;
  for (const SeenFault& fault : other.faults()) faults += Gfn::Of(fault.gpa) == Gfn::Of(kWord);
  EXPECT_EQ(faults, 4);
  EXPECT_GE(machine_.backend().kicks(), 3);
}

TEST_F(Changes, AHostPageThatMovedIsSeenWhereItIsNow) {
  OtherCpu other(machine_, Machine::kCode, WaitRegisters());
  WaitForReads(100);
  const Hpa frame = FrameWithGo();
  machine_.backend().Move(machine_.HvaOf(kWord), Hfn::Of(frame));
  CheckOk(machine_.vm().InvalidateHostRange(machine_.HvaOf(kWord), kPageSize));
  other.Join();  // it halts only if it reads the new frame
  EXPECT_EQ(other.exit().reason, ExitReason::kHlt);
  EXPECT_EQ(machine_.At<uint64_t>(kWord), 0u);
  Free(frame);
}

TEST_F(Changes, WithoutTheKickTheGuestReadsTheOldPageOn) {
  OtherCpu other(machine_, Machine::kCode, WaitRegisters());
  WaitForReads(100);
  const Hpa frame = FrameWithGo();
  machine_.backend().Move(machine_.HvaOf(kWord), Hfn::Of(frame));
  machine_.backend().ForgetKicks(true);
  std::atomic<bool> returned = false;
  std::thread invalidation([&] {
    CheckOk(machine_.vm().InvalidateHostRange(machine_.HvaOf(kWord), kPageSize));
    returned = true;
  });
  // The tables no longer have the page, and yet the guest reads the old one for as long as we look:
  // its CPU has the translation, and the operation rightly waits.
  while (IsMapped(kWord)) {
  }
  WaitForReads(20000);
  EXPECT_FALSE(returned);
  EXPECT_FALSE(IsMapped(kWord));

  machine_.backend().ForgetKicks(false);
  const VcpuId all[] = {1};
  machine_.backend().Kick(all);
  invalidation.join();
  other.Join();
  EXPECT_EQ(other.exit().reason, ExitReason::kHlt);
  Free(frame);
}

TEST_F(Changes, ADeletedSlotEndsTheGuestsReadsAsMmio) {
  OtherCpu other(machine_, Machine::kCode, WaitRegisters());
  WaitForReads(100);
  // The guest's memory is slot 0: this takes it away as a whole.
  CheckOk(machine_.vm().SetMemoryRegion({.slot = 0, .size = 0}));
  const uint64_t reads = Reads();
  other.Join();
  EXPECT_EQ(other.exit().reason, ExitReason::kEptViolation);
  EXPECT_EQ(other.faults().back().outcome, FaultOutcome::kMmio);
  EXPECT_EQ(Reads(), reads);  // not one read after the call returned
}

TEST_F(Changes, ASlotThatMovesGoesWithItsMemory) {
  // The word is in a slot of its own, over a hole in the RAM: there is RAM below and above it.
  const Hva ram = machine_.HvaOf(Gpa(0));
  Vm& vm = machine_.vm();
  CheckOk(vm.SetMemoryRegion({.slot = 0, .size = 0}));
  CheckOk(vm.SetMemoryRegion({.slot = 0, .gpa = Gpa(0), .size = kWord.raw(), .hva = ram}));
  CheckOk(vm.SetMemoryRegion(
      {.slot = 1, .gpa = kWord + kPageSize, .size = MiB(2), .hva = ram + kWord.raw() + kPageSize}));
  CheckOk(
      vm.SetMemoryRegion({.slot = 2, .gpa = kWord, .size = kPageSize, .hva = ram + kWord.raw()}));
  OtherCpu other(machine_, Machine::kCode, WaitRegisters());
  WaitForReads(100);
  // The slot goes away, and another one (with another page) comes in its place.
  const Hpa frame = FrameWithGo();
  CheckOk(vm.SetMemoryRegion(
      {.slot = 2, .gpa = Gpa(GiB(1)), .size = kPageSize, .hva = ram + kWord.raw()}));
  CheckOk(vm.SetMemoryRegion({.slot = 3,
                              .gpa = kWord,
                              .size = kPageSize,
                              .hva = machine_.backend().arena().HvaOf(frame)}));
  other.Join();
  // In between there was no memory: the guest may have met that as MMIO, or found the new slot.
  const bool mmio = !other.faults().empty() && other.faults().back().outcome == FaultOutcome::kMmio;
  EXPECT_TRUE(mmio || other.exit().reason == ExitReason::kHlt);
  CheckOk(vm.CheckInvariants());
}

class ChangesOfLargePages : public Changes {
 protected:
  ChangesOfLargePages() : Changes({.max_order = 9}) {}
};

TEST_F(ChangesOfLargePages, APageTakenOutOfALargeLeafLeavesTheRestMapped) {
  OtherCpu other(machine_, Machine::kCode, WaitRegisters());
  WaitForReads(100);
  ASSERT_EQ(ValueOrDie(machine_.vm().Translate(kWord)).level, kLevel2M);
  const Hpa frame = FrameWithGo();
  machine_.backend().Move(machine_.HvaOf(kWord), Hfn::Of(frame));
  CheckOk(machine_.vm().InvalidateHostRange(machine_.HvaOf(kWord), kPageSize));
  other.Join();
  EXPECT_EQ(other.exit().reason, ExitReason::kHlt);
  EXPECT_EQ(ValueOrDie(machine_.vm().Translate(kWord)).level, kLevel4K);
  const Translation neighbour = ValueOrDie(machine_.vm().Translate(kReads));
  EXPECT_EQ(neighbour.level, kLevel4K);
  Free(frame);
}

TEST_F(ChangesOfLargePages, PagesThatWereSplitAreCollapsedUnderTheGuest) {
  OtherCpu other(machine_, Machine::kCode, WaitRegisters());
  WaitForReads(100);
  // One page goes, which splits the large leaf, and comes back where it was.
  ValueOrDie(machine_.vm().ZapRange(Gfn::Of(kWord), PageCount(1))).Settle();
  WaitForReads(100);
  ASSERT_EQ(ValueOrDie(machine_.vm().Translate(kWord)).level, kLevel4K);
  const int kicks = machine_.backend().kicks();
  const Gfn first = Gfn::Of(kWord.AlignDown(MiB(2)));
  EXPECT_EQ(ValueOrDie(machine_.vm().CollapseRange(first, kLevel2M.pages())), 1u);
  EXPECT_GT(machine_.backend().kicks(), kicks);
  WaitForReads(100);
  EXPECT_EQ(ValueOrDie(machine_.vm().Translate(kWord)).level, kLevel2M);
  machine_.At<uint64_t>(kWord) = kGo;
  other.Join();
  EXPECT_EQ(other.exit().reason, ExitReason::kHlt);
  CheckOk(machine_.vm().CheckInvariants());
}

TEST_F(ChangesOfLargePages, ALeafIsSplitUnderTheGuestWithoutAFault) {
  OtherCpu other(machine_, Machine::kCode, WaitRegisters());
  WaitForReads(100);
  ASSERT_EQ(ValueOrDie(machine_.vm().Translate(kWord)).level, kLevel2M);
  const uint64_t fixed = machine_.vm().Stats().faults.fixed;
  ValueOrDie(machine_.vm().SplitRange(Gfn::Of(kWord), PageCount(1))).Settle();
  WaitForReads(100);
  EXPECT_EQ(ValueOrDie(machine_.vm().Translate(kWord)).level, kLevel4K);
  EXPECT_EQ(machine_.vm().Stats().faults.fixed, fixed);
  machine_.At<uint64_t>(kWord) = kGo;
  other.Join();
  EXPECT_EQ(other.exit().reason, ExitReason::kHlt);
}

// The host compacts its memory under a guest that writes all over it: every write must be found in
// the end. A CPU that kept one stale translation would write into a page that is no longer the
// guest's.
TEST(ChangesAtRandom, NoWriteOfTheGuestIsLostWhileItsPagesMove) {
  constexpr ByteCount kArea = KiB(64);
  constexpr uint64_t kWrites = 30000;
  constexpr uint64_t kSeed = 42;
  Machine machine;
  machine.Start64(ScatterProgram());
  GuestRegisters registers;
  registers.rax = kSeed;
  registers.rdi = kWord.raw();
  registers.rsi = (kArea - 1) & ~uint64_t{7};
  registers.rcx = kWrites;
  FrameArena& arena = machine.backend().arena();
  std::vector<Hpa> frame_of;
  for (ByteCount at = 0; at < kArea; at += kPageSize) {
    frame_of.push_back(arena.HpaOf(machine.HvaOf(kWord + at)));
  }
  const Hpa first = frame_of[0];
  std::vector<Hpa> given;
  std::mt19937_64 random(1);
  int moves = 0;
  {
    OtherCpu other(machine, Machine::kCode, registers);
    while (!other.is_done()) {
      const size_t page = random() % frame_of.size();
      const Hva hva = machine.HvaOf(kWord + page * kPageSize);
      if (random() % 4 == 0) {
        ValueOrDie(machine.vm().ZapRange(Gfn::Of(kWord + page * kPageSize), PageCount(3))).Settle();
        continue;
      }
      const Hpa to = ValueOrDie(arena.Allocate(kPageSize, kPageSize));
      CheckOk(machine.vm().BeginHostInvalidation(hva, kPageSize));
      memcpy(arena.PointerTo<void>(to), arena.PointerTo<void>(frame_of[page]), kPageSize);
      memset(arena.PointerTo<void>(frame_of[page]), 0xee, kPageSize);
      machine.backend().Move(hva, Hfn::Of(to));
      machine.vm().EndHostInvalidation();
      if (frame_of[page] < first || frame_of[page] >= first + kArea) {
        arena.Free(frame_of[page], kPageSize);
      }
      frame_of[page] = to;
      ++moves;
    }
    other.Join();
    EXPECT_EQ(other.exit().reason, ExitReason::kHlt);
  }
  EXPECT_GT(moves, 10);
  std::vector<uint64_t> expected(kArea / 8);
  uint64_t state = kSeed;
  for (uint64_t i = 0; i < kWrites; ++i) {
    state = NextScatter(state);
    expected[(state >> 20 & registers.rsi) / 8] = state;
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    const auto* page = arena.PointerTo<const uint64_t>(frame_of[i / 512]);
    ASSERT_EQ(page[i % 512], expected[i]) << "word " << i << " after " << moves << " moves";
  }
  CheckOk(machine.vm().CheckInvariants());
}

}  // namespace
}  // namespace tdp::vtx
