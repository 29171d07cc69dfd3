// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Slots and ranges lie anywhere in the host's address space: where kernels have their memory, and
// up to the last byte.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/ept_format.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

using ::testing::HasSubstr;

constexpr ByteCount kSize = MiB(8);
constexpr auto kRead = ExitQualification::Make(Access::Read(), Access::None(), false, false);
constexpr auto kWrite = ExitQualification::Make(Access::Write(), Access::None(), false, false);

struct Place {
  const char* name;
  Hva hva;
  VmOptions options;
};

class HostAddresses : public HostTest, public testing::WithParamInterface<Place> {
 protected:
  HostAddresses() : hva_(GetParam().hva) {
    host_.offset = GiB(1) - hva_.raw();  // the frame of the first page is the one at 1 GiB
    Start(GetParam().options);
    EXPECT_EQ(vm_->SetMemoryRegion({.gpa = Gpa(0), .size = kSize, .hva = hva_}), absl::OkStatus());
  }

  void Map(Gpa gpa) {
    ASSERT_LE(vcpu_->HandleEptViolation(gpa, kWrite).outcome, FaultOutcome::kSpurious);
  }
  // This is the last page of the slot, and of the address space in places that end with it.
  static constexpr Gpa kLast{kSize - kPageSize};

  const Hva hva_;
};

TEST_P(HostAddresses, FaultsReachTheFrame) {
  for (const Gpa gpa : {Gpa(0), Gpa(0x5000), kLast}) {
    Map(gpa);
    EXPECT_EQ(vm_->Translate(gpa)->FrameOf(Gfn::Of(gpa)), Hfn::Of(Hpa(GiB(1) + gpa.raw())));
  }
}

TEST_P(HostAddresses, InvalidatingTakesTheMappingsAway) {
  Map(Gpa(0x5000));
  Map(kLast);
  ASSERT_EQ(vm_->InvalidateHostRange(hva_, kSize), absl::OkStatus());
  EXPECT_FALSE(IsMapped(Gpa(0x5000)));
  EXPECT_FALSE(IsMapped(kLast));
  Map(Gpa(0x5000));
  Map(kLast);
  ASSERT_EQ(vm_->InvalidateHostRange(hva_ + kLast.raw(), kPageSize), absl::OkStatus());
  EXPECT_TRUE(IsMapped(Gpa(0x5000)));
  EXPECT_FALSE(IsMapped(kLast));
}

TEST_P(HostAddresses, BetweenBeginAndEndTheRangeIsNotMappedAgain) {
  Map(kLast);
  ASSERT_EQ(vm_->BeginHostInvalidation(hva_ + MiB(4), kSize - MiB(4)), absl::OkStatus());
  EXPECT_FALSE(IsMapped(kLast));
  EXPECT_EQ(vcpu_->HandleEptViolation(kLast, kWrite).outcome, FaultOutcome::kRetry);
  EXPECT_EQ(vcpu_->HandleEptViolation(Gpa(0x5000), kWrite).outcome, FaultOutcome::kFixed);
  // A second invalidation begins elsewhere: the two are taken as one.
  ASSERT_EQ(vm_->BeginHostInvalidation(hva_ + MiB(2), kPageSize), absl::OkStatus());
  EXPECT_EQ(vcpu_->HandleEptViolation(kLast, kWrite).outcome, FaultOutcome::kRetry);
  vm_->EndHostInvalidation();
  vm_->EndHostInvalidation();
  Map(kLast);
}

TEST_P(HostAddresses, ALargeHostPageBesideARangeThatIsGoingMapsItsFrameAlone) {
  host_.order = 9;
  ASSERT_EQ(vm_->BeginHostInvalidation(hva_ + kLast.raw(), kPageSize), absl::OkStatus());
  Map(Gpa(MiB(6)));
  EXPECT_EQ(vm_->Translate(Gpa(MiB(6)))->level, kLevel4K);
  Map(Gpa(MiB(4)));
  EXPECT_EQ(vm_->Translate(Gpa(MiB(4)))->level, kLevel2M);
  vm_->EndHostInvalidation();
}

