// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/sync/flush_clock.h"

#include <atomic>
#include <functional>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "tdp/backends/minimal/minimal_backend.h"

namespace tdp {
namespace {

using Owed = FlushClock::Member::Owed;

// Counts which tables come back, and the kicks.
class FakeMachine : public MinimalBackend, public TableReclaimer {
 public:
  void Kick(absl::Span<const VcpuId> vcpus) override {
    kicked.insert(kicked.end(), vcpus.begin(), vcpus.end());
    const auto hook = on_kick;  // it may put another in its place
    if (hook) hook();
  }
  void Reclaim(TableList&& subtrees) override {
    if (on_reclaim) on_reclaim();
    while (subtrees.Pop() != nullptr) ++reclaimed;
  }

  std::vector<VcpuId> kicked;
  std::function<void()> on_kick;
  std::function<void()> on_reclaim;
  int reclaimed = 0;
};

TEST(FlushClock, TheFirstEntryFlushesEverything) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  FlushClock::Member vcpu(clock, 0);
  EXPECT_EQ(vcpu.EnterGuest(), Owed::kAllRoots);
  vcpu.LeaveGuest();
  EXPECT_EQ(vcpu.EnterGuest(), Owed::kNothing);
  vcpu.LeaveGuest();
}

TEST(FlushClock, AVcpuOutsideTheGuestIsNotKickedAndFlushesAsItEnters) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  FlushClock::Member vcpu(clock, 7);
  static_cast<void>(vcpu.EnterGuest());
  vcpu.LeaveGuest();
  clock.Advance().Settle();
  EXPECT_TRUE(machine.kicked.empty());
  EXPECT_EQ(vcpu.EnterGuest(), Owed::kRoot);
  vcpu.LeaveGuest();
}

TEST(FlushClock, AVcpuInTheGuestIsKickedAndWaitedFor) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  FlushClock::Member vcpu(clock, 7);
  static_cast<void>(vcpu.EnterGuest());
  machine.on_kick = [&] { vcpu.LeaveGuest(); };
  clock.Advance().Settle();
  EXPECT_EQ(machine.kicked, std::vector<VcpuId>{7});
  EXPECT_FALSE(vcpu.is_in_guest());
}

TEST(FlushClock, AVcpuIsKickedByItsOwnIdWhoeverHadItsPlaceBefore) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  {
    FlushClock::Member gone(clock, 3);
    static_cast<void>(gone.EnterGuest());
    gone.LeaveGuest();
  }
  FlushClock::Member vcpu(clock, 7);
  static_cast<void>(vcpu.EnterGuest());
  machine.on_kick = [&] { vcpu.LeaveGuest(); };
  clock.Advance().Settle();
  EXPECT_EQ(machine.kicked, std::vector<VcpuId>{7});
}

TEST(FlushClock, AReplacedRootFlushesAllRootsOnce) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  FlushClock::Member vcpu(clock, 0);
  static_cast<void>(vcpu.EnterGuest());
  vcpu.LeaveGuest();
  clock.AdvanceAllRoots().Settle();
  clock.Advance().Settle();
  EXPECT_EQ(vcpu.EnterGuest(), Owed::kAllRoots);
  vcpu.LeaveGuest();
  clock.Advance().Settle();
  EXPECT_EQ(vcpu.EnterGuest(), Owed::kRoot);
  vcpu.LeaveGuest();
}

TEST(FlushClock, ATableIsFreedOnlyWhenEveryVcpuHasPassed) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  FlushClock::Member vcpu(clock, 0);
  TablePage page;
  static_cast<void>(vcpu.EnterGuest());
  PendingFlush flush = clock.Advance();
  TableList list;
  list.Push(&page);
  clock.Retire(std::move(list), flush);
  clock.Reclaim();
  EXPECT_EQ(machine.reclaimed, 0) << "the vCPU may still walk it";
  vcpu.LeaveGuest();
  clock.Reclaim();
  EXPECT_EQ(machine.reclaimed, 1) << "it flushes before it can walk again";
  flush.Settle();
}

