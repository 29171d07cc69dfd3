// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These operations build on what a descent has found, beside faults that link tables in the same
// places. Were an entry looked at twice, a link would be taken for the large leaf or the hole that
// stood there before: pages of tables would be mapped to the guest, or a live table be replaced.

#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/base/spin.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};
constexpr ByteCount kSize = MiB(64);
constexpr int kRounds = 150;

class OneLoadOf : public HostTest {
 protected:
  void StartWithTwo(DirtyTracking tracking, int order, uint32_t flags = 0) {
    host_.order = order;
    Start({.dirty_tracking = tracking});
    other_ = *vm_->CreateVcpu();
    SetFlags(flags);
  }
  void SetFlags(uint32_t flags) {
    ASSERT_EQ(vm_->SetMemoryRegion({.flags = flags, .size = kSize, .hva = kRam}), absl::OkStatus());
  }
  // Runs `operate` beside faults on one page in each 2 MiB, which begin where there are no tables
  // (or large leaves), round by round.
  void BesideFaults(ExitQualification fault, const std::function<void()>& operate) {
    for (int round = 0; round < kRounds; ++round) {
      std::atomic<bool> begin{false};
      std::thread faults([&] {
        std::mt19937_64 random(static_cast<uint64_t>(round));
        SpinUntil([&begin] { return begin.load(); });
        for (uint64_t at = 0; at < kSize; at += MiB(2)) {
          const Gpa gpa(at + (random() % MiB(2) & ~kPageOffsetMask));
          EXPECT_LE(Fault(gpa, fault), FaultOutcome::kRetry);
        }
      });
      begin.store(true);
      operate();
      faults.join();
      ASSERT_EQ(vm_->CheckInvariants(), absl::OkStatus()) << "round " << round;
      vm_->ZapAll()->Settle();
    }
  }

  std::unique_ptr<Vcpu> other_;
};

class OneLoad : public OneLoadOf, public testing::WithParamInterface<DirtyTracking> {};

TEST_P(OneLoad, PushingALogDownBesideFaultsMapsNoTableToTheGuest) {
  StartWithTwo(GetParam(), 0, kSlotLogDirtyPages);
  BesideFaults(kReadFault, [this] {
    EXPECT_EQ(vm_->PushDownDirtyLog(0), absl::OkStatus());
    EXPECT_EQ(vm_->PushDownDirtyLog(0), absl::OkStatus());
  });
}

TEST_P(OneLoad, PushingALogDownBesideFaultsOnLargeLeavesMapsNoTableToTheGuest) {
  StartWithTwo(GetParam(), 9);
  BesideFaults(kWriteFault, [this] {
    for (uint64_t at = 0; at < kSize; at += MiB(2)) {
      EXPECT_LE(other_->HandleEptViolation(Gpa(at), kReadFault).outcome, FaultOutcome::kRetry);
    }
    SetFlags(kSlotLogDirtyPages);
    EXPECT_EQ(vm_->PushDownDirtyLog(0), absl::OkStatus());
    SetFlags(0);
  });
}

INSTANTIATE_TEST_SUITE_P(Each, OneLoad,
                         testing::Values(DirtyTracking::kWriteProtection,
                                         DirtyTracking::kDirtyBits),
                         NameOfTracking);

TEST_F(OneLoadOf, PrefaultsBesideFaultsReplaceNoTable) {
  StartWithTwo(DirtyTracking::kWriteProtection, 0);
  BesideFaults(kWriteFault, [this] {
    const auto done = other_->Prefault(Gpa(0), kSize);
    EXPECT_TRUE(done.ok()) << done.status();
  });
}

// The page is mapped throughout, so nothing may ever say that it is not, whatever size its leaf has
// just now.
TEST_F(OneLoadOf, APageWhoseLeafIsSplitIsMappedAllTheTime) {
  StartWithTwo(DirtyTracking::kWriteProtection, 9);
  ASSERT_EQ(Fault(Gpa(0), kReadFault), FaultOutcome::kFixed);
  std::atomic<bool> stop{false};
  std::thread look([&] {
    while (!stop.load()) EXPECT_TRUE(vm_->Translate(Gpa(0x3000)).ok());
  });
  for (int i = 0; i < 2000; ++i) {
    vm_->SplitRange(Gfn(0), PageCount(512))->Settle();
    EXPECT_TRUE(vm_->CollapseRange(Gfn(0), PageCount(512)).ok());
  }
  stop.store(true);
  look.join();
}

}  // namespace
}  // namespace tdp
