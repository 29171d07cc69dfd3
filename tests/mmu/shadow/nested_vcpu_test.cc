// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/memslot/dirty_ring.h"

#include <cstdint>
#include <memory>
#include <set>
#include <string>

#include "absl/types/span.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/nested_world.h"
#include "tests/world/test_host.h"

namespace tdp::shadow_test {
namespace {

using sim::AccessKind;
using testing::HasSubstr;

constexpr uint64_t kPage = 0x5000;     // of L2
constexpr uint64_t kFrame = 0x800000;  // of L1
constexpr uint64_t kRead = ept::kRead;
constexpr uint64_t kAll = ept::kRightsMask;

TEST(NestedVcpu, RunsL2OnTheMemoryThatL1Gave) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  EXPECT_EQ(world.Access(kPage + 0x123, AccessKind::kLoad), Memory(kFrame + 0x123));
  const uint64_t faults = world.faults();
  EXPECT_EQ(world.Access(kPage + 0x123, AccessKind::kLoad), Memory(kFrame + 0x123));
  EXPECT_EQ(world.faults(), faults) << "the second access needs nobody";
}

TEST(NestedVcpu, LoadsTheContextOfL2AndBack) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  EXPECT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  const Eptp on_l2 = world.vcpu().EnterGuest().eptp();
  EXPECT_NE(on_l2, world.vm().eptp());
  ASSERT_TRUE(world.nested().Leave().ok());
  EXPECT_EQ(world.vcpu().EnterGuest().eptp(), world.vm().eptp());
  ASSERT_TRUE(world.nested().Enter(world.context()).ok());
  EXPECT_EQ(world.vcpu().EnterGuest().eptp(), on_l2) << "EPT02 was kept";
}

TEST(NestedVcpu, NamesNoTablesOfL2WhereItWasNotEntered) {
  TestHost host;
  const auto vm = *Vm::Create(host, {.address_spaces = 2, .nested = true});
  const auto vcpu = *vm->CreateVcpu();
  EXPECT_EQ(vcpu->nested()->eptp(), Eptp());
  const NestedContext context = {
      .eptp = Eptp::Make(Hpa(0x1000), 4, false),
      .rules = {.capabilities = host.capabilities().ept,
                .physical_address_bits = host.capabilities().physical_address_bits}};
  ASSERT_EQ(vcpu->nested()->Enter(context), absl::OkStatus());
  EXPECT_NE(vcpu->nested()->eptp(), Eptp());
  ASSERT_EQ(vcpu->nested()->Leave(), absl::OkStatus());
  ASSERT_EQ(vcpu->SetAddressSpace(1), absl::OkStatus());
  EXPECT_EQ(vcpu->nested()->eptp(), Eptp());
}

TEST(NestedVcpu, WhileL2RunsAViolationIsNotForTheTablesOfL1) {
  NestedWorld world;
  ASSERT_TRUE(world.nested().Enter(world.context()).ok());
  const auto write = ExitQualification::Make(Access::Write(), Access::None(), true, true);
  EXPECT_TRUE(
      absl::IsFailedPrecondition(world.vcpu().HandleEptViolation(Gpa(kFrame), write).status));
  ASSERT_TRUE(world.nested().Leave().ok());
  EXPECT_EQ(world.vcpu().HandleEptViolation(Gpa(kFrame), write).outcome, FaultOutcome::kFixed);
}

TEST(NestedVcpu, GivesL1TheViolationThatItsTablesCause) {
  NestedWorld world;
  world.Map(kPage, kFrame, 1, kRead);
  const Nested seen = world.Access(kPage, AccessKind::kStore);
  EXPECT_EQ(seen.what, Nested::What::kViolation);
  EXPECT_EQ(seen, world.Reference(kPage, AccessKind::kStore));
  EXPECT_EQ(world.Access(kPage + 0x1000, AccessKind::kLoad),
            world.Reference(kPage + 0x1000, AccessKind::kLoad))
      << "nothing is mapped there";
}