TEST(FlushClock, MergedFlushesArePaidOnce) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  PendingFlush flush;
  EXPECT_FALSE(flush.is_owed());
  flush.Merge(clock.Advance());
  flush.Merge(clock.Advance());
  flush.Merge(PendingFlush());
  EXPECT_TRUE(flush.is_owed());
  flush.Settle();
  EXPECT_FALSE(flush.is_owed());
  flush.Settle();  // owes nothing: does nothing
}

TEST(FlushClock, OfTwoMergedFlushesTheLaterStays) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  for (const bool later_last : {false, true}) {
    PendingFlush earlier = clock.Advance();
    PendingFlush later = clock.Advance();
    const uint64_t generation = later.generation();
    PendingFlush& into = later_last ? earlier : later;
    into.Merge(std::move(later_last ? later : earlier));
    EXPECT_EQ(into.generation(), generation);
    into.Settle();
    EXPECT_TRUE(clock.IsSettled(generation));
  }
}

TEST(FlushClock, WhatOneOwesIsOutstandingForAll) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  FlushClock::Member vcpu(clock, 7);
  machine.on_kick = [&] { vcpu.LeaveGuest(); };
  EXPECT_FALSE(clock.Outstanding().is_owed());
  static_cast<void>(vcpu.EnterGuest());
  PendingFlush theirs = clock.Advance();
  PendingFlush ours = clock.AdvanceIf(false);
  ASSERT_TRUE(ours.is_owed());
  ours.Settle();
  EXPECT_EQ(machine.kicked, std::vector<VcpuId>{7}) << "it did not wait for them to settle";
  EXPECT_FALSE(clock.Outstanding().is_owed()) << "once is enough";
  static_cast<void>(vcpu.EnterGuest());
  theirs.Settle();
  EXPECT_EQ(machine.kicked.size(), 1u) << "what was settled for them is not settled again";
  vcpu.LeaveGuest();
}

TEST(FlushClock, SettlingALaterFlushPaysForEarlierOnes) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  FlushClock::Member vcpu(clock, 7);
  machine.on_kick = [&] { vcpu.LeaveGuest(); };
  static_cast<void>(vcpu.EnterGuest());
  PendingFlush earlier = clock.Advance();
  clock.Advance().Settle();
  EXPECT_TRUE(clock.IsSettled(earlier.generation()));
  EXPECT_FALSE(clock.Outstanding().is_owed());
  earlier.Settle();
  EXPECT_EQ(machine.kicked.size(), 1u);
}

TEST(FlushClock, WhatIsBeingNarrowedIsOutstandingBeforeItsFlushIsKnown) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  const uint64_t before = clock.generation();
  EXPECT_EQ(clock.generation_owed(), before);
  {
    const FlushClock::Narrowing narrowing(clock);
    EXPECT_GT(clock.generation_owed(), before);
    EXPECT_FALSE(clock.IsSettled(clock.generation_owed()));
    PendingFlush flush = clock.Outstanding();
    EXPECT_GT(flush.generation(), before) << "a flush that begins now";
    flush.Settle();
    EXPECT_FALSE(clock.IsSettled(clock.generation_owed())) << "it may go on narrowing";
  }
  EXPECT_TRUE(clock.IsSettled(clock.generation_owed()));
}

// Neither the kick nor the wait holds a lock: what happens meanwhile may need the clock itself.
TEST(FlushClock, VcpusComeAndGoAndSettleWhileOneIsWaitedFor) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  FlushClock::Member vcpu(clock, 7);
  static_cast<void>(vcpu.EnterGuest());
  machine.on_kick = [&] {
    machine.on_kick = [&] { vcpu.LeaveGuest(); };
    std::thread other([&] {
      FlushClock::Member member(clock, 8);
      EXPECT_EQ(member.EnterGuest(), Owed::kAllRoots);
      member.LeaveGuest();
      clock.Advance().Settle();
    });
    other.join();
  };
  clock.Advance().Settle();
  EXPECT_EQ(machine.kicked, (std::vector<VcpuId>{7, 7}));
}

