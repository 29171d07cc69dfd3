// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Whoever builds on what a descent has found, beside faults that link tables in the same places.
// Were an entry looked at twice, a link would be taken for the large leaf or the hole that stood
// there before: pages of tables would be mapped to the guest, or a live table be replaced.

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/base/spin.h"
#include "tdp/mmu/vm.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/test_host.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr ByteCount kSize = MiB(64);
constexpr int kRounds = 150;

struct Guest {
  explicit Guest(DirtyTracking tracking, int order) {
    host.order = order;
    vm = *Vm::Create(host, {.dirty_tracking = tracking});
    vcpu = *vm->CreateVcpu();
    other = *vm->CreateVcpu();
  }
  void SetFlags(uint32_t flags) {
    ASSERT_EQ(vm->SetMemoryRegion({.flags = flags, .size = kSize, .hva = kRam}), absl::OkStatus());
  }

  TestHost host;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> vcpu;
  std::unique_ptr<Vcpu> other;
};

// Runs `operate` beside faults of `guest.vcpu` on one page in each 2 MiB, which begin where there
// are no tables (or large leaves), round by round.
void BesideFaults(Guest& guest, Access access, const std::function<void()>& operate) {
  const auto fault = ExitQualification::Make(access, Access::None(), true, true);
  for (int round = 0; round < kRounds; ++round) {
    std::atomic<bool> begin{false};
    std::thread faults([&] {
      std::mt19937_64 random(static_cast<uint64_t>(round));
      SpinUntil([&begin] { return begin.load(); });
      for (uint64_t at = 0; at < kSize; at += MiB(2)) {
        const Gpa gpa(at + (random() % MiB(2) & ~kPageOffsetMask));
        const FaultOutcome outcome = guest.vcpu->HandleEptViolation(gpa, fault).outcome;
        EXPECT_LE(outcome, FaultOutcome::kRetry);
      }
    });
    begin.store(true);
    operate();
    faults.join();
    ASSERT_EQ(guest.vm->CheckInvariants(), absl::OkStatus()) << "round " << round;
    guest.vm->ZapAll()->Settle();
  }
}

class OneLoad : public testing::TestWithParam<DirtyTracking> {};

TEST_P(OneLoad, PushingALogDownBesideFaultsMapsNoTableToTheGuest) {
  Guest guest(GetParam(), 0);
  guest.SetFlags(kSlotLogDirtyPages);
  BesideFaults(guest, Access::Read(), [&guest] {
    EXPECT_EQ(guest.vm->PushDownDirtyLog(0), absl::OkStatus());
    EXPECT_EQ(guest.vm->PushDownDirtyLog(0), absl::OkStatus());
  });
}

TEST_P(OneLoad, PushingALogDownBesideFaultsOnLargeLeavesMapsNoTableToTheGuest) {
  Guest guest(GetParam(), 9);
  guest.SetFlags(0);
  BesideFaults(guest, Access::Write(), [&guest] {
    for (uint64_t at = 0; at < kSize; at += MiB(2)) {
      const auto read = ExitQualification::Make(Access::Read(), Access::None(), true, true);
      EXPECT_LE(guest.other->HandleEptViolation(Gpa(at), read).outcome, FaultOutcome::kRetry);
    }
    guest.SetFlags(kSlotLogDirtyPages);
    EXPECT_EQ(guest.vm->PushDownDirtyLog(0), absl::OkStatus());
    guest.SetFlags(0);
  });
}

INSTANTIATE_TEST_SUITE_P(Each, OneLoad,
                         testing::Values(DirtyTracking::kWriteProtection,
                                         DirtyTracking::kDirtyBits),
                         NameOfTracking);

TEST(OneLoadOf, PrefaultsBesideFaultsReplaceNoTable) {
  Guest guest(DirtyTracking::kWriteProtection, 0);
  guest.SetFlags(0);
  BesideFaults(guest, Access::Write(), [&guest] {
    const auto done = guest.other->Prefault(Gpa(0), kSize);
    EXPECT_TRUE(done.ok()) << done.status();
  });
}

// What is mapped throughout is never said not to be, whatever size its leaf has just now.
TEST(OneLoadOf, APageWhoseLeafIsSplitIsMappedAllTheTime) {
  Guest guest(DirtyTracking::kWriteProtection, 9);
  guest.SetFlags(0);
  const auto read = ExitQualification::Make(Access::Read(), Access::None(), true, true);
  ASSERT_EQ(guest.vcpu->HandleEptViolation(Gpa(0), read).outcome, FaultOutcome::kFixed);
  std::atomic<bool> stop{false};
  std::thread look([&] {
    while (!stop.load()) EXPECT_TRUE(guest.vm->Translate(Gpa(0x3000)).ok());
  });
  for (int i = 0; i < 2000; ++i) {
    guest.vm->SplitRange(Gfn(0), PageCount(512))->Settle();
    EXPECT_TRUE(guest.vm->CollapseRange(Gfn(0), PageCount(512)).ok());
  }
  stop.store(true);
  look.join();
}

}  // namespace
}  // namespace tdp
