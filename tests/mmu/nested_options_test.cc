// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `VmOptions::nested` meets other options here: L2 is bound by what binds L1.

#include <cstdint>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/shadow/nested_fault.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tests/mmu/viewing_guest.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kWriteBack = uint64_t{6} << ept::kMemoryTypeShift;

// L1's EPT12 maps 8 MiB of L2 to the 8 MiB from 8 MiB on, by 2 MiB pages, but the first of them by
// 4 KiB pages.
class NestedOptions : public testing::Test {
 protected:
  static constexpr uint64_t kRoot = 0x1000;
  static constexpr uint64_t kSmall = 0x4000;  // the table of 4 KiB pages
  static constexpr uint64_t kTarget = MiB(8);

  explicit NestedOptions(VmOptions vm = {}, sim::Controls controls = {})
      : guest_({.vm = WithNested(vm), .controls = controls}) {
    guest_.AddSlot(Gpa(0), MiB(16), 9);
    const uint64_t link = ept::kRightsMask;
    Write(kRoot, 0x2000 | link);
    Write(0x2000, 0x3000 | link);
    Write(0x3000, kSmall | link);
    for (uint64_t i = 1; i < 4; ++i) {
      Write(0x3000 + 8 * i, (kTarget + i * MiB(2)) | link | kWriteBack | ept::kLargePage);
    }
    for (uint64_t i = 0; i < 512; ++i) MapSmall(i, link);
    context_ = NestedOn(guest_.backend(), Eptp::Make(Hpa(kRoot), 4, true));
    EXPECT_EQ(nested().Enter(context_), absl::OkStatus());
  }
  ~NestedOptions() override { EXPECT_EQ(nested().Leave(), absl::OkStatus()); }

  static VmOptions WithNested(VmOptions vm) {
    vm.nested = true;
    return vm;
  }
  void Write(uint64_t gpa, uint64_t value) { guest_.Poke(Gpa(gpa), value); }
  void MapSmall(uint64_t page, uint64_t rights) {
    Write(kSmall + 8 * page, (kTarget + page * kPageSize) | rights | kWriteBack);
  }
  NestedVcpu& nested() { return *guest_.vcpu().nested(); }
  void Invept() { EXPECT_TRUE(*nested().Invept(1, context_.eptp, context_.rules)); }

  // Makes the access as L2 and answers its violations as long as that is to run on. `user`: of
  // user mode, by a linear address; else of supervisor mode.
  NestedOutcome Access(uint64_t gpa, sim::AccessKind kind, bool user = false) {
    NestedOutcome outcome = NestedOutcome::kFixed;
    const auto attempt = [&] {
      sim::Cpu& cpu = guest_.cpu();
      return (user ? cpu.Access(Gva(gpa), kind, 8) : cpu.AccessGpa(Gpa(gpa), kind, 8)).event;
    };
    const auto answer = [&](const sim::Exit& exit) {
      EXPECT_EQ(exit.event, sim::Event::kEptViolation) << "and no #VE";
      outcome = nested().HandleViolation(exit.gpa, exit.qualification).outcome;
      return outcome <= NestedOutcome::kRetry;
    };
    EXPECT_TRUE(guest_.Run(0, attempt, answer, 8)) << "the access never ends";
    return outcome <= NestedOutcome::kRetry ? NestedOutcome::kFixed : outcome;
  }

  // Returns the leaf of EPT02 for an address of L2; nothing if there is none.
  Translation Leaf(uint64_t gpa) {
    const Eptp eptp = guest_.vcpu().EnterGuest().eptp();
    uint64_t table = eptp.root().raw();
    for (Level level = eptp.root_level();; level = level.below()) {
      const uint64_t at = table + 8 * static_cast<uint64_t>(level.IndexOf(Gfn::Of(Gpa(gpa))));
      const EptEntry entry(guest_.memory().physical().Load<uint64_t>(at));
      if (entry.kind(level) != EntryKind::kTable) return {entry, level, entry.access()};
      table = entry.address().raw();
    }
  }

  ViewingGuest guest_;
  NestedContext context_;
};

constexpr auto kLoad = sim::AccessKind::kLoad;
constexpr auto kStore = sim::AccessKind::kStore;
constexpr auto kFetch = sim::AccessKind::kFetch;

// --- The guest's memory types ---