TEST_P(HostAddresses, AgingFindsWhatWasUsed) {
  Map(kLast);
  EXPECT_TRUE(*vm_->TestAge(hva_, kSize));
  EXPECT_TRUE(*vm_->TestAge(hva_ + kLast.raw(), kPageSize));
  AgeResult aged = *vm_->AgeHostRange(hva_ + MiB(4), kSize - MiB(4));
  aged.flush.Settle();
  EXPECT_TRUE(aged.young);
  EXPECT_FALSE(*vm_->TestAge(hva_, kSize));
}

TEST_P(HostAddresses, PrefaultAndCollapseGoUpToTheEnd) {
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), kSize), kSize);
  EXPECT_TRUE(IsMapped(kLast));
  if (GetParam().options.reverse_map) return;  // leaves keep their size there
  host_.order = 9;
  EXPECT_EQ(*vm_->CollapseRange(Gfn(0), PageCount::FromBytes(kSize)), kSize / MiB(2));
  EXPECT_EQ(vm_->Translate(kLast)->level, kLevel2M);
}

TEST_P(HostAddresses, TheSlotMovesAndGoes) {
  Map(kLast);
  ASSERT_EQ(vm_->SetMemoryRegion({.gpa = Gpa(MiB(64)), .size = kSize, .hva = hva_}),
            absl::OkStatus());
  EXPECT_FALSE(IsMapped(kLast));
  Map(Gpa(MiB(64)) + kLast.raw());
  ASSERT_EQ(vm_->InvalidateHostRange(hva_, kSize), absl::OkStatus());
  EXPECT_FALSE(IsMapped(Gpa(MiB(64)) + kLast.raw()));
  ASSERT_EQ(vm_->SetMemoryRegion({.size = 0}), absl::OkStatus());
  EXPECT_EQ(vcpu_->HandleEptViolation(kLast, kRead).outcome, FaultOutcome::kMmio);
}

constexpr Hva kKernel{0xffff888000000000};
constexpr Hva kTop{0 - kSize};  // ends at 2^64
constexpr Hva kNotCanonical{0x8000000000000000 - MiB(4)};

INSTANTIATE_TEST_SUITE_P(
    Places, HostAddresses,
    testing::Values(Place{"User", Hva(0x7f0000000000), {}}, Place{"Zero", Hva(0), {}},
                    Place{"Above2To56", Hva(uint64_t{1} << 57), {}}, Place{"Kernel", kKernel, {}},
                    Place{"NotCanonical", kNotCanonical, {}}, Place{"Top", kTop, {}},
                    Place{"TopWithoutADBits", kTop, {.accessed_dirty = Use::kNever}},
                    Place{"TopReverseMap", kTop, {.reverse_map = true}},
                    Place{"TopPrivate", kTop, {.private_memory = true}},
                    Place{"TopNested", kTop, {.nested = true}}),
    [](const auto& param) { return param.param.name; });

// --- Private memory ---

