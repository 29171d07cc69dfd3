// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <bit>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr Hva kRam{TiB(1)};

class PrefaultTest : public HostTest {
 protected:
  void Start(VmOptions options = {}, ByteCount size = MiB(16), uint32_t flags = 0) {
    HostTest::Start(options);
    ASSERT_TRUE(
        vm_->SetMemoryRegion({.flags = flags, .gpa = Gpa(0), .size = size, .hva = kRam}).ok());
  }
  std::string Refusal(Gpa gpa, ByteCount size, Access access = Access::Read()) {
    return std::string(vcpu_->Prefault(gpa, size, access).status().message());
  }
};

TEST_F(PrefaultTest, WhatIsPrefaultedNeedsNoFault) {
  Start();
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0x5000), MiB(6)), MiB(6));
  for (uint64_t at = 0x5000; at < 0x5000 + MiB(6); at += kPageSize) {
    const auto found = vm_->Translate(Gpa(at));
    ASSERT_TRUE(found.ok()) << at;
    ASSERT_EQ(found->entry.frame(), Hfn::Of(Hpa(kRam.raw() + at)));
  }
  EXPECT_FALSE(IsMapped(Gpa(0x4000)));
  EXPECT_FALSE(IsMapped(Gpa(0x5000 + MiB(6))));
  EXPECT_EQ(vcpu_->HandleEptViolation(Gpa(0x5000), kReadFault).outcome, FaultOutcome::kSpurious);
}

// Host memory comes in pieces of 2^order frames, each in a place of its own, that do not begin
// where their addresses would if they were aligned as the frames are.
TEST_F(PrefaultTest, MapsNothingBeyondThePieceOfHostMemoryThatAPageLiesIn) {
  constexpr uint64_t kShift = 5;
  constexpr uint64_t kScatter = 7;  // odd, so no two pieces are the same
  host_.frame_of = [&](Hva hva) {
    const uint64_t page = ((hva - kRam) >> kPageShift) + kShift;
    const uint64_t piece = (page >> host_.order) * kScatter % 1024;
    return Hfn((piece << host_.order) + (page & ((uint64_t{1} << host_.order) - 1)));
  };
  Start();
  for (const int order : {1, 3, 8, 9}) {
    SCOPED_TRACE(order);
    host_.order = order;
    ASSERT_TRUE(vm_->InvalidateHostRange(kRam, MiB(16)).ok());
    EXPECT_EQ(*vcpu_->Prefault(Gpa(0x3000), MiB(6)), MiB(6));
    EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
  }
}

// A CPU says of each size by itself whether it has it.
TEST_F(PrefaultTest, ACpuWithoutLeavesOf2MGetsNoneOf1GThatWouldHaveToBeSplitIntoThem) {
  host_.offered.ept = host_.offered.ept.Without(ept::kCap2M).With(ept::kCap1G);
  host_.order = 18;
  Start({}, GiB(2));
  EXPECT_EQ(Fault(Gpa(GiB(1))), FaultOutcome::kFixed);
  EXPECT_EQ(LevelOf(Gpa(GiB(1))), 1);
  host_.order = 9;
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), MiB(4)), MiB(4));
  EXPECT_EQ(LevelOf(Gpa(MiB(2))), 1);
}

TEST_F(PrefaultTest, WhatAPortSaysOfMoreThanItWasAskedForIsNotMapped) {
  host_.run = PageCount(4096);
  Start({}, MiB(2) + 0x5000);
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0x3000), 0x2000), 0x2000u);
  EXPECT_FALSE(IsMapped(Gpa(0x5000))) << "behind what was asked for";
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2) + 0x5000), MiB(2) + 0x5000);
  EXPECT_FALSE(IsMapped(Gpa(MiB(2) + 0x5000))) << "behind the slot";
}

TEST_F(PrefaultTest, PagesInARowThatTheHostMapsDifferentlyAreEachMappedAsItIs) {
  for (const bool by_type : {false, true}) {
    vcpu_.reset();
    Start();
    const auto is_other = [](int answer) { return answer % 3 == 0; };
    const int before = host_.resolves;
    host_.on_resolve = [&] {
      const bool other = is_other(host_.resolves - before);
      host_.writable = by_type || !other;
      host_.memory_type = by_type && other ? MemoryType::kUncacheable : MemoryType::kWriteBack;
    };
    ASSERT_EQ(*vcpu_->Prefault(Gpa(0), 16 * kPageSize), 16 * kPageSize);
    ASSERT_EQ(host_.resolves - before, 16);
    for (int page = 0; page < 16; ++page) {
      const EptEntry entry = EntryAt(Gpa(static_cast<uint64_t>(page) * kPageSize));
      const bool other = is_other(page + 1);
      EXPECT_EQ(entry.is_writable(), by_type || !other) << page;
      EXPECT_EQ(entry.memory_type() == MemoryType::kUncacheable, by_type && other) << page;
    }
  }
}

