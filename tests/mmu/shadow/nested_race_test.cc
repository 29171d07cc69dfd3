// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the host or another CPU does at the worst moment of a violation of L2.

#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/vm.h"
#include "tests/world/sim_backends.h"

namespace tdp {
namespace {

constexpr Hva kRam{0x7f0000000000};
constexpr uint64_t kRights = ept::kRightsMask;
constexpr uint64_t kWriteBack = uint64_t{6} << ept::kMemoryTypeShift;

ExitQualification Qualify(Access access) {
  return ExitQualification::Make(access, Access::None(), true, true);
}

// EPT12 in frames 1 to 4, the leaves in frame 4; the first page of L2 is at 2 MiB of L1. Two vCPUs
// run L2 on it.
class NestedRace : public testing::Test {
 protected:
  void Start(int host_order, bool large) {
    ASSERT_TRUE(memory_.Map(kRam, MiB(4), {.order = host_order}).ok());
    vm_ = *Vm::Create(backend_, {.nested = true});
    ASSERT_TRUE(SetRam(0).ok());
    for (uint64_t table = 1; table < 3; ++table) Poke(table << 12, (table + 1) << 12 | kRights);
    Poke(0x3000, large ? MiB(2) | kRights | kWriteBack | ept::kLargePage : 0x4000 | kRights);
    for (uint64_t i = 0; i < 8; ++i) {
      Poke(0x4000 + i * 8, (MiB(2) + i * kPageSize) | kRights | kWriteBack);
    }
    NestedContext context;
    context.eptp = Eptp::Make(Hpa(0x1000), 4, false);
    context.rules.capabilities = backend_.capabilities().ept;
    context.rules.physical_address_bits = backend_.capabilities().physical_address_bits;
    context.vpid = 1;
    for (VcpuId id = 0; id < 2; ++id) {
      vcpus_.push_back(*vm_->CreateVcpu());
      ASSERT_TRUE(vcpus_[id]->nested()->Enter(context).ok());
    }
  }
  void TearDown() override {
    const absl::Status status = vm_->CheckInvariants();
    EXPECT_TRUE(status.ok()) << status;
  }
  absl::Status SetRam(uint32_t flags) {
    return vm_->SetMemoryRegion({.flags = flags, .size = MiB(4), .hva = kRam});
  }
  void Poke(uint64_t gpa, uint64_t value) {
    std::memcpy(*memory_.AtHva(kRam + gpa), &value, sizeof(value));
  }
  NestedFaultResult Fault(VcpuId id, uint64_t gpa, Access access) {
    return vcpus_[id]->nested()->HandleViolation(Gpa(gpa), Qualify(access));
  }
  // Whether `act` kicks vCPU 1 out of the guest.
  bool KicksVcpu1(const std::function<void()>& act) {
    std::optional<GuestEntry> in_guest = vcpus_[1]->EnterGuest();
    bool kicked = false;
    backend_.on_kick = [&] {
      kicked = true;
      in_guest.reset();
    };
    act();
    backend_.on_kick = nullptr;
    return kicked;
  }