GuestMemoryTypes UncachedFrom(uint64_t base, ByteCount size) {
  GuestMemoryTypes types;
  types.non_coherent_dma = true;
  types.mtrrs.default_type = uint64_t{6} | uint64_t{1} << 11;
  const uint64_t width = uint64_t{1} << types.mtrrs.physical_address_bits;
  types.mtrrs.variable[0] = {base, (width - size) | uint64_t{1} << 11};
  return types;
}

TEST_F(NestedOptions, WhatTheTypesOfL1MakeUncachedIsUncachedForL2) {
  ASSERT_EQ(guest_.vm().SetMemoryTypes(UncachedFrom(kTarget, kPageSize)), absl::OkStatus());
  EXPECT_EQ(Access(0, kStore), NestedOutcome::kFixed);
  EXPECT_EQ(Leaf(0).entry.memory_type(), MemoryType::kUncacheable);
  EXPECT_FALSE(Leaf(0).entry.ignore_pat());
  EXPECT_EQ(Access(0x1000, kStore), NestedOutcome::kFixed);
  EXPECT_EQ(Leaf(0x1000).entry.memory_type(), MemoryType::kWriteBack);
  EXPECT_FALSE(Leaf(0x1000).entry.ignore_pat()) << "its device reads past the caches";
}

TEST_F(NestedOptions, ALargeLeafOfL2IsOfOneType) {
  EXPECT_EQ(Access(MiB(2), kStore), NestedOutcome::kFixed);
  EXPECT_EQ(Leaf(MiB(2)).level, kLevel2M);
  const GuestMemoryTypes types = UncachedFrom(kTarget + MiB(2) + KiB(64), KiB(64));
  ASSERT_EQ(guest_.vm().SetMemoryTypes(types), absl::OkStatus());
  EXPECT_FALSE(Leaf(MiB(2)).is_mapped()) << "the old type is gone when the call returns";
  EXPECT_EQ(Access(MiB(2), kStore), NestedOutcome::kFixed);
  EXPECT_EQ(Leaf(MiB(2)).level, kLevel4K);
  EXPECT_EQ(Access(MiB(2) + KiB(64), kStore), NestedOutcome::kFixed);
  EXPECT_EQ(Leaf(MiB(2) + KiB(64)).entry.memory_type(), MemoryType::kUncacheable);
  ASSERT_EQ(guest_.vm().SetMemoryTypes({}), absl::OkStatus());
  EXPECT_EQ(Access(MiB(2) + KiB(64), kStore), NestedOutcome::kFixed);
  EXPECT_EQ(Leaf(MiB(2)).entry.memory_type(), MemoryType::kWriteBack);
  EXPECT_TRUE(Leaf(MiB(2)).entry.ignore_pat());
}

TEST_F(NestedOptions, WithCachesDisabledL2IsUncachedWhateverItsPatSays) {
  GuestMemoryTypes types = UncachedFrom(0, MiB(1));
  types.caches_disabled = true;
  ASSERT_EQ(guest_.vm().SetMemoryTypes(types), absl::OkStatus());
  EXPECT_EQ(Access(MiB(4), kStore), NestedOutcome::kFixed);
  EXPECT_EQ(Leaf(MiB(4)).entry.memory_type(), MemoryType::kUncacheable);
  EXPECT_TRUE(Leaf(MiB(4)).entry.ignore_pat());
}

// --- Mode-based execute control ---

class NestedByMode : public NestedOptions {
 protected:
  NestedByMode() : NestedOptions({.execute_by_mode = Use::kRequire}, {.mbec = true}) {}
};

TEST_F(NestedByMode, WhatEpt12LetsRunRunsInBothModes) {
  for (const bool user : {true, false}) {
    EXPECT_EQ(Access(user ? 0x3000 : 0x5000, kFetch, user), NestedOutcome::kFixed);
    EXPECT_EQ(Access(MiB(2), kFetch, user), NestedOutcome::kFixed);
  }
  EXPECT_EQ(Access(0x7000, kLoad), NestedOutcome::kFixed);
  EXPECT_EQ(Access(0x7000, kFetch, true), NestedOutcome::kFixed);
  EXPECT_TRUE(Leaf(0x7000).entry.access().can_user_execute());
}

TEST_F(NestedByMode, WhatEpt12KeepsFromRunningRunsInNeither) {
  MapSmall(3, ept::kRead | ept::kWrite);
  for (const bool user : {true, false}) {
    EXPECT_EQ(Access(0x3000, kLoad, user), NestedOutcome::kFixed);
    EXPECT_EQ(Access(0x3000, kFetch, user), NestedOutcome::kViolation);
  }
  MapSmall(3, ept::kExecute);
  EXPECT_EQ(Access(0x3000, kFetch, true), NestedOutcome::kFixed);
  EXPECT_EQ(Access(0x3000, kLoad, true), NestedOutcome::kViolation);
}