TEST_F(PrefaultTest, NothingOfItIsAccessedOrDirty) {
  Start();
  ASSERT_TRUE(vcpu_->Prefault(Gpa(0), MiB(2)).ok());
  EXPECT_FALSE(vm_->Translate(Gpa(0))->entry.accessed());
  EXPECT_FALSE(*vm_->TestAge(kRam, MiB(16)));
}

// The pages come as whole tables, one by one (a rule is to be asked), or as large leaves.
TEST_F(PrefaultTest, NothingIsAccessedOrDirtyHoweverItIsMapped) {
  for (const int order : {0, 9}) {
    for (const bool has_rules : {false, true}) {
      for (const Access access : {Access::Read(), Access::Write(), Access::Execute()}) {
        SCOPED_TRACE(
            absl::StrCat("order ", order, has_rules ? ", by page " : " ", ToString(access)));
        vcpu_ = nullptr;
        vm_ = nullptr;
        host_.order = order;
        Start();
        if (has_rules) {
          ASSERT_TRUE(vm_->SetViewRights(kBaseView, Gfn(0xfff), PageCount(1), Access::Read()).ok());
        }
        ASSERT_EQ(*vcpu_->Prefault(Gpa(0x1000), MiB(4), access), MiB(4));
        for (const uint64_t at : {uint64_t{0x1000}, MiB(2), MiB(4)}) {
          const EptEntry entry = vm_->Translate(Gpa(at))->entry;
          EXPECT_FALSE(entry.accessed() || entry.dirty());
        }
        EXPECT_FALSE(*vm_->TestAge(kRam, MiB(16)));
        ASSERT_EQ(vcpu_->HandleEptViolation(Gpa(MiB(8)), kReadFault).outcome, FaultOutcome::kFixed);
        EXPECT_TRUE(*vm_->TestAge(kRam, MiB(16))) << "a fault is an access";
      }
    }
  }
}

TEST_F(PrefaultTest, ATableThatIsThereKeepsWhatItHas) {
  Start();
  ASSERT_EQ(vcpu_->HandleEptViolation(Gpa(0x7000), kWriteFault).outcome, FaultOutcome::kFixed);
  const EptEntry before = vm_->Translate(Gpa(0x7000))->entry;
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(4)), MiB(4));
  EXPECT_EQ(vm_->Translate(Gpa(0x7000))->entry, before);
  EXPECT_TRUE(IsMapped(Gpa(0x6000)) && IsMapped(Gpa(0x8000)));
}

TEST_F(PrefaultTest, EachPageIsMappedToTheMemoryOfItsOwnSlot) {
  Start({}, MiB(1));
  ASSERT_TRUE(
      vm_->SetMemoryRegion({.slot = 1, .gpa = Gpa(MiB(1)), .size = MiB(1), .hva = kRam + GiB(1)})
          .ok());
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2)), MiB(2));
  EXPECT_EQ(vm_->Translate(Gpa(MiB(1) - kPageSize))->entry.frame(),
            Hfn::Of(Hpa(kRam.raw() + MiB(1) - kPageSize)));
  EXPECT_EQ(vm_->Translate(Gpa(MiB(1)))->entry.frame(), Hfn::Of(Hpa(kRam.raw() + GiB(1))));
}

TEST_F(PrefaultTest, WhatIsPrefaultedForAWriteIsWritableAfterALogHasEnded) {
  Start({.dirty_tracking = DirtyTracking::kWriteProtection});
  ASSERT_TRUE(vcpu_->Prefault(Gpa(0), KiB(64)).ok());
  for (const uint32_t flags : {uint32_t{kSlotLogDirtyPages}, uint32_t{0}}) {
    ASSERT_TRUE(
        vm_->SetMemoryRegion({.flags = flags, .gpa = Gpa(0), .size = MiB(16), .hva = kRam}).ok());
  }
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(4), Access::Write()), MiB(4));
  for (uint64_t at = 0; at < MiB(4); at += kPageSize) {
    ASSERT_TRUE(vm_->Translate(Gpa(at))->access.can_write()) << at;
  }
}

