// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest can make its host use only so much by its tables, and at the bound nobody starves.

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/shadow/nested_fault.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tests/world/sim_test.h"

namespace tdp {
namespace {

constexpr uint64_t kTable = 0x67;
constexpr auto kWriteFault = ExitQualification::Make(Access::Write(), Access::None(), true, true);

class Quotas : public SimTest {
 protected:
  void Start(const VmOptions& options, ByteCount ram, int vcpus = 1) {
    SimTest::Start(options, vcpus);
    ASSERT_TRUE(world_->SetRam(ram).ok());
  }
};

// --- L1 and L2 in one pool of tables -------------------------------------------------------------

class NestedQuotas : public Quotas {
 protected:
  static constexpr uint64_t kRoot = 0x1000;
  static constexpr uint64_t kEntry = ept::kRightsMask;
  static constexpr uint64_t kLeaf = kEntry | uint64_t{6} << ept::kMemoryTypeShift;
  static constexpr uint64_t kRegions = 400;

  // EPT12 maps one page in each of 400 regions of 2 MiB.
  void MakeEpt12() {
    Poke(kRoot, 0x2000 | kEntry);
    Poke(0x2000, 0x3000 | kEntry);
    for (uint64_t i = 0; i < kRegions; ++i) {
      const uint64_t table = 0x10000 + i * kPageSize;
      Poke(0x3000 + i * 8, table | kEntry);
      Poke(table, 0x400000 | kLeaf);
    }
  }
  absl::Status Enter(Vcpu& vcpu) {
    return vcpu.nested()->Enter(NestedOn(backend(), Eptp::Make(Hpa(kRoot), 4, true)));
  }
  // Returns how many of the regions in [0, count) L2 could touch.
  uint64_t TouchByL2(Vcpu& vcpu, uint64_t count) {
    EXPECT_TRUE(Enter(vcpu).ok());
    uint64_t touched = 0;
    for (uint64_t i = 0; i < count; ++i) {
      const auto result = vcpu.nested()->HandleViolation(Gpa(i * MiB(2)), kWriteFault);
      touched += result.outcome == NestedOutcome::kFixed ? 1 : 0;
      EXPECT_TRUE(result.status.ok()) << result.status;
    }
    EXPECT_TRUE(vcpu.nested()->Leave().ok());
    return touched;
  }
  uint64_t TouchByL1(Vcpu& vcpu, uint64_t count) {
    uint64_t touched = 0;
    for (uint64_t i = 0; i < count; ++i) {
      const FaultResult result = vcpu.HandleEptViolation(Gpa(i * MiB(2)), kWriteFault);
      touched += result.outcome == FaultOutcome::kFixed || result.outcome == FaultOutcome::kSpurious
                     ? 1
                     : 0;
      EXPECT_TRUE(result.status.ok()) << result.status;
    }
    return touched;
  }
};

TEST_F(NestedQuotas, L1AndL2TakeTablesBackFromEachOther) {
  Start({.table_quota = 160, .nested = true}, MiB(256));
  MakeEpt12();
  for (int round = 0; round < 3; ++round) {
    EXPECT_EQ(TouchByL2(vcpu(0), kRegions), kRegions) << "round " << round;
    EXPECT_LE(vm().Stats().tables_in_use, 160u);
    EXPECT_EQ(TouchByL1(vcpu(0), 128), 128u) << "round " << round;
    EXPECT_LE(vm().Stats().tables_in_use, 160u);
  }
}

TEST_F(NestedQuotas, L2TakesItsOwnTablesBackWhereL1HasNone) {
  Start({.table_quota = 64, .nested = true}, MiB(256));
  MakeEpt12();
  EXPECT_EQ(TouchByL2(vcpu(0), kRegions), kRegions);
  EXPECT_LE(vm().Stats().tables_in_use, 64u);
}

TEST_F(NestedQuotas, AQuotaOfShadowPagesThatTheEmbedderSetsStaysWhateverTheSlotsDo) {
  Start({.shadow_page_quota = 70, .nested = true}, MiB(256));
  MakeEpt12();
  EXPECT_EQ(TouchByL2(vcpu(0), kRegions), kRegions);
  EXPECT_LE(vm().Stats().shadow.pages, 70u);
}

TEST_F(NestedQuotas, ALowerTableQuotaTakesTablesOfBoth) {
  Start({.nested = true}, MiB(256));
  MakeEpt12();
  EXPECT_EQ(TouchByL1(vcpu(0), 128), 128u);
  EXPECT_EQ(TouchByL2(vcpu(0), 100), 100u);
  ASSERT_TRUE(vm().SetTableQuota(100).ok());
  EXPECT_LE(vm().Stats().tables_in_use, 100u);
  EXPECT_EQ(TouchByL2(vcpu(0), 100), 100u);
  EXPECT_EQ(TouchByL1(vcpu(0), 128), 128u);
}

// The quota is full of roots that vCPUs hold.
TEST_F(NestedQuotas, RootsOfOtherVcpusDoNotHoldTheQuotaForGood) {
  Start({.shadow_page_quota = 64, .nested = true}, MiB(8), 80);
  MakeEpt12();
  for (uint64_t i = 0; i < 80; ++i) {
    const uint64_t root = 0x200000 + i * kPageSize;
    Poke(root, 0x2000 | kEntry);
    const NestedContext context = NestedOn(backend(), Eptp::Make(Hpa(root), 4, true));
    NestedVcpu& nested = *vcpu(i).nested();
    ASSERT_TRUE(nested.Enter(context).ok()) << i;
    EXPECT_EQ(nested.HandleViolation(Gpa(0), kWriteFault).outcome, NestedOutcome::kFixed) << i;
    ASSERT_LE(vm().Stats().shadow.pages, 64u);
  }
  // Roots that nothing is below yet count, too.
  for (uint64_t i = 0; i < 80; ++i) {
    const Hpa root(0x260000 + i * kPageSize);
    ASSERT_TRUE(vcpu(i).nested()->Enter(NestedOn(backend(), Eptp::Make(root, 4, true))).ok());
    ASSERT_LE(vm().Stats().shadow.pages, 64u);
    Poke(root.raw(), 0x2000 | kEntry);
  }
  // A vCPU whose root went finds another.
  for (int i = 0; i < world_->vcpus(); ++i) {
    EXPECT_EQ(vcpu(i).nested()->HandleViolation(Gpa(MiB(2)), kWriteFault).outcome,
              NestedOutcome::kFixed);
  }
}

// --- Roots of PAE paging -------------------------------------------------------------------------

class PaeQuotas : public Quotas {
 protected:
  static constexpr uint64_t kPointers = 32;  // of a set of PDPTEs