// NMIs that the instruction unblocked, an access to a shadow stack, and one of no instruction.
TEST(NestedVcpu, TellsL1WhatTheCpuAloneKnowsOfAViolation) {
  NestedWorld world;
  ASSERT_TRUE(world.nested().Enter(world.context()).ok());
  const auto none = ExitQualification::Make(Access::Write(), Access::None(), true, true);
  for (const int bit : {12, 13, 16}) {
    const ExitQualification told(none.raw() | uint64_t{1} << bit);
    const NestedFaultResult result = world.nested().HandleViolation(Gpa(0x5000), told);
    EXPECT_EQ(result.outcome, NestedOutcome::kViolation);
    EXPECT_EQ(result.qualification.raw() & uint64_t{1} << bit, uint64_t{1} << bit) << bit;
  }
}

TEST(NestedVcpu, GivesL1ItsMisconfigurations) {
  NestedWorld world;
  world.Map(kPage, kFrame, 1, ept::kWrite);
  const Nested seen = world.Access(kPage, AccessKind::kLoad);
  EXPECT_EQ(seen.what, Nested::What::kMisconfiguration);
  EXPECT_EQ(seen, world.Reference(kPage, AccessKind::kLoad));
}

TEST(NestedVcpu, SetsAccessedAndDirtyInTheTablesOfL1) {
  for (const bool accessed_dirty : {true, false}) {
    NestedWorld world(4, accessed_dirty);
    world.Map(kPage, kFrame);
    const uint64_t leaf = world.EntryAt(kPage, 1);
    const uint64_t upper = world.EntryAt(kPage, 3);
    world.Access(kPage, AccessKind::kLoad);
    EXPECT_EQ((world.Read(leaf) & ept::kAccessed) != 0, accessed_dirty);
    EXPECT_EQ((world.Read(upper) & ept::kAccessed) != 0, accessed_dirty);
    EXPECT_EQ(world.Read(leaf) & ept::kDirty, 0u);
    world.Access(kPage, AccessKind::kStore);
    EXPECT_EQ((world.Read(leaf) & ept::kDirty) != 0, accessed_dirty);
  }
}

// The engine writes A and D flags to L1's tables: those pages are dirty as what L2 writes is.
TEST(NestedVcpu, FlagsInTheTablesOfL1AreInTheDirtyRing) {
  NestedWorld world(4, true, 0, false, 1024);
  world.Map(kPage, kFrame);
  const auto harvest = [&] {
    std::set<uint64_t> pages;
    EXPECT_TRUE(
        world.vm()
            .HarvestDirtyRings([&](const DirtyRingEntry& entry) { pages.insert(entry.index); })
            .ok());
    return pages;
  };
  std::set<uint64_t> tables;
  for (int level = 1; level <= 4; ++level) {
    tables.insert(world.EntryAt(kPage, level) >> kPageShift);
  }
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  EXPECT_EQ(harvest(), tables);
  ASSERT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
  EXPECT_EQ(harvest(),
            (std::set<uint64_t>{world.EntryAt(kPage, 1) >> kPageShift, kFrame >> kPageShift}));
}

TEST(NestedVcpu, WhatL1AddsNeedsNoInvept) {
  NestedWorld world;
  world.Map(kPage, kFrame, 1, kRead);
  EXPECT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  EXPECT_EQ(world.Access(kPage, AccessKind::kStore).what, Nested::What::kViolation);
  world.Map(kPage, kFrame);
  EXPECT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
  world.Map(0x9000, kFrame + 0x1000);
  EXPECT_EQ(world.Access(0x9000, AccessKind::kLoad), Memory(kFrame + 0x1000));
}

TEST(NestedVcpu, WhatL1TakesAwayStaysUntilInvept) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
  world.Map(kPage, kFrame + 0x1000);
  EXPECT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame)) << "as a TLB may";
  world.Invept();
  EXPECT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame + 0x1000));
  world.Write(world.EntryAt(kPage, 2), 0);
  world.Invept();
  EXPECT_EQ(world.Access(kPage, AccessKind::kLoad), world.Reference(kPage, AccessKind::kLoad));
}