TEST(HostAddressesOfPrivateMemory, ItsRangeMayEndWithTheAddressSpace) {
  TestHost host;
  host.offset = GiB(1) - kTop.raw();
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {.private_memory = true});
  const std::unique_ptr<Vcpu> vcpu = *vm->CreateVcpu();
  ASSERT_EQ(vm->SetMemoryRegion(
                {.flags = kSlotPrivateMemory, .size = kSize, .hva = kKernel, .private_hva = kTop}),
            absl::OkStatus());
  ASSERT_EQ(vm->SetMemoryAttributes(Gpa(0), kSize, kMemoryAttributePrivate), absl::OkStatus());
  const Gpa last(kSize - kPageSize);
  ASSERT_EQ(vcpu->HandleEptViolation(last, kWrite).outcome, FaultOutcome::kFixed);
  EXPECT_EQ(vm->Translate(last)->FrameOf(Gfn::Of(last)), Hfn::Of(Hpa(GiB(1) + last.raw())));
  ASSERT_EQ(vm->BeginHostInvalidation(kTop + MiB(4), kSize - MiB(4)), absl::OkStatus());
  EXPECT_FALSE(vm->Translate(last).ok());
  EXPECT_EQ(vcpu->HandleEptViolation(last, kWrite).outcome, FaultOutcome::kRetry);
  vm->EndHostInvalidation();
  EXPECT_EQ(vcpu->HandleEptViolation(last, kWrite).outcome, FaultOutcome::kFixed);
  const auto wraps = vm->SetMemoryRegion({.slot = 1,
                                          .flags = kSlotPrivateMemory,
                                          .gpa = Gpa(GiB(1)),
                                          .size = kSize + kPageSize,
                                          .hva = kKernel,
                                          .private_hva = kTop});
  EXPECT_THAT(std::string(wraps.message()), HasSubstr("private_hva = 0xffffffffff800000"));
}

// --- Shadow paging ---

TEST(HostAddressesOfShadowPaging, RangesMayEndWithTheAddressSpace) {
  TestHost host;
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {.paging = Paging::kShadow});
  ASSERT_EQ(vm->SetMemoryRegion({.size = kSize, .hva = kTop}), absl::OkStatus());
  EXPECT_EQ(vm->InvalidateHostRange(kTop, kSize), absl::OkStatus());
  EXPECT_FALSE(*vm->TestAge(kTop, kSize));
  EXPECT_FALSE(vm->AgeHostRange(kTop, kSize)->young);
}

// --- What is refused ---

TEST(HostAddressLimits, ARangeMayNotWrap) {
  TestHost host;
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {});
  for (const ByteCount size : {kSize + kPageSize, ~kPageOffsetMask}) {
    EXPECT_TRUE(absl::IsInvalidArgument(vm->InvalidateHostRange(kTop, size)));
    EXPECT_TRUE(absl::IsInvalidArgument(vm->TestAge(kTop, size).status()));
  }
  const auto slot = vm->SetMemoryRegion({.size = kSize + kPageSize, .hva = kTop});
  EXPECT_TRUE(absl::IsInvalidArgument(slot));
  EXPECT_THAT(std::string(slot.message()), HasSubstr("hva = 0xffffffffff800000"));
  EXPECT_THAT(std::string(slot.message()), HasSubstr("wraps around"));
}

TEST(SlotNumbers, LieBelowTheLimitThatTheOptionsName) {
  TestHost host;
  const auto vm = *Vm::Create(host, {.slot_limit = 2});
  MemoryRegion region{.slot = 1, .size = MiB(2), .hva = Hva(TiB(1))};
  EXPECT_EQ(vm->SetMemoryRegion(region), absl::OkStatus());
  region.slot = 2;
  EXPECT_THAT(std::string(vm->SetMemoryRegion(region).message()),
              HasSubstr("slot = 2: the limit is 2"));
}

TEST(HostAddressLimits, AHostThatWantsALimitHasOne) {
  TestHost host;
  const Hva end(0x7ffffffff000);
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {.host_address_end = end});
  EXPECT_EQ(vm->SetMemoryRegion({.size = kSize, .hva = end - kSize}), absl::OkStatus());
  for (const Hva hva : {end - kSize + kPageSize, end, kKernel, kTop}) {
    const auto slot =
        vm->SetMemoryRegion({.slot = 1, .gpa = Gpa(GiB(1)), .size = kSize, .hva = hva});
    EXPECT_TRUE(absl::IsInvalidArgument(slot)) << hva;
    EXPECT_THAT(std::string(slot.message()), HasSubstr("user addresses at 0x7ffffffff000"));
  }
}

// --- The width of the CPU ---

