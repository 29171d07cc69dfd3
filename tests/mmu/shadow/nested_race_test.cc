// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The host or another CPU does something at the worst moment of a violation of L2.

#include <cstdint>
#include <functional>
#include <set>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tests/world/dirty_logs.h"
#include "tests/world/sim_test.h"

namespace tdp {
namespace {

constexpr uint64_t kRights = ept::kRightsMask;
constexpr uint64_t kWriteBack = uint64_t{6} << ept::kMemoryTypeShift;

ExitQualification Qualify(Access access) {
  return ExitQualification::Make(access, Access::None(), true, true);
}

// EPT12 is in frames 1 to 4, with the leaves in frame 4; the first page of L2 is at 2 MiB of L1.
// Two vCPUs run L2 on it.
class NestedRace : public SimTest {
 protected:
  void Start(int host_order, bool large) {
    SimTest::Start({.nested = true}, 2);
    ASSERT_TRUE(world_->SetRam(MiB(4), host_order).ok());
    for (uint64_t table = 1; table < 3; ++table) Poke(table << 12, (table + 1) << 12 | kRights);
    Poke(0x3000, large ? MiB(2) | kRights | kWriteBack | ept::kLargePage : 0x4000 | kRights);
    for (uint64_t i = 0; i < 8; ++i) {
      Poke(0x4000 + i * 8, (MiB(2) + i * kPageSize) | kRights | kWriteBack);
    }
    const NestedContext context = NestedOn(backend(), Eptp::Make(Hpa(0x1000), 4, false));
    for (const int i : {0, 1}) ASSERT_TRUE(vcpu(i).nested()->Enter(context).ok());
  }
  absl::Status SetRam(uint32_t flags) { return world_->SetRam(MiB(4), -1, flags); }
  NestedFaultResult Fault(VcpuId id, uint64_t gpa, Access access) {
    return vcpu(id).nested()->HandleViolation(Gpa(gpa), Qualify(access));
  }
  // Returns the entry of 4 KiB for `gpa` in the tables on which vCPU 1 runs L2; a hole if there is
  // none.
  EptEntry MappedEntry(Gpa gpa) {
    Hpa table = vcpu(1).nested()->eptp().root();
    for (Level level(4);; level = level.below()) {
      auto* const entries = reinterpret_cast<uint64_t*>(memory().At(table));
      const EptEntry entry = EntryRef(entries + level.IndexOf(Gfn::Of(gpa))).Load();
      if (level == kLevel4K) return entry;
      if (entry.kind(level) != EntryKind::kTable) return EptEntry();
      table = entry.address();
    }
  }
  bool KicksVcpu1(const std::function<void()>& act) {
    return SimTest::KicksVcpu1(act, [] {});
  }
};

// The host begins to take another page of the same large one away while it is asked for this one.
TEST_F(NestedRace, APageThatIsBeingTakenAwayIsNotMappedWithItsNeighbour) {
  Start(9, true);
  backend().resolve_at = kRam + MiB(2);
  backend().on_resolve = [this] {
    ASSERT_TRUE(vm().BeginHostInvalidation(kRam + MiB(2) + kPageSize, kPageSize).ok());
  };
  const NestedFaultResult result = Fault(0, 0, Access::Read());
  EXPECT_EQ(result.outcome, NestedOutcome::kFixed);
  EXPECT_EQ(result.level, kLevel4K);
  vm().EndHostInvalidation();
}

// L1 exchanges the table and then takes the old one again, without INVEPT: vCPU 1, whose last leaf
// stands in the shadow of the old one, finds that the way leads to the new one still.
TEST_F(NestedRace, ATableThatIsExchangedAndComesBackIsLinkedAgain) {
  Start(0, false);
  for (VcpuId id = 0; id < 2; ++id) {
    ASSERT_EQ(Fault(id, id * kPageSize, Access::Read()).outcome, NestedOutcome::kFixed);
  }
  Poke(0x5000 + 2 * 8, (MiB(2) + 9 * kPageSize) | kRights | kWriteBack);
  Poke(0x3000, 0x5000 | kRights);
  ASSERT_EQ(Fault(0, 2 * kPageSize, Access::Read()).outcome, NestedOutcome::kFixed);
  Poke(0x3000, 0x4000 | kRights);
  EXPECT_EQ(Fault(1, 3 * kPageSize, Access::Read()).outcome, NestedOutcome::kFixed);
  const Hfn wanted = memory().Resolve(kRam + MiB(2) + 3 * kPageSize, Access::Read())->hfn;
  EXPECT_EQ(MappedEntry(Gpa(3 * kPageSize)).frame(), wanted) << "the way is not to its table";
}

TEST_F(NestedRace, APageThatWentWhileTheHostWasAskedIsNotMapped) {
  Start(0, false);
  // Everything that a violation has to prepare is there, so that the first try is the one that
  // counts.
  const Hva page = kRam + MiB(2);
  ASSERT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  ASSERT_TRUE(vm().InvalidateHostRange(page, kPageSize).ok());
  backend().resolve_at = page;
  backend().on_resolve = [this, page] {
    ASSERT_TRUE(vm().BeginHostInvalidation(page, kPageSize).ok());
    ASSERT_TRUE(memory().Migrate(page, kPageSize).ok());
    vm().EndHostInvalidation();
  };
  EXPECT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  EXPECT_EQ(backend().on_resolve, nullptr);
  const GuestEntry entry = vcpu(0).EnterGuest();
  ASSERT_EQ(backend().cpu(0).Enter(entry.eptp()), sim::Event::kNone);
  const sim::AccessResult seen = backend().cpu(0).Access(Gva(0), sim::AccessKind::kLoad);
  ASSERT_TRUE(seen.ok());
  EXPECT_EQ(Hfn::Of(seen.hpa), memory().Resolve(page, Access::Read())->hfn);
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
    rules.capabilities = backend().capabilities().ept;
    EXPECT_TRUE(*vcpu(0).nested()->Invept(2, Eptp(), rules));
  }));
}