// A table that is linked again has been out of use: nothing of what it held then may be used.
TEST(NestedVcpu, ATableOfL1ThatIsLinkedAnewIsReadAnew) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  const uint64_t table = world.Read(world.EntryAt(kPage, 2)) & ept::kAddressMask;
  world.Write(world.EntryAt(kPage, 1), (kFrame + 0x3000) | kAll | NestedWorld::kWriteBack);
  world.Map(0x6000, kFrame + 0x6000);
  constexpr uint64_t kElsewhere = 0x600000;
  world.Write(world.EntryAt(kElsewhere, 2), table | kAll);
  EXPECT_EQ(world.Access(kElsewhere + 0x6000, AccessKind::kLoad), Memory(kFrame + 0x6000))
      << "an entry that was never used";
  EXPECT_EQ(world.Access(kElsewhere + kPage, AccessKind::kLoad), Memory(kFrame + 0x3000));
}

// The violation has dropped what was cached for the address (SDM vol. 3C, 30.4.3.1), so L1 owes no
// INVEPT for the page that it copies then: not for a read either.
TEST(NestedVcpu, AfterAViolationL1CopiesThePageWithoutInvept) {
  for (const AccessKind next : {AccessKind::kLoad, AccessKind::kStore, AccessKind::kFetch}) {
    for (const int level : {1, 2}) {
      NestedWorld world(4, true, 9);
      const uint64_t page = level == 2 ? MiB(4) : kPage;
      world.Map(page, kFrame, level, kRead | ept::kExecute);
      ASSERT_EQ(world.Access(page, AccessKind::kLoad), Memory(kFrame));
      ASSERT_EQ(world.Access(page, AccessKind::kStore).what, Nested::What::kViolation);
      world.Map(page, kFrame + MiB(2), level);
      EXPECT_EQ(world.Access(page, next), Memory(kFrame + MiB(2))) << "level " << level;
    }
  }
}

// A misconfiguration has dropped it, too, so L1 owes no INVEPT for mending the entry.
TEST(NestedVcpu, AfterAMisconfigurationL1MendsTheEntryWithoutInvept) {
  NestedWorld world;
  world.Map(kPage, kFrame, 1, kRead);
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  world.Map(kPage, kFrame, 1, ept::kWrite);
  ASSERT_EQ(world.Access(kPage, AccessKind::kStore).what, Nested::What::kMisconfiguration);
  world.Map(kPage, kFrame + 0x1000);
  EXPECT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame + 0x1000));
}

// An upper table is read anew, too: what it led to while it was linked elsewhere is not used here.
TEST(NestedVcpu, AnUpperTableOfL1ThatIsLinkedAnewIsReadAnew) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  const uint64_t table = world.Read(world.EntryAt(kPage, 3)) & ept::kAddressMask;
  world.Write(world.EntryAt(kPage, 1), (kFrame + 0x3000) | kAll | NestedWorld::kWriteBack);
  world.Map(0x6000, kFrame + 0x6000);
  world.Write(world.EntryAt(GiB(1), 3), table | kAll);
  EXPECT_EQ(world.Access(GiB(1) + 0x6000, AccessKind::kLoad), Memory(kFrame + 0x6000));
  EXPECT_EQ(world.Access(GiB(1) + kPage, AccessKind::kLoad), Memory(kFrame + 0x3000));
}

// The entry leads to another table now, without INVEPT, and the access has to be walked.
TEST(NestedVcpu, AnEntryThatLeadsToAnotherTableIsFollowed) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  const uint64_t other = world.NewFrame();
  world.Write(other + 0x30, (kFrame + 0x5000) | kAll | NestedWorld::kWriteBack);
  world.Write(world.EntryAt(kPage, 2), other | kAll);
  EXPECT_EQ(world.Access(0x6000, AccessKind::kLoad), Memory(kFrame + 0x5000));
  EXPECT_TRUE(world.vm().CheckInvariants().ok());
}

TEST(NestedVcpu, AnAccessBeyondTheMemoryOfL1IsMmio) {
  NestedWorld world;
  world.Map(kPage, GiB(1));
  EXPECT_EQ(world.Access(kPage + 8, AccessKind::kLoad), (Nested{Nested::What::kMmio, GiB(1) + 8}));
}

TEST(NestedVcpu, LargePagesOfL1AreLargeWhereTheHostsAre) {
  NestedWorld world(4, true, 9);
  world.Map(MiB(4), MiB(8), 2);
  EXPECT_EQ(world.Access(MiB(4) + 0x7000, AccessKind::kStore), Memory(MiB(8) + 0x7000));
  const uint64_t faults = world.faults();
  EXPECT_EQ(world.Access(MiB(4) + 0x9000, AccessKind::kStore), Memory(MiB(8) + 0x9000));
  EXPECT_EQ(world.faults(), faults);
}