TEST(CpuWidth, ASlotBeyondMaxphyaddrIsRefusedAndOneUpToItIsNot) {
  TestHost host;
  host.offered.physical_address_bits = 36;
  for (const bool nested : {false, true}) {
    const std::unique_ptr<Vm> vm = *Vm::Create(host, {.nested = nested});
    const Gpa end(GiB(64));
    ASSERT_EQ(vm->SetMemoryRegion({.gpa = end - kSize, .size = kSize, .hva = kKernel}),
              absl::OkStatus());
    for (const Gpa gpa : {end - kSize + kPageSize, end, Gpa(TiB(1))}) {
      const auto moved = vm->SetMemoryRegion({.gpa = gpa, .size = kSize, .hva = kKernel});
      EXPECT_TRUE(absl::IsInvalidArgument(moved)) << gpa;
      EXPECT_THAT(std::string(moved.message()), HasSubstr("MAXPHYADDR of 36 bits"));
      const auto made =
          vm->SetMemoryRegion({.slot = 1, .gpa = gpa + kSize, .size = kSize, .hva = kKernel});
      EXPECT_TRUE(absl::IsInvalidArgument(made)) << gpa;
    }
    const auto overlapping =
        vm->SetMemoryRegion({.slot = 1, .gpa = end - kPageSize, .size = kSize, .hva = kKernel});
    EXPECT_TRUE(absl::IsAlreadyExists(overlapping)) << "the overlap is looked at first, as in KVM";
  }
}

TEST(CpuWidth, ANarrowerGuestIsTheLimitThatIsNamed) {
  TestHost host;
  host.offered.physical_address_bits = 39;
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {.guest_physical_bits = 36});
  const auto slot = vm->SetMemoryRegion({.gpa = Gpa(GiB(64)), .size = kSize, .hva = kKernel});
  EXPECT_THAT(std::string(slot.message()), HasSubstr("the guest's 36 physical address bits"));
}

// A shadow maps host frames; no address of the guest's reaches the CPU.
TEST(CpuWidth, DoesNotBindAShadowedGuest) {
  TestHost host;
  host.offered.physical_address_bits = 36;
  const std::unique_ptr<Vm> vm = *Vm::Create(host, {.paging = Paging::kShadow});
  EXPECT_EQ(vm->SetMemoryRegion({.gpa = Gpa(GiB(64)), .size = kSize, .hva = kKernel}),
            absl::OkStatus());
}

// --- The pages of the CPU ---

TEST(CpuPages, NoLeafIsLargerThanTheCpuHas) {
  for (const auto& [lacks, level] :
       {std::pair{uint64_t{0}, kLevel1G}, std::pair{ept::kCap1G, kLevel2M},
        std::pair{ept::kCap1G | ept::kCap2M, kLevel4K}}) {
    TestHost host;
    host.order = 18;
    host.offered.ept = host.offered.ept.Without(lacks);
    const std::unique_ptr<Vm> vm = *Vm::Create(host, {});
    const std::unique_ptr<Vcpu> vcpu = *vm->CreateVcpu();
    ASSERT_EQ(vm->SetMemoryRegion({.size = GiB(2), .hva = Hva(TiB(1))}), absl::OkStatus());
    EXPECT_EQ(vcpu->HandleEptViolation(Gpa(0), kReadFault).level, level);
    EXPECT_EQ(vm->Translate(Gpa(0))->level, level);
  }
}

TEST(CpuTables, WhatTheCpuLacksIsRefusedByName) {
  const auto refusal = [](uint64_t lacks, const VmOptions& options) {
    TestHost host;
    host.offered.ept = host.offered.ept.Without(lacks);
    return std::string(Vm::Create(host, options).status().message());
  };
  EXPECT_THAT(refusal(ept::kCapWalk4, {}), HasSubstr("4-level tables"));
  EXPECT_THAT(refusal(ept::kCapWalk5, {.ept_levels = 5}), HasSubstr("5-level tables"));
  EXPECT_THAT(refusal(ept::kCapWriteBack, {}), HasSubstr("write-back tables"));
  EXPECT_THAT(refusal(0, {.table_quota = 0}), HasSubstr("table_quota is 0"));
}

}  // namespace
}  // namespace tdp