  sim::HostMemory memory_{{.size = MiB(256)}};
  HookedBackend backend_{memory_, sim::SimBackendOptions{.cpus = 2}};
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

// The host begins to take another page of the same large one away while it is asked for this one.
TEST_F(NestedRace, APageThatIsBeingTakenAwayIsNotMappedWithItsNeighbour) {
  Start(9, true);
  backend_.resolve_at = kRam + MiB(2);
  backend_.on_resolve = [this] {
    ASSERT_TRUE(vm_->BeginHostInvalidation(kRam + MiB(2) + kPageSize, kPageSize).ok());
  };
  const NestedFaultResult result = Fault(0, 0, Access::Read());
  EXPECT_EQ(result.outcome, NestedOutcome::kFixed);
  EXPECT_EQ(result.level, kLevel4K);
  vm_->EndHostInvalidation();
}

TEST_F(NestedRace, APageThatWentWhileTheHostWasAskedIsNotMapped) {
  Start(0, false);
  // All that a violation has to prepare is there, so that it is the first try that counts.
  const Hva page = kRam + MiB(2);
  ASSERT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  ASSERT_TRUE(vm_->InvalidateHostRange(page, kPageSize).ok());
  backend_.resolve_at = page;
  backend_.on_resolve = [this, page] {
    ASSERT_TRUE(vm_->BeginHostInvalidation(page, kPageSize).ok());
    ASSERT_TRUE(memory_.Migrate(page, kPageSize).ok());
    vm_->EndHostInvalidation();
  };
  EXPECT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  EXPECT_EQ(backend_.on_resolve, nullptr);
  const GuestEntry entry = vcpus_[0]->EnterGuest();
  ASSERT_EQ(backend_.cpu(0).Enter(entry.eptp()), sim::Event::kNone);
  const sim::AccessResult seen = backend_.cpu(0).Access(Gva(0), sim::AccessKind::kLoad);
  ASSERT_TRUE(seen.ok());
  EXPECT_EQ(Hfn::Of(seen.hpa), memory_.Resolve(page, Access::Read())->hfn);
}

// L1 gives X and takes W. vCPU 1 may write through what it has cached until it is kicked, and a log
// that is switched on later would find no W to take.
TEST_F(NestedRace, ALeafThatLosesWInPlaceIsFlushed) {
  Start(0, false);
  const uint64_t leaf = MiB(2) | kWriteBack;
  Poke(0x4000, leaf | ept::kRead | ept::kWrite);
  ASSERT_EQ(Fault(1, 0, Access::Write()).outcome, NestedOutcome::kFixed);
  Poke(0x4000, leaf | ept::kRead | ept::kExecute);
  EXPECT_TRUE(KicksVcpu1(
      [this] { EXPECT_EQ(Fault(0, 0, Access::Execute()).outcome, NestedOutcome::kFixed); }));
}

TEST_F(NestedRace, WhatAViolationOfL1sDropsIsFlushed) {
  Start(0, false);
  const uint64_t leaf = MiB(2) | kWriteBack;
  Poke(0x4000, leaf | ept::kRead);
  ASSERT_EQ(Fault(1, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  EXPECT_TRUE(KicksVcpu1(
      [this] { EXPECT_EQ(Fault(0, 0, Access::Write()).outcome, NestedOutcome::kViolation); }));
}

TEST_F(NestedRace, InveptBringsEveryVcpuOut) {
  Start(0, false);
  ASSERT_EQ(Fault(1, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  EXPECT_TRUE(KicksVcpu1([this] {
    EntryRules rules;
    rules.capabilities = backend_.capabilities().ept;
    EXPECT_TRUE(*vcpus_[0]->nested()->Invept(2, Eptp(), rules));
  }));
}

// L2 reads a page that is logged, and writes it afterwards.
TEST_F(NestedRace, AReadOfALoggedPageGivesNoW) {
  Start(0, false);
  ASSERT_TRUE(SetRam(kSlotLogDirtyPages).ok());
  ASSERT_TRUE(vm_->TakeDirtyLog(0, [](uint64_t, uint64_t) {}).ok());
  ASSERT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  EXPECT_EQ(Fault(0, 0, Access::Write()).outcome, NestedOutcome::kFixed) << "W was missing";
  std::vector<uint64_t> pages;
  ASSERT_TRUE(vm_->TakeDirtyLog(0,
                                [&pages](uint64_t base, uint64_t mask) {
                                  for (uint64_t i = 0; i < 64; ++i) {
                                    if ((mask >> i & 1) != 0) pages.push_back(base + i);
                                  }
                                })
                  .ok());
  EXPECT_EQ(pages, std::vector<uint64_t>{MiB(2) / kPageSize});
  EXPECT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kSpurious);
  EXPECT_EQ(Fault(0, 0, Access::Write()).outcome, NestedOutcome::kFixed) << "the take took W";
}

TEST_F(NestedRace, ALargePageOfL1IsSmallWhereItsSlotLogs) {
  Start(9, true);
  ASSERT_TRUE(SetRam(kSlotLogDirtyPages).ok());
  const NestedFaultResult result = Fault(0, 0, Access::Write());
  EXPECT_EQ(result.outcome, NestedOutcome::kFixed);
  EXPECT_EQ(result.level, kLevel4K);
}

}  // namespace
}  // namespace tdp