TEST(NestedVcpu, NeighboursInTheSameHostPageNeedNoViolation) {
  NestedWorld world(4, true, 9);
  constexpr uint64_t kUsed = kAll | ept::kAccessed | ept::kDirty;
  for (uint64_t i = 0; i < 8; ++i)
    world.Map(0x8000 + i * kPageSize, kFrame + i * kPageSize, 1, kUsed);
  ASSERT_EQ(world.Access(0xa000, AccessKind::kLoad), Memory(kFrame + 0x2000));
  const uint64_t faults = world.faults();
  for (uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(world.Access(0x8000 + i * kPageSize, AccessKind::kStore),
              Memory(kFrame + i * kPageSize));
  }
  EXPECT_EQ(world.faults(), faults);
}

TEST(NestedVcpu, NeighboursInARowOf4KiBHostPagesNeedNoViolation) {
  NestedWorld world;
  constexpr uint64_t kUsed = kAll | ept::kAccessed | ept::kDirty;
  for (uint64_t i = 0; i < 9; ++i)
    world.Map(0x8000 + i * kPageSize, kFrame + i * kPageSize, 1, kUsed);
  ASSERT_EQ(world.Access(0x10000, AccessKind::kLoad), Memory(kFrame + 0x8000));
  ASSERT_EQ(world.Access(0xa000, AccessKind::kLoad), Memory(kFrame + 0x2000));
  const uint64_t faults = world.faults();
  for (uint64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(world.Access(0x8000 + i * kPageSize, AccessKind::kStore),
              Memory(kFrame + i * kPageSize));
  }
  EXPECT_EQ(world.faults(), faults);
}

// A neighbour that nobody asked for is mapped without a trace in EPT12, and only if the CPU would
// leave none.
TEST(NestedVcpu, NeighboursThatWouldGetAFlagWaitForTheirViolation) {
  NestedWorld world(4, true, 9);
  world.Map(0x8000, kFrame);
  world.Map(0x9000, kFrame + 0x1000);
  world.Map(0xa000, kFrame + 0x2000, 1, kAll | ept::kAccessed);
  world.Map(0xb000, kFrame + 0x3000, 1, ept::kWrite);
  ASSERT_EQ(world.Access(0x8000, AccessKind::kLoad), Memory(kFrame));
  for (uint64_t page = 0x9000; page <= 0xb000; page += kPageSize) {
    EXPECT_EQ(world.Read(world.EntryAt(page, 1)), world.ReadCopy(world.EntryAt(page, 1)));
    for (const AccessKind kind : {AccessKind::kLoad, AccessKind::kStore}) {
      EXPECT_EQ(world.Access(page, kind), world.Reference(page, kind));
      EXPECT_EQ(world.Read(world.EntryAt(page, 1)), world.ReadCopy(world.EntryAt(page, 1)));
    }
  }
}

TEST(NestedVcpu, CountsWhatItsViolationsCameTo) {
  NestedWorld world;
  world.Map(kPage, kFrame, 1, kRead);
  const FaultStats before = world.vcpu().stats();
  world.Access(kPage, AccessKind::kLoad);
  world.Access(kPage, AccessKind::kStore);
  world.Map(0x6000, GiB(1));
  world.Access(0x6000, AccessKind::kLoad);
  const FaultStats after = world.vcpu().stats();
  EXPECT_EQ(after.fixed - before.fixed, 1u);
  EXPECT_EQ(after.guest_faults - before.guest_faults, 1u);
  EXPECT_EQ(after.mmio - before.mmio, 1u);
}

TEST(NestedVcpu, WritesOfL2AreInTheDirtyLog) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
  const MemoryRegion logging = {.flags = kSlotLogDirtyPages,
                                .gpa = Gpa(0),
                                .size = NestedWorld::kRamBytes,
                                .hva = NestedWorld::kRam};
  ASSERT_TRUE(world.vm().SetMemoryRegion(logging).ok());
  for (int round = 0; round < 2; ++round) {
    bool written = false;
    const auto look = [&](uint64_t base, uint64_t mask) {
      const uint64_t page = kFrame >> kPageShift;
      written |= page - base < 64 && (mask >> (page - base) & 1) != 0;
    };
    ASSERT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
    ASSERT_TRUE(world.vm().TakeDirtyLog(0, look).ok());
    EXPECT_TRUE(written) << "round " << round;
  }
}