// L2 reads a page that is logged, and writes it afterwards.
TEST_F(NestedRace, AReadOfALoggedPageGivesNoW) {
  Start(0, false);
  ASSERT_TRUE(SetRam(kSlotLogDirtyPages).ok());
  ASSERT_TRUE(vm().TakeDirtyLog(0, [](uint64_t, uint64_t) {}).ok());
  ASSERT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  EXPECT_EQ(Fault(0, 0, Access::Write()).outcome, NestedOutcome::kFixed) << "W was missing";
  EXPECT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kSpurious);
  EXPECT_TRUE(MappedEntry(Gpa(0)).is_writable()) << "a read takes none";
  EXPECT_EQ(TakenPages(vm()), std::set<uint64_t>{MiB(2) / kPageSize});
  EXPECT_EQ(Fault(0, 0, Access::Read()).outcome, NestedOutcome::kSpurious);
  EXPECT_EQ(Fault(0, 0, Access::Write()).outcome, NestedOutcome::kFixed) << "the take took W";
}

TEST_F(NestedRace, ReadOnlyMemoryOfL1GetsNoW) {
  Start(0, false);
  ASSERT_TRUE(vm().SetMemoryRegion({.slot = 0}).ok());
  ASSERT_TRUE(SetRam(kSlotReadOnly).ok());
  ASSERT_EQ(Fault(1, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  EXPECT_TRUE(MappedEntry(Gpa(0)).is_present());
  EXPECT_FALSE(MappedEntry(Gpa(0)).is_writable());
  EXPECT_EQ(Fault(1, 0, Access::Write()).outcome, NestedOutcome::kMmio);
}

// The host shares the page until it is written.
TEST_F(NestedRace, APageThatTheHostSharesGetsNoWFromARead) {
  Start(0, false);
  ASSERT_TRUE(memory().Protect(kRam + MiB(2), kPageSize, false).ok());
  ASSERT_EQ(Fault(1, 0, Access::Read()).outcome, NestedOutcome::kFixed);
  EXPECT_FALSE(MappedEntry(Gpa(0)).is_writable());
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
