// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These backends find a page by the guest frame, or by what they know of its slot.

#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace tdp {
namespace {

constexpr Hva kKernelRam{0xffff888000000000};

// Keeps what it is asked, and answers with the frame of the guest frame plus what the cookie says.
class HostByPage : public TestHost {
 public:
  HostByPage() { offered.resolves_pages = true; }
  absl::StatusOr<HostPage> ResolvePage(const PageRequest& request) override {
    asked.push_back(request);
    return HostPage{.hfn = Hfn(request.gfn.raw() + request.cookie)};
  }
  std::vector<PageRequest> asked;
};

class ResolvePageTest : public HostTestOn<HostByPage> {
 protected:
  void TearDown() override {
    HostTestOn::TearDown();
    EXPECT_EQ(host_.resolves, 0) << "by the address alone nobody asked";
  }
};

TEST_F(ResolvePageTest, AFaultTellsTheFrameTheSlotAndItsCookie) {
  Start({.address_spaces = 2});
  ASSERT_TRUE(vm_->SetMemoryRegion({.slot = 7,
                                    .address_space = 1,
                                    .gpa = Gpa(MiB(2)),
                                    .size = MiB(2),
                                    .hva = kKernelRam,
                                    .cookie = 0x123456789abcdef0 & 0xfffff})
                  .ok());
  ASSERT_TRUE(vcpu_->SetAddressSpace(1).ok());
  ASSERT_EQ(vcpu_->HandleEptViolation(Gpa(MiB(2) + 0x3123), kWriteFault).outcome,
            FaultOutcome::kFixed);
  ASSERT_EQ(host_.asked.size(), 1u);
  const PageRequest& asked = host_.asked[0];
  EXPECT_EQ(asked.gfn, Gfn(0x203));
  EXPECT_EQ(asked.hva, kKernelRam + 0x3000);
  EXPECT_EQ(asked.slot, 7u);
  EXPECT_EQ(asked.address_space, 1);
  EXPECT_EQ(asked.cookie, 0xcdef0u);
  EXPECT_TRUE(asked.access.can_write());
  EXPECT_FALSE(asked.is_private);
  EXPECT_EQ(vm_->Translate(Gpa(MiB(2) + 0x3000), 1)->entry.frame(), Hfn(0x203 + 0xcdef0));
}

TEST_F(ResolvePageTest, EveryOtherCallThatNeedsAPageAsksTheSameWay) {
  Start();
  ASSERT_TRUE(vm_->SetMemoryRegion(
                     {.slot = 1, .gpa = Gpa(0), .size = MiB(4), .hva = kKernelRam, .cookie = 0x100})
                  .ok());
  EXPECT_EQ(*vcpu_->Prefault(Gpa(0), 0x10000), 0x10000u);
  EXPECT_EQ(host_.asked.size(), 16u);
  EXPECT_EQ(*vm_->Populate(Gpa(0x10000), 0x10000), 0x10000u);
  EXPECT_EQ(host_.asked.size(), 32u);
  ASSERT_EQ(vcpu_->HandleEptViolation(Gpa(0x20000), kWriteFault).outcome, FaultOutcome::kFixed);
  for (const PageRequest& asked : host_.asked) EXPECT_EQ(asked.cookie, 0x100u);
  EXPECT_TRUE(vm_->CollapseRange(Gfn(0), PageCount(1024)).ok());
}

TEST_F(ResolvePageTest, ACookieStaysWithItsSlotAsItMovesAndIsFlaggedAnew) {
  Start();
  MemoryRegion region{.gpa = Gpa(0), .size = MiB(2), .hva = kKernelRam, .cookie = ~uint64_t{0}};
  ASSERT_TRUE(vm_->SetMemoryRegion(region).ok());
  region.gpa = Gpa(MiB(4));
  ASSERT_TRUE(vm_->SetMemoryRegion(region).ok());
  region.flags = kSlotLogDirtyPages;
  ASSERT_TRUE(vm_->SetMemoryRegion(region).ok());
  ASSERT_EQ(vcpu_->HandleEptViolation(Gpa(MiB(4)), kReadFault).outcome, FaultOutcome::kFixed);
  EXPECT_EQ(host_.asked.back().cookie, ~uint64_t{0});
}

TEST_F(ResolvePageTest, PrivateMemoryIsAskedForAsSuch) {
  Start({.private_memory = true});
  ASSERT_TRUE(vm_->SetMemoryRegion({.flags = kSlotPrivateMemory,
                                    .gpa = Gpa(0),
                                    .size = MiB(2),
                                    .hva = kKernelRam,
                                    .private_hva = Hva(TiB(1)),
                                    .cookie = 3})
                  .ok());
  ASSERT_TRUE(vm_->SetMemoryAttributes(Gpa(0x1000), 0x1000, kMemoryAttributePrivate).ok());
  ASSERT_EQ(vcpu_->HandleEptViolation(Gpa(0x1000), kReadFault).outcome, FaultOutcome::kFixed);
  EXPECT_TRUE(host_.asked.back().is_private);
  EXPECT_EQ(host_.asked.back().hva, Hva(TiB(1) + 0x1000));
  EXPECT_EQ(host_.asked.back().cookie, 3u);
}

// Any page will do, in the kernel's half and to the last byte; an end beyond that is named.
TEST(HostAddresses, AreAny64BitValueWholePagesThatDoNotWrap) {
  TestHost host;
  const auto vm = *Vm::Create(host, {});
  const auto vcpu = *vm->CreateVcpu();
  uint32_t slot = 0;
  for (const uint64_t hva :
       {uint64_t{0}, uint64_t{0x0000800000000000}, uint64_t{0x00deadbeef001000},
        uint64_t{0xffff800000000000}, ~uint64_t{0} << 13}) {
    const Gpa gpa(MiB(2) * slot);
    ASSERT_TRUE(
        vm->SetMemoryRegion({.slot = slot++, .gpa = gpa, .size = 0x2000, .hva = Hva(hva)}).ok());
    ASSERT_EQ(vcpu->HandleEptViolation(gpa + 0x1000, kReadFault).outcome, FaultOutcome::kFixed);
  }
  const absl::Status wraps = vm->SetMemoryRegion(
      {.slot = slot, .gpa = Gpa(MiB(64)), .size = 0x3000, .hva = Hva(~uint64_t{0} << 13)});
  EXPECT_TRUE(absl::IsInvalidArgument(wraps));
  EXPECT_EQ(wraps.message(), "hva = 0xffffffffffffe000, size = 0x3000: wraps around");
}

}  // namespace
}  // namespace tdp
