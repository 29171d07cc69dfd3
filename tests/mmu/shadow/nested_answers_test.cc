// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// L1 is refused what its CPU or the one below lacks, and is told of its violations no more and no
// less than its CPU would tell.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tests/mmu/shadow/nested_world.h"

namespace tdp::shadow_test {
namespace {

using sim::AccessKind;
using testing::HasSubstr;

constexpr uint64_t kPage = 0x5000;     // of L2
constexpr uint64_t kFrame = 0x800000;  // of L1

// The CPU of L1 may offer less than the one that there is, and not more.
TEST(NestedAnswers, RefusesWhatTheCpuLacksOrNobodyShadows) {
  struct Case {
    const char* word;
    EptCapabilities cpu;
    void (*change)(NestedContext&);
  };
  const EptCapabilities all = EptCapabilities::All();
  const Case cases[] = {
      {"execute-only", all.Without(ept::kCapExecuteOnly), [](NestedContext&) {}},
      {"advanced exit information", all.Without(ept::kCapAdvancedExitInformation),
       [](NestedContext&) {}},
      {"", all.Without(ept::kCapWalk5),
       [](NestedContext& c) { c.eptp = Eptp::Make(c.eptp.root(), 5, false); }},
      {"", all.Without(ept::kCapAccessedDirty),
       [](NestedContext& c) { c.eptp = Eptp::Make(c.eptp.root(), 4, true); }},
      {"shadow stacks", all, [](NestedContext& c) { c.eptp = Eptp(c.eptp.raw() | 0x80); }},
      {"paging_write", all, [](NestedContext& c) { c.rules.paging_write = true; }},
      {"mbec", all, [](NestedContext& c) { c.rules.mbec = true; }},
  };
  for (const Case& c : cases) {
    sim::HostMemory memory;
    sim::CpuConfig cpu;
    cpu.features.ept = c.cpu;
    sim::SimBackend backend(memory, {.cpu = cpu});
    const std::unique_ptr<Vm> vm = *Vm::Create(backend, {.nested = true});
    const std::unique_ptr<Vcpu> vcpu = *vm->CreateVcpu();
    NestedContext context = NestedOn(backend, Eptp::Make(Hpa(0x1000), 4, false));
    EXPECT_EQ(vcpu->nested()->Enter(context), absl::OkStatus());
    context.rules.capabilities = all;
    c.change(context);
    const absl::Status refused = vcpu->nested()->Enter(context);
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << c.word << ": " << refused;
    EXPECT_THAT(std::string(refused.message()), HasSubstr(c.word));
  }
}

TEST(NestedAnswers, AnInstructionOfATypeThatL1sCpuLacksFails) {
  NestedWorld world;
  NestedVcpu& nested = world.nested();
  const Eptp eptp = world.context().eptp;
  EntryRules rules = world.context().rules;
  EXPECT_FALSE(*nested.Invvpid(1, 0x10001, Gva(0), rules)) << "reserved bits";
  constexpr uint64_t kInvvpid[] = {ept::kCapInvvpidAddress, ept::kCapInvvpidSingle,
                                   ept::kCapInvvpidAll, ept::kCapInvvpidSingleKeepGlobals};
  for (uint64_t type = 0; type < 4; ++type) {
    rules.capabilities = world.context().rules.capabilities.Without(kInvvpid[type]);
    for (uint64_t other = 0; other < 4; ++other) {
      EXPECT_EQ(*nested.Invvpid(other, 1, Gva(0), rules), other != type) << other;
    }
  }
  rules.capabilities = world.context().rules.capabilities.Without(ept::kCapInveptSingle);
  EXPECT_FALSE(*nested.Invept(1, eptp, rules));
  EXPECT_TRUE(*nested.Invept(2, eptp, rules));
  rules.capabilities = world.context().rules.capabilities.Without(ept::kCapInveptAll);
  EXPECT_TRUE(*nested.Invept(1, eptp, rules));
  EXPECT_FALSE(*nested.Invept(2, eptp, rules));
}

TEST(NestedAnswers, StaysInItsAddressSpaceWhileL2Runs) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  EXPECT_TRUE(absl::IsFailedPrecondition(world.vcpu().SetAddressSpace(1)));
  EXPECT_EQ(world.vcpu().address_space(), 0);
}

// Tables of four levels name 48 bits: beyond them nothing is mapped, whatever the lower bits are.
TEST(NestedAnswers, AnAddressBeyondTheTablesIsAViolation) {
  NestedWorld world;
  world.Map(kPage, kFrame);
  ASSERT_EQ(world.Access(kPage, AccessKind::kLoad), Memory(kFrame));
  const auto read = ExitQualification::Make(Access::Read(), Access::None(), true, true);
  const Gpa beyond(kPage | uint64_t{1} << 48);
  EXPECT_EQ(world.nested().HandleViolation(beyond, read).outcome, NestedOutcome::kViolation);
}

// L1 changes a large page without INVEPT: what comes is of the page that its entry names now.
TEST(NestedAnswers, APartOfAnotherLargePageIsReadAnew) {
  NestedWorld world;
  world.Map(MiB(4), MiB(8), 2);
  ASSERT_EQ(world.Access(MiB(4), AccessKind::kLoad), Memory(MiB(8)));
  world.Map(MiB(4), MiB(10), 2);
  EXPECT_EQ(world.Access(MiB(4) + 0x20000, AccessKind::kLoad), Memory(MiB(10) + 0x20000));
  EXPECT_EQ(world.vm().CheckInvariants(), absl::OkStatus());
}

// Bit 10 of an entry is ignored without MBEC, and no qualification has it.
TEST(NestedAnswers, TellsL1OfNoKindOfExecutionThatItLacks) {
  NestedWorld world;
  world.Map(kPage, kFrame, 1, ept::kRead | ept::kExecute | ept::kUserExecute);
  for (int level = 2; level <= 4; ++level) {
    const uint64_t at = world.EntryAt(kPage, level);
    world.Write(at, world.Read(at) | ept::kUserExecute);
  }
  const Nested seen = world.Access(kPage, AccessKind::kStore);
  EXPECT_EQ(seen, world.Reference(kPage, AccessKind::kStore));
  const auto write = ExitQualification::Make(Access::Write(), Access::None(), true, true);
  const NestedFaultResult result = world.nested().HandleViolation(Gpa(kPage), write);
  EXPECT_EQ(result.qualification.raw() & 1 << 6, 0u);
}

TEST(NestedAnswers, TellsL1WhatL2sTablesAllowOfAFinalAddressWhereItsCpuWould) {
  NestedWorld world;
  constexpr uint64_t kGuestRights = 7 << 9;
  for (const bool final_address : {false, true}) {
    for (const bool offered : {false, true}) {
      NestedContext context = world.context();
      if (!offered) {
        context.rules.capabilities =
            context.rules.capabilities.Without(ept::kCapAdvancedExitInformation);
      }
      ASSERT_EQ(world.nested().Enter(context), absl::OkStatus());
      const auto write =
          ExitQualification::Make(Access::Write(), Access::None(), true, final_address);
      const NestedFaultResult result =
          world.nested().HandleViolation(Gpa(kPage), write.WithGuestRights(true, true, false));
      ASSERT_EQ(result.outcome, NestedOutcome::kViolation);
      EXPECT_EQ(result.qualification.raw() & kGuestRights,
                offered && final_address ? kGuestRights : 0);
    }
  }
}

// The vCPU leaves the guest before its ring is full, however much L2 writes.
TEST(NestedAnswers, AFullRingEndsAViolation) {
  NestedWorld world(4, false, 0, false, 1024);
  ASSERT_TRUE(world.nested().Enter(world.context()).ok());
  const auto write = ExitQualification::Make(Access::Write(), Access::None(), true, true);
  NestedOutcome outcome = NestedOutcome::kFixed;
  for (uint64_t i = 0; i < 1024 && outcome == NestedOutcome::kFixed; ++i) {
    world.Map(i * kPageSize, kFrame + i * kPageSize);
    outcome = world.nested().HandleViolation(Gpa(i * kPageSize), write).outcome;
  }
  EXPECT_EQ(outcome, NestedOutcome::kDirtyRingFull);
}

}  // namespace
}  // namespace tdp::shadow_test