TEST(NestedVcpu, WritesOfL2AreInTheRingOfItsVcpu) {
  SimWorld world({.vm = {.nested = true}, .vcpus = 0});
  ASSERT_TRUE(world.vm().EnableDirtyRing(1024).ok());
  ASSERT_TRUE(world.SetRam(MiB(2), 0, kSlotLogDirtyPages).ok());
  for (uint64_t table = 1; table < 4; ++table) {
    world.Poke(Gpa(table << 12), (table + 1) << 12 | kAll);
  }
  world.Poke(Gpa(0x4000), 0x10000 | kAll | NestedWorld::kWriteBack);
  world.AddVcpu();
  Vcpu& vcpu = world.vcpu();
  const NestedContext context = NestedOn(world.backend(), Eptp::Make(Hpa(0x1000), 4, false));
  ASSERT_TRUE(vcpu.nested()->Enter(context).ok());
  for (const Access access : {Access::Read(), Access::Write()}) {
    const auto qualification = ExitQualification::Make(access, Access::None(), true, true);
    EXPECT_EQ(vcpu.nested()->HandleViolation(Gpa(0), qualification).outcome, NestedOutcome::kFixed);
  }
  DirtyRingEntry entries[4];
  ASSERT_EQ(vcpu.dirty_ring()->Harvest(absl::MakeSpan(entries)), 1u);
  EXPECT_EQ(entries[0].index, 0x10u);
}

TEST(NestedVcpu, APageThatTheHostMovedIsFollowed) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
  const Hva page = NestedWorld::kRam + kFrame;
  ASSERT_TRUE(world.Migrate(page, kPageSize).ok());
  EXPECT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
}

TEST(NestedVcpu, AgingTellsWhatL2Uses) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  const Hva page = NestedWorld::kRam + kFrame;
  EXPECT_TRUE(*world.vm().TestAge(page, kPageSize));
  AgeResult aged = *world.vm().AgeHostRange(page, kPageSize);
  aged.flush.Settle();
  EXPECT_TRUE(aged.young);
  EXPECT_FALSE(*world.vm().TestAge(page, kPageSize));
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  EXPECT_TRUE(*world.vm().TestAge(page, kPageSize));
}

TEST(NestedVcpu, RefusesWhatTheCpuOfL1Refuses) {
  NestedWorld world;
  NestedContext context = world.context();
  context.eptp = Eptp(context.eptp.raw() | 0x800);
  EXPECT_EQ(world.nested().Enter(context).code(), absl::StatusCode::kInvalidArgument);
  context = world.context();
  context.rules.mbec = true;
  EXPECT_THAT(std::string(world.nested().Enter(context).message()), HasSubstr("mbec"));
  for (const int bits : {0, 31, 53, 64}) {
    context = world.context();
    context.rules.physical_address_bits = bits;
    EXPECT_TRUE(absl::IsInvalidArgument(world.nested().Enter(context))) << bits;
    const auto done = world.nested().Invept(1, context.eptp, context.rules);
    EXPECT_TRUE(absl::IsInvalidArgument(done.status())) << bits;
  }
  EXPECT_FALSE(world.nested().is_entered());
  const EntryRules& rules = world.context().rules;
  EXPECT_FALSE(*world.nested().Invept(0, world.context().eptp, rules));
  EXPECT_FALSE(*world.nested().Invept(1, Eptp(7), rules));
  EXPECT_TRUE(*world.nested().Invept(2, Eptp(7), rules));
  EXPECT_FALSE(*world.nested().Invvpid(4, 1, Gva(0), rules));
  EXPECT_FALSE(*world.nested().Invvpid(1, 0, Gva(0), rules));
  EXPECT_FALSE(*world.nested().Invvpid(0, 1, Gva(uint64_t{1} << 60), rules));
  EXPECT_TRUE(*world.nested().Invvpid(0, 1, Gva(uint64_t{1} << 55), rules)) << "of 5-level paging";
  EXPECT_TRUE(*world.nested().Invvpid(0, 1, Gva(~uint64_t{0} << 56), rules));
  EXPECT_FALSE(*world.nested().Invvpid(0, 1, Gva(uint64_t{1} << 56), rules));
  EXPECT_FALSE(*world.nested().Invvpid(0, 1, Gva(uint64_t{1} << 55), rules, 48));
  EXPECT_TRUE(absl::IsInvalidArgument(world.nested().Invvpid(2, 0, Gva(0), rules, 50).status()));
  EXPECT_TRUE(*world.nested().Invvpid(2, 0, Gva(0), rules));
  const NestedFaultResult early = world.nested().HandleViolation(Gpa(0), ExitQualification(1));
  EXPECT_EQ(early.status.code(), absl::StatusCode::kFailedPrecondition);
}