  // Returns the CR3 of directory set `i`. Each has four directories of its own, and all of them
  // share one table of leaves.
  static uint64_t Cr3(uint64_t i) { return 0x1000 + i * kPointers; }
  void MakeTables(uint64_t cr3s) {
    for (uint64_t i = 0; i < 512; ++i) Poke(0x4000 + i * 8, i << kPageShift | kTable);
    for (uint64_t i = 0; i < cr3s; ++i) {
      for (uint64_t j = 0; j < 4; ++j) {
        const uint64_t directory = 0x10000 + (4 * i + j) * kPageSize;
        Poke(Cr3(i) + j * 8, directory | 1);
        Poke(directory, 0x4000 | kTable);
      }
    }
  }
  GuestControls Pae() const {
    GuestControls guest;
    guest.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect | guest::kCr0ProtectionEnable;
    guest.cr4 = guest::kCr4PhysicalAddressExtension;
    guest.efer = guest::kEferNoExecute;
    guest.physical_address_bits = 46;
    return guest;
  }
};

TEST_F(PaeQuotas, CachedRootsDoNotHoldTheQuotaForGood) {
  constexpr int kVcpus = 4;
  Start({.paging = Paging::kShadow, .shadow_page_quota = 64}, MiB(8), kVcpus);
  MakeTables(32);
  uint64_t next = 0;
  for (int round = 0; round < 2; ++round) {
    for (int i = 0; i < world_->vcpus(); ++i) {
      ShadowVcpu& shadow = *vcpu(i).shadow();
      for (int load = 0; load < 4; ++load) {
        const auto event = shadow.SetPaging(Pae(), Cr3(next++ % 32));
        ASSERT_TRUE(event.ok()) << event.status();
        ASSERT_LE(vm().Stats().shadow.pages, 64u);
      }
    }
    // Each vCPU goes on, in what is its own now.
    for (int i = 0; i < world_->vcpus(); ++i) {
      for (uint64_t gva : {uint64_t{0x10000}, GiB(1) + 0x11000, GiB(3) + 0x12000}) {
        const PagingFaultResult result = vcpu(i).shadow()->HandlePageFault(Gva(gva), 0);
        EXPECT_EQ(result.outcome, PagingOutcome::kFixed) << result.status;
      }
    }
  }
}

// The quota is full of roots that vCPUs run on.
TEST_F(PaeQuotas, RootsOfOtherVcpusDoNotHoldTheQuotaForGood) {
  constexpr int kVcpus = 20;
  Start({.paging = Paging::kShadow, .shadow_page_quota = 64}, MiB(8), kVcpus);
  MakeTables(kVcpus);
  for (int round = 0; round < 2; ++round) {
    for (uint64_t i = 0; i < kVcpus; ++i) {
      ShadowVcpu& shadow = *vcpu(i).shadow();
      const auto event = shadow.SetPaging(Pae(), Cr3(i));
      ASSERT_TRUE(event.ok()) << event.status();
      const PagingFaultResult result = shadow.HandlePageFault(Gva(GiB(2) + 0x10000), 0);
      EXPECT_EQ(result.outcome, PagingOutcome::kFixed) << result.status;
      ASSERT_LE(vm().Stats().shadow.pages, 64u);
    }
  }
}

// While a vCPU goes to another address space whose quota is full, it lets go of what it keeps in
// the one that it leaves.
TEST_F(PaeQuotas, AChangeOfTheAddressSpaceFindsRoomToo) {
  constexpr int kVcpus = 17;
  Start({.paging = Paging::kShadow, .address_spaces = 2, .shadow_page_quota = 64}, MiB(8), kVcpus);
  ASSERT_TRUE(vm().SetMemoryRegion({.address_space = 1, .size = MiB(8), .hva = kRam}).ok());
  MakeTables(kVcpus + 2);
  for (uint64_t i = 0; i < kVcpus; ++i) {
    Vcpu& mover = vcpu(i);
    ASSERT_TRUE(mover.shadow()->SetPaging(Pae(), Cr3(kVcpus)).ok());
    ASSERT_TRUE(mover.shadow()->SetPaging(Pae(), Cr3(kVcpus + 1)).ok());
    ASSERT_TRUE(mover.shadow()->SetPaging(Pae(), Cr3(i)).ok());
    ASSERT_TRUE(mover.SetAddressSpace(1).ok()) << i;
    EXPECT_EQ(mover.shadow()->HandlePageFault(Gva(0x10000), 0).outcome, PagingOutcome::kFixed);
  }
  for (int i = 0; i < world_->vcpus(); ++i) {
    ASSERT_TRUE(vcpu(i).SetAddressSpace(0).ok());
    EXPECT_EQ(vcpu(i).shadow()->HandlePageFault(Gva(0x10000), 0).outcome, PagingOutcome::kFixed);
  }
}

// A vCPU that is short lets go of what it keeps for later before others lose what they run on.
TEST_F(PaeQuotas, CachedRootsGoBeforeTheRootsOfOtherVcpus) {
  constexpr uint64_t kVcpus = 13;
  Start({.paging = Paging::kShadow, .shadow_page_quota = 64}, MiB(8), kVcpus);
  MakeTables(32);
  std::vector<ShadowRegisters> before;
  for (uint64_t i = 1; i < kVcpus; ++i) {
    ASSERT_TRUE(vcpu(i).shadow()->SetPaging(Pae(), Cr3(i)).ok());
    before.push_back(vcpu(i).shadow()->registers());
  }
  for (uint64_t cr3 = kVcpus; cr3 < 32; ++cr3) {
    ASSERT_TRUE(vcpu(0).shadow()->SetPaging(Pae(), Cr3(cr3)).ok());
  }
  // This vCPU goes so that the others find room.
  world_->RemoveVcpu(0);
  for (uint64_t i = 1; i < kVcpus; ++i) {
    ShadowVcpu& shadow = *vcpu(i).shadow();
    EXPECT_EQ(shadow.HandlePageFault(Gva(0x10000), 0).outcome, PagingOutcome::kFixed);
    EXPECT_EQ(shadow.registers(), before[i - 1]) << "vCPU " << i;
  }
}

// --- Without quotas of the embedder's ------------------------------------------------------------

// This guest, or a hypervisor in one, has 64 frames.
class SmallGuest : public Quotas, public testing::WithParamInterface<bool> {
 protected:
  static constexpr uint64_t kFrames = 64;
  bool is_nested() const { return GetParam(); }