TEST(FlushClock, AVcpuThatIsWaitedForMayGoAndAnotherTakeItsPlace) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  std::optional<FlushClock::Member> vcpu(std::in_place, clock, 7);
  static_cast<void>(vcpu->EnterGuest());
  machine.on_kick = [&] {
    vcpu->LeaveGuest();
    vcpu.reset();
    vcpu.emplace(clock, 8);
    static_cast<void>(vcpu->EnterGuest());
  };
  clock.Advance().Settle();
  EXPECT_TRUE(vcpu->is_in_guest()) << "it entered with the generation that was waited for";
  vcpu->LeaveGuest();
}

TEST(FlushClockDeathTest, DroppingAFlushThatIsOwedAborts) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  EXPECT_DEATH({ PendingFlush flush = clock.Advance(); }, "dropped without Settle");
}

TEST(FlushClockDeathTest, EnteringTheGuestTwiceAborts) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  EXPECT_DEATH(
      {
        FlushClock::Member vcpu(clock, 0);
        static_cast<void>(vcpu.EnterGuest());
        static_cast<void>(vcpu.EnterGuest());
      },
      "check failed: !is_in_guest");
}

// A take of D bits relies on this: tables that another thread has taken from the clock already are
// gone through when the call returns.
TEST(FlushClock, WaitForReclaimsReturnsAfterWhatOtherThreadsHaveTaken) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  TablePage page;
  PendingFlush flush = clock.Advance();
  TableList list;
  list.Push(&page);
  clock.Retire(std::move(list), flush);
  std::atomic<bool> inside{false};
  std::atomic<bool> may_go{false};
  std::atomic<bool> gone_through{false};
  machine.on_reclaim = [&] {
    inside.store(true);
    while (!may_go.load()) std::this_thread::yield();
    gone_through.store(true);
  };
  std::thread reclaimer([&] { flush.Settle(); });
  while (!inside.load()) std::this_thread::yield();
  std::atomic<bool> waits{false};
  std::atomic<bool> returned_early{false};
  std::thread waiter([&] {
    waits.store(true);
    clock.WaitForReclaims();
    returned_early.store(!gone_through.load());
  });
  while (!waits.load()) std::this_thread::yield();
  // A waiter that does not wait has some turns to return in.
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  may_go.store(true);
  waiter.join();
  reclaimer.join();
  EXPECT_FALSE(returned_early.load());
  EXPECT_EQ(machine.reclaimed, 1);
}

// A thread may be stopped after it has settled and before it reclaims. Who finds all settled then
// owes no flush.
TEST(FlushClock, WaitForReclaimsReclaimsWhatAnotherThreadHasSettledAndNotReclaimed) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  PendingFlush theirs = clock.Advance();
  TablePage page;
  TableList list;
  list.Push(&page);
  clock.Retire(std::move(list), theirs);
  ASSERT_TRUE(clock.TrySettle(theirs));
  EXPECT_FALSE(clock.Outstanding().is_owed());
  clock.WaitForReclaims();
  EXPECT_EQ(machine.reclaimed, 1);
  theirs.Settle();
}

// This is the promise of the clock: once `Settle` has returned, no vCPU runs on what it had cached
// before.
TEST(FlushClock, AfterSettleNoVcpuUsesAnOlderGeneration) {
  FakeMachine machine;
  FlushClock clock(machine, machine);
  std::atomic<bool> kick{false};
  std::atomic<bool> stop{false};
  std::atomic<uint64_t> oldest_allowed{0};
  std::atomic<int> violations{0};
  machine.on_kick = [&] { kick.store(true); };
  std::thread vcpu_thread([&] {
    FlushClock::Member vcpu(clock, 0);
    uint64_t cached = 0;  // what this CPU's TLB would hold
    while (!stop.load()) {
      if (vcpu.EnterGuest() != Owed::kNothing) cached = clock.generation();
      for (int i = 0; i < 100 && !kick.exchange(false); ++i) {
        if (cached < oldest_allowed.load()) violations.fetch_add(1);
      }
      vcpu.LeaveGuest();
    }
  });
  for (int i = 0; i < 2000; ++i) {
    PendingFlush flush = clock.Advance();
    const uint64_t generation = clock.generation();
    flush.Settle();
    oldest_allowed.store(generation);
  }
  stop.store(true);
  vcpu_thread.join();
  EXPECT_EQ(violations.load(), 0);
}

}  // namespace
}  // namespace tdp
