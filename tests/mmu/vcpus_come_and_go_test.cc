// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// vCPUs are made, counted and taken apart while other threads wait for one that is slow to leave
// the guest.

#include <functional>
#include <future>
#include <optional>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_world.h"

namespace tdp {
namespace {

// vCPU 0 is in the guest, with page 3 mapped, and `operation` waits for it in a thread of its own.
class SlowVcpu : private HostWorld {
 public:
  explicit SlowVcpu(const VmOptions& options = {}) {
    Start(options);
    EXPECT_TRUE(vm_->SetMemoryRegion({.size = MiB(4), .hva = Hva(TiB(1))}).ok());
    if (options.paging == Paging::kShadow) {
      EXPECT_EQ(vcpu_->shadow()->HandlePageFault(Gva(0x3000), 0).outcome, PagingOutcome::kFixed);
    } else {
      EXPECT_EQ(Fault(Gpa(0x3000)), FaultOutcome::kFixed);
    }
    entry_ = vcpu_->EnterGuest();
    std::promise<void> waits;
    host_.on_kick = [&] {
      host_.on_kick = nullptr;
      waits.set_value();
    };
    settler_ = std::thread([this] { vm_->ZapAll()->Settle(); });
    waits.get_future().wait();
  }
  ~SlowVcpu() { Leave(); }
  void Leave() {
    if (!settler_.joinable()) return;
    entry_.reset();
    settler_.join();
  }
  Vm& vm() { return *vm_; }

 private:
  std::optional<GuestEntry> entry_;
  std::thread settler_;
};

TEST(VcpusComeAndGo, WhileOneIsWaitedForOthersAreMadeUsedAndTakenApart) {
  SlowVcpu slow;
  std::thread other([&slow] {
    auto vcpu = *slow.vm().CreateVcpu();
    EXPECT_EQ(vcpu->id(), 1u);
    EXPECT_EQ(vcpu->HandleEptViolation(Gpa(0x5000), kWriteFault).outcome, FaultOutcome::kFixed);
    const GuestEntry entry = vcpu->EnterGuest();
  });
  other.join();
}

TEST(VcpusComeAndGo, TheVcpuThatIsWaitedForMayAskForStatsAndTranslations) {
  SlowVcpu slow;
  std::thread other([&slow] { auto vcpu = *slow.vm().CreateVcpu(); });
  // The calls are on the thread of the vCPU that is waited for: it holds the entry.
  EXPECT_EQ(slow.vm().Stats().faults.fixed, 1u);
  EXPECT_FALSE(slow.vm().Translate(Gpa(0x3000)).ok()) << "it was zapped";
  other.join();
  EXPECT_EQ(slow.vm().Stats().faults.fixed, 1u);
}

// Making the first root of a shadowed vCPU may have to wait for others; nobody waits for that.
TEST(VcpusComeAndGo, StatsWaitForNoShadowedVcpuThatIsBeingMade) {
  SlowVcpu slow({.paging = Paging::kShadow});
  std::thread other([&slow] { EXPECT_TRUE(slow.vm().CreateVcpu().ok()); });
  for (int i = 0; i < 100; ++i) EXPECT_EQ(slow.vm().Stats().faults.fixed, 1u);
  slow.Leave();
  other.join();
}

TEST(VcpusComeAndGo, AShadowedVcpuWithoutTablesForItsRootIsRefusedAndLeavesNothing) {
  TestHost machine;
  for (const size_t quota : {size_t{2}, size_t{8}}) {
    auto vm = *Vm::Create(machine, {.paging = Paging::kShadow, .table_quota = quota});
    const auto refused = vm->CreateVcpu();
    EXPECT_TRUE(absl::IsResourceExhausted(refused.status())) << refused.status();
    EXPECT_EQ(vm->Stats().faults.fixed, 0u);
    EXPECT_EQ(vm->CheckInvariants(), absl::OkStatus());
    ASSERT_EQ(vm->SetTableQuota(1000), absl::OkStatus());
    auto made = vm->CreateVcpu();
    ASSERT_TRUE(made.ok()) << made.status();
    EXPECT_EQ((*made)->id(), 0u) << "the id was given back";
  }
}

TEST(VcpusComeAndGo, AnIdIsUsedAgain) {
  TestHost machine;
  auto vm = *Vm::Create(machine);
  auto first = *vm->CreateVcpu();
  auto second = *vm->CreateVcpu();
  first.reset();
  EXPECT_EQ((*vm->CreateVcpu())->id(), 0u);
  EXPECT_EQ(second->id(), 1u);
}

}  // namespace
}  // namespace tdp