TEST_F(PrefaultTest, RomIsThereForReadsAndNotForWrites) {
  Start({}, MiB(16), kSlotReadOnly);
  EXPECT_TRUE(absl::IsNotFound(vcpu_->Prefault(Gpa(0), MiB(2), Access::Write()).status()));
  EXPECT_FALSE(IsMapped(Gpa(0)));
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2), Access::Read()), MiB(2));
  EXPECT_FALSE(EntryAt(Gpa(0)).is_writable());
  EXPECT_TRUE(absl::IsNotFound(vcpu_->Prefault(Gpa(0), MiB(2), Access::Write()).status()));
}

TEST_F(PrefaultTest, LargeHostPagesAreMappedAsSuch) {
  host_.order = 9;
  Start({}, MiB(7));
  ASSERT_EQ(*vcpu_->Prefault(Gpa(MiB(1)), MiB(6)), MiB(6));
  EXPECT_EQ(vm_->Translate(Gpa(0))->level, kLevel2M) << "a leaf reaches to its own ends";
  EXPECT_EQ(vm_->Translate(Gpa(MiB(4)))->level, kLevel2M);
  EXPECT_EQ(vm_->Translate(Gpa(MiB(6)))->level, kLevel4K) << "the slot ends inside this one";
  EXPECT_TRUE(IsMapped(Gpa(MiB(7) - 1)));
}

TEST_F(PrefaultTest, AHostThatKnowsItsPagesOneByOneServesToo) {
  struct Scattered : TestHost {
    absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override {
      auto page = TestHost::Resolve(hva, access);
      page->hfn = Hfn(page->hfn.raw() ^ 1);  // no two in a row
      return page;
    }
  } host;
  auto vm = *Vm::Create(host, {});
  auto vcpu = *vm->CreateVcpu();
  ASSERT_TRUE(vm->SetMemoryRegion({.size = MiB(4), .hva = kRam}).ok());
  ASSERT_EQ(*vcpu->Prefault(Gpa(0), MiB(4)), MiB(4));
  for (uint64_t i = 0; i < 1024; ++i) {
    ASSERT_EQ(vm->Translate(Gpa(i * kPageSize))->entry.frame(),
              Hfn((kRam.raw() >> kPageShift) + (i ^ 1)));
  }
}

TEST_F(PrefaultTest, ProgressIsReturnedAndTheRestSaysWhy) {
  Start({}, MiB(16));
  host_.missing.insert(kRam + MiB(3) + 0x4000);
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), MiB(16)), MiB(3) + 0x4000);
  EXPECT_TRUE(absl::IsNotFound(vcpu_->Prefault(Gpa(MiB(3) + 0x4000), MiB(1)).status()));
  EXPECT_EQ(*vcpu_->Prefault(Gpa(MiB(15)), MiB(2)), MiB(1)) << "the slot ends there";
  EXPECT_THAT(Refusal(Gpa(MiB(16)), MiB(1)), HasSubstr("gpa 0x1000000: no slot"));
}

TEST_F(PrefaultTest, WhatKvmCallsEinvalIsInvalidArgument) {
  Start();
  EXPECT_THAT(Refusal(Gpa(0x123), MiB(1)), HasSubstr("gpa 0x123"));
  EXPECT_THAT(Refusal(Gpa(0), 0), HasSubstr("size 0x0"));
  EXPECT_THAT(Refusal(Gpa(0), 0x800), HasSubstr("size 0x800"));
  EXPECT_THAT(Refusal(Gpa(~uint64_t{0} - 0xfff), 0x2000), HasSubstr("wraps"));
  EXPECT_THAT(Refusal(Gpa(0), uint64_t{1} << 60), HasSubstr("beyond the guest's width"));
  EXPECT_THAT(Refusal(Gpa(0), KiB(4), Access::None()), HasSubstr("exit qualification"));
  EXPECT_FALSE(IsMapped(Gpa(0)));
  const GuestEntry entry = vcpu_->EnterGuest();
  EXPECT_TRUE(absl::IsFailedPrecondition(vcpu_->Prefault(Gpa(0), KiB(4)).status()));
}

TEST_F(PrefaultTest, ForAWriteEveryPageBecomesWritable) {
  host_.writable = false;
  Start();
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2)), MiB(2));
  EXPECT_FALSE(vm_->Translate(Gpa(0x3000))->access.can_write());
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2), Access::Write()), MiB(2));
  for (uint64_t i = 0; i < 512; ++i) {
    ASSERT_TRUE(vm_->Translate(Gpa(i * kPageSize))->access.can_write());
  }
}