// --- #VE ---

class NestedWithExceptions : public NestedOptions {
 protected:
  NestedWithExceptions() : NestedOptions({.virtualization_exceptions = Use::kRequire}) {
    EXPECT_EQ(guest_.memory().Map(kInformation, kPageSize), absl::OkStatus());
    sim::Controls controls;
    controls.ve = true;
    controls.ve_information =
        guest_.memory().Resolve(kInformation, tdp::Access::Write())->hfn.address();
    EXPECT_EQ(guest_.cpu().SetControls(controls), absl::OkStatus());
  }
  static constexpr Hva kInformation{0x7f8000000000};
};

TEST_F(NestedWithExceptions, NothingThatEpt02LacksIsToldToL2) {
  MapSmall(3, ept::kRead);
  EXPECT_EQ(Access(0x3000, kLoad), NestedOutcome::kFixed);
  EXPECT_TRUE(Leaf(0x3000).entry.suppress_ve());
  EXPECT_EQ(Access(0x3000, kStore), NestedOutcome::kViolation);
  EXPECT_EQ(Access(GiB(2), kLoad), NestedOutcome::kViolation) << "nothing is mapped there";
  EXPECT_EQ(Access(0x5000, kStore), NestedOutcome::kFixed);
  EXPECT_EQ(Access(MiB(2), kStore), NestedOutcome::kFixed);
  EXPECT_TRUE(Leaf(MiB(2)).entry.suppress_ve());
}

// The page that was taken away is a hole again, and holes suppress.
TEST_F(NestedWithExceptions, NorWhatWasTakenAwayFromIt) {
  const auto use = [&] {
    for (uint64_t page = 0; page < 64; ++page) {
      ASSERT_EQ(Access(page * kPageSize, kStore), NestedOutcome::kFixed);
    }
    ASSERT_EQ(Access(MiB(2), kStore), NestedOutcome::kFixed);
  };
  use();
  guest_.Settle(guest_.vm().ZapRange(Gfn::Of(Gpa(kTarget)), PageCount(32)));
  EXPECT_TRUE(Leaf(0x3000).entry.suppress_ve());
  use();
  ASSERT_EQ(guest_.vm().InvalidateHostRange(ViewingGuest::kRam + kTarget, MiB(1)),
            absl::OkStatus());
  use();
  MapSmall(3, 0);
  EXPECT_EQ(Access(0x3000, kStore), NestedOutcome::kFixed) << "stays until INVEPT";
  Invept();
  EXPECT_EQ(Access(0x3000, kStore), NestedOutcome::kViolation);
  MapSmall(3, ept::kRightsMask);
  use();
  guest_.Settle(guest_.vm().ZapAll());
  use();
  EXPECT_EQ(guest_.vm().CheckInvariants(), absl::OkStatus());
}

// The tables go from EPT02 to the pool and from there to L1.
TEST_F(NestedWithExceptions, TablesThatEpt02HadSuppressForL1Too) {
  for (uint64_t page = 0; page < 512; ++page) {
    ASSERT_EQ(Access(page * kPageSize, kStore), NestedOutcome::kFixed);
  }
  ASSERT_EQ(nested().Leave(), absl::OkStatus());
  guest_.Settle(guest_.vm().ZapAll());
  for (uint64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(guest_.Store(Gpa(i * MiB(4))), FaultOutcome::kFixed);
    EXPECT_EQ(guest_.Load(Gpa(GiB(1) * (i + 1))), FaultOutcome::kMmio);
  }
  EXPECT_EQ(guest_.exceptions, 0);
  ASSERT_EQ(nested().Enter(context_), absl::OkStatus());
}

// --- Views ---

TEST_F(NestedOptions, ViewsAreRefusedByName) {
  const auto view = guest_.vm().CreateView();
  EXPECT_TRUE(absl::IsFailedPrecondition(view.status()));
  EXPECT_THAT(std::string(view.status().message()), HasSubstr("VmOptions.nested"));
  const absl::Status rights =
      guest_.vm().SetViewRights(kBaseView, Gfn(0), PageCount(1), tdp::Access::Read());
  EXPECT_TRUE(absl::IsFailedPrecondition(rights)) << rights;
  EXPECT_THAT(std::string(rights.message()), HasSubstr("VmOptions.nested"));
}

}  // namespace
}  // namespace tdp