  // Makes each frame a table that leads to every other, with other rights each time: pages without
  // end.
  void MakeTables() {
    for (uint64_t table = 0; table < kFrames; ++table) {
      for (uint64_t i = 0; i < 512; ++i) {
        const uint64_t frame = (random_() % kFrames) << kPageShift;
        const uint64_t rights = (is_nested() ? 1 : 0x61) | (random_() % 4) << 1;
        Poke((table << kPageShift) + i * 8, frame | rights);
      }
    }
  }
  absl::Status Run() {
    if (is_nested()) {
      const NestedContext context = NestedOn(backend(), Eptp::Make(Hpa(0x1000), 4, false));
      return vcpu(0).nested()->Enter(context);
    }
    return vcpu().shadow()->SetPaging(FourLevelPaging(), 0x1000).status();
  }
  absl::Status Touch() {
    const uint64_t address = random_() % (uint64_t{1} << 47);
    if (!is_nested()) return vcpu(0).shadow()->HandlePageFault(Gva(address), 0).status;
    constexpr auto kReadFault = ExitQualification::Make(Access::Read(), Access::None(), true, true);
    return vcpu(0).nested()->HandleViolation(Gpa(address), kReadFault).status;
  }

 private:
  std::mt19937_64 random_{7};
};

TEST_P(SmallGuest, TakesASmallShareOfTheHostByItsTables) {
  Start({.paging = is_nested() ? Paging::kEpt : Paging::kShadow, .nested = is_nested()},
        kFrames * kPageSize);
  MakeTables();
  ASSERT_TRUE(Run().ok());
  for (int i = 0; i < 5000; ++i) {
    const absl::Status status = Touch();
    ASSERT_TRUE(status.ok()) << status;
    ASSERT_LE(vm().Stats().shadow.pages, 64u);
  }
  EXPECT_GT(vm().Stats().shadow.mmu_recycled, 1000u) << "the guest did its worst";
  EXPECT_LE(vm().Stats().tables_in_use, 3 * 64u + 96);
}
INSTANTIATE_TEST_SUITE_P(Shadowed, SmallGuest, testing::Values(false));
INSTANTIATE_TEST_SUITE_P(Nested, SmallGuest, testing::Values(true));

TEST_F(Quotas, ShadowPagesGoWithTheMemoryThatAllowedThem) {
  Start({.paging = Paging::kShadow}, MiB(4));
  ASSERT_TRUE(memory().Map(Hva(0x7e0000000000), MiB(128)).ok());
  const MemoryRegion more = {
      .slot = 1, .gpa = Gpa(GiB(1)), .size = MiB(128), .hva = Hva(0x7e0000000000)};
  ASSERT_TRUE(vm().SetMemoryRegion(more).ok());
  Poke(0x1000, 0x2000 | kTable);
  Poke(0x2000, 0x3000 | kTable);
  for (uint64_t i = 0; i < 512; ++i) {
    Poke(0x3000 + i * 8, (0x80000 + i * kPageSize) | kTable);
    Poke(0x80000 + i * kPageSize, 0x4000 | kTable);
  }
  ShadowVcpu& shadow = *vcpu(0).shadow();
  ASSERT_TRUE(shadow.SetPaging(FourLevelPaging(), 0x1000).ok());
  for (uint64_t i = 0; i < 512; ++i) {
    ASSERT_EQ(shadow.HandlePageFault(Gva(i * MiB(2)), 0).outcome, PagingOutcome::kFixed);
  }
  EXPECT_GT(vm().Stats().shadow.pages, 500u) << "2 % of 132 MiB";
  MemoryRegion gone = more;
  gone.size = 0;
  ASSERT_TRUE(vm().SetMemoryRegion(gone).ok());
  EXPECT_LE(vm().Stats().shadow.pages, 64u);
  EXPECT_EQ(shadow.HandlePageFault(Gva(0), 0).outcome, PagingOutcome::kFixed);
}

TEST_F(Quotas, AQuotaThatLetsNoGuestRunIsRefusedByName) {
  Start({}, MiB(4));
  for (const bool nested : {false, true}) {
    const auto vm = Vm::Create(backend(), {.paging = nested ? Paging::kEpt : Paging::kShadow,
                                           .shadow_page_quota = 63,
                                           .nested = nested});
    EXPECT_TRUE(absl::IsInvalidArgument(vm.status())) << vm.status();
    EXPECT_NE(vm.status().message().find("shadow_page_quota"), std::string::npos);
  }
}

}  // namespace
}  // namespace tdp