// --- What L1's registers and VPIDs say -----------------------------------------------------------

// Two EPTPs differ in bit 6 alone: L1 sees the flags of the one that is loaded.
TEST(NestedVcpu, TheSameTablesWithAndWithoutFlagsAreTwoEpt02s) {
  for (const bool flags_first : {false, true}) {
    NestedWorld world;
    world.Map(kPage, kFrame);
    const uint64_t leaf = world.EntryAt(kPage, 1);
    const Eptp eptp = world.context().eptp;
    world.Enter(Eptp::Make(eptp.root(), eptp.levels(), flags_first));
    ASSERT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
    EXPECT_EQ((world.Read(leaf) & ept::kDirty) != 0, flags_first);
    world.Write(leaf, kFrame | kAll | NestedWorld::kWriteBack);
    world.Enter(Eptp::Make(eptp.root(), eptp.levels(), !flags_first));
    ASSERT_EQ(world.Access(kPage, AccessKind::kStore), Memory(kFrame));
    EXPECT_EQ((world.Read(leaf) & ept::kDirty) != 0, !flags_first);
  }
}

// The rules of L1's CPU decide what an entry means: each pair of rules reads one of them otherwise.
TEST(NestedVcpu, EnteredByOtherRulesTheTablesAreReadByThem) {
  struct Case {
    const char* name;
    int level;
    uint64_t gpa;
    uint64_t bits;
    void (*change)(EntryRules&);
  };
  constexpr Case kCases[] = {
      {"execute-only", 1, kFrame, ept::kExecute,
       [](EntryRules& rules) {
         rules.capabilities = rules.capabilities.Without(ept::kCapExecuteOnly);
       }},
      {"2M", 2, kFrame, kAll,
       [](EntryRules& rules) { rules.capabilities = rules.capabilities.Without(ept::kCap2M); }},
      {"1G", 3, 0, kAll,
       [](EntryRules& rules) { rules.capabilities = rules.capabilities.Without(ept::kCap1G); }},
      {"width", 1, kFrame | NestedWorld::kHighAlias, kAll,
       [](EntryRules& rules) { rules.physical_address_bits = 36; }},
  };
  for (const Case& c : kCases) {
    SCOPED_TRACE(c.name);
    NestedWorld world;
    world.AddHighAlias();
    world.Map(kPage, c.gpa, c.level, c.bits);
    ASSERT_EQ(world.Access(kPage, AccessKind::kFetch).what, Nested::What::kMemory);
    NestedContext other = world.context();
    c.change(other.rules);
    ASSERT_TRUE(world.nested().Enter(other).ok());
    EXPECT_EQ(world.Access(kPage, AccessKind::kFetch).what, Nested::What::kMisconfiguration);
    ASSERT_TRUE(world.nested().Enter(world.context()).ok());
    EXPECT_EQ(world.Access(kPage, AccessKind::kFetch).what, Nested::What::kMemory);
  }
}