TEST_F(PrefaultTest, AReadOfALoggingSlotGivesNoPageThatIsWrittenUnseen) {
  Start({.dirty_tracking = DirtyTracking::kWriteProtection}, MiB(4), kSlotLogDirtyPages);
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(4)), MiB(4));
  EXPECT_FALSE(vm_->Translate(Gpa(0x3000))->access.can_write());
  uint64_t dirty = 0;
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0x3000), KiB(8), Access::Write()), KiB(8));
  ASSERT_TRUE(vm_->TakeDirtyLog(0,
                                [&](uint64_t, uint64_t bits) {
                                  dirty += static_cast<uint64_t>(std::popcount(bits));
                                })
                  .ok());
  EXPECT_EQ(dirty, 2u);
}

TEST_F(PrefaultTest, EveryBudgetOfTablesGetsAsFarAsItReachesAndLeavesNothingHalfDone) {
  ByteCount before = 0;
  for (size_t quota = 1; quota < 24; ++quota) {
    TestHost host;
    auto vm = *Vm::Create(host, {.table_quota = quota});
    auto vcpu = *vm->CreateVcpu();
    ASSERT_TRUE(vm->SetMemoryRegion({.size = MiB(16), .hva = kRam}).ok());
    const auto done = vcpu->Prefault(Gpa(0), MiB(16));
    const ByteCount bytes = done.ok() ? *done : 0;
    EXPECT_EQ(absl::IsResourceExhausted(done.status()), !done.ok()) << done.status();
    for (uint64_t at = 0; at < MiB(16); at += kPageSize) {
      ASSERT_EQ(vm->Translate(Gpa(at)).ok(), at < bytes) << quota;
    }
    ASSERT_TRUE(vm->CheckInvariants().ok());
    EXPECT_EQ(bytes % MiB(2), 0u);
    EXPECT_GE(bytes, before);
    before = bytes;
  }
  EXPECT_EQ(before, MiB(16));
}

TEST_F(PrefaultTest, AHostThatKeepsChangingIsAskedForATableOnce) {
  TestHost host;
  auto vm = *Vm::Create(host);
  auto vcpu = *vm->CreateVcpu();
  ASSERT_TRUE(vm->SetMemoryRegion({.size = MiB(16), .hva = kRam}).ok());
  host.on_resolve = [&] {
    EXPECT_EQ(vm->InvalidateHostRange(kRam + MiB(8), kPageSize), absl::OkStatus()) << "elsewhere";
  };
  EXPECT_TRUE(absl::IsUnavailable(vcpu->Prefault(Gpa(0), MiB(2)).status()));
  EXPECT_LE(host.resolves.load(), 512 + 16);
  host.on_resolve = nullptr;
  EXPECT_EQ(*vcpu->Prefault(Gpa(0), MiB(2)), MiB(2));
}

TEST_F(PrefaultTest, AHostIsAskedForATableOnceHoweverManyLeavesAreInTheWay) {
  host_.writable = false;
  Start();
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2)), MiB(2));
  const uint64_t before = host_.resolves.load();
  ASSERT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2), Access::Write()), MiB(2));
  EXPECT_LE(host_.resolves.load() - before, 2 * 512);
}

TEST_F(PrefaultTest, WhileAllOfATableIsInvalidatedTheHostIsNotAskedForIt) {
  Start();
  ASSERT_TRUE(vm_->BeginHostInvalidation(kRam, MiB(2)).ok());
  EXPECT_TRUE(absl::IsUnavailable(vcpu_->Prefault(Gpa(0), MiB(2)).status()));
  EXPECT_EQ(host_.resolves.load(), 0);
  vm_->EndHostInvalidation();
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), MiB(2)), MiB(2));
}

TEST_F(PrefaultTest, WhatLiesInFrontOfAnInvalidationIsMapped) {
  Start();
  ASSERT_TRUE(vm_->BeginHostInvalidation(kRam + MiB(2) - kPageSize, kPageSize).ok());
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), MiB(4)), MiB(2) - kPageSize);
  EXPECT_LE(host_.resolves.load(), 511 + 16);
  EXPECT_FALSE(IsMapped(Gpa(MiB(2) - kPageSize)));
  vm_->EndHostInvalidation();
}

}  // namespace
}  // namespace tdp