// L2 has changed its own tables and L1 says so. Each way in which L1 can must reach L2, and none of
// them is paid by the call that is for shadow paging.
TEST(NestedVcpu, WhatL2HasCachedGoesWithItsVpid) {
  enum class How { kNothing, kInvvpid, kNoVpid, kStillNoVpid, kOtherVpid, kSameVpid, kExit };
  for (const How how : {How::kNothing, How::kInvvpid, How::kNoVpid, How::kStillNoVpid,
                        How::kOtherVpid, How::kSameVpid, How::kExit}) {
    SCOPED_TRACE(static_cast<int>(how));
    PagedL2 l2;
    NestedWorld& world = l2.world();
    NestedContext context = world.context();
    if (how == How::kExit || how == How::kStillNoVpid) context.vpid = 0;
    ASSERT_TRUE(world.nested().Enter(context).ok());
    ASSERT_EQ(l2.Load(), Memory(PagedL2::kFirst));
    l2.Remap();
    const EntryRules& rules = context.rules;
    switch (how) {
      case How::kNothing:
        break;
      case How::kInvvpid:
        ASSERT_TRUE(*world.nested().Invvpid(1, 1, Gva(0), rules));
        break;
      case How::kStillNoVpid:
      case How::kNoVpid:
        context.vpid = 0;
        ASSERT_TRUE(world.nested().Enter(context).ok());
        break;
      case How::kOtherVpid:
        context.vpid = 2;
        ASSERT_TRUE(world.nested().Enter(context).ok());
        break;
      case How::kSameVpid:
        ASSERT_TRUE(world.nested().Leave().ok());
        ASSERT_TRUE(world.nested().Enter(context).ok());
        break;
      case How::kExit:
        ASSERT_TRUE(world.nested().Leave().ok());
        context.vpid = 1;
        ASSERT_TRUE(world.nested().Enter(context).ok());
        break;
    }
    const bool kept = how == How::kNothing || how == How::kSameVpid;
    EXPECT_EQ(l2.Load(), Memory(kept ? PagedL2::kFirst : PagedL2::kSecond));
    EXPECT_EQ(world.linear_invalidations(), 0);
  }
}

// L1 may use any type and any VPID, since L2 runs under a VPID of the real CPU.
TEST(NestedVcpu, InvvpidOfEveryTypeReachesL2) {
  for (uint64_t type = 0; type < 4; ++type) {
    PagedL2 l2;
    NestedWorld& world = l2.world();
    ASSERT_TRUE(world.nested().Enter(world.context()).ok());
    ASSERT_EQ(l2.Load(), Memory(PagedL2::kFirst));
    l2.Remap();
    ASSERT_TRUE(*world.nested().Invvpid(type, 1, Gva(PagedL2::kLinear), world.context().rules));
    EXPECT_EQ(l2.Load(), Memory(PagedL2::kSecond)) << "type " << type;
  }
}

// L1 runs without VPIDs: a VM exit drops its own translations too.
TEST(NestedVcpu, AnExitToAnL1WithoutVpidsFlushesL1) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  NestedContext context = world.context();
  const auto flushes = [&world] { return world.vcpu().stats().flushes; };
  for (const uint16_t vpid : {0, 1}) {
    context.vpid = vpid;
    ASSERT_TRUE(world.nested().Enter(context).ok());
    world.vcpu().EnterGuest().Leave();
    const uint64_t before = flushes();
    ASSERT_TRUE(world.nested().Leave().ok());
    world.vcpu().EnterGuest().Leave();
    EXPECT_EQ(flushes() - before, vpid == 0 ? 1u : 0u);
  }
}

// L1 executes INVEPT in one address space; its EPT12 was in use in the other.
TEST(NestedVcpu, InveptReachesTheEpt02OfEveryAddressSpace) {
  for (const uint64_t type : {1, 2}) {
    NestedWorld world;
    world.Map(kPage, kFrame);
    ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
    world.Map(kPage, kFrame + 0x1000);
    world.UseAddressSpace(1);
    ASSERT_TRUE(*world.nested().Invept(type, world.context().eptp, world.context().rules));
    world.UseAddressSpace(0);
    EXPECT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame + 0x1000));
  }
}

TEST(NestedVcpu, IsThereOnlyWhereTheVmMayNest) {
  sim::HostMemory memory;
  sim::SimBackend backend(memory);
  const std::unique_ptr<Vm> vm = *Vm::Create(backend);
  EXPECT_EQ((*vm->CreateVcpu())->nested(), nullptr);
  EXPECT_EQ(Vm::Create(backend, {.nested = true, .reverse_map = true}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tdp::shadow_test
