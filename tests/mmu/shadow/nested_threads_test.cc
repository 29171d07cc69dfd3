// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs of a hypervisor edit EPT12 under the L2 that they run, while two threads of the host
// take pages away.

#include <cstdint>
#include <cstring>
#include <random>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tests/mmu/shadow/remapping_vcpus.h"

namespace tdp {
namespace {

constexpr uint64_t kRights = ept::kRightsMask;
constexpr uint64_t kLeaf = kRights | uint64_t{6} << ept::kMemoryTypeShift;

// EPT12 is in frames 1 to 4.
class NestedThreads : public RemappingVcpus {
 protected:
  void SetUp() override {
    Start({.table_quota = 200, .nested = true}, 2);
    ASSERT_TRUE(world_->SetRam(kSize).ok());
    for (uint64_t table = 1; table < 4; ++table) Poke(table << 12, (table + 1) << 12 | kRights);
    for (uint64_t i = 0; i < kPages; ++i) Poke(0x4000 + i * 8, (64 + i) << 12 | kLeaf);
    FillFrames();
    context_ = NestedOn(backend(), Eptp::Make(Hpa(0x1000), 4, false));
    for (const int i : {0, 1}) ASSERT_TRUE(vcpu(i).nested()->Enter(context_).ok());
  }

  // L1's tables do not move, so the address in host memory stays good.
  void Map(VcpuId, uint64_t page, uint64_t frame) override {
    auto* table = reinterpret_cast<uint64_t*>(*memory().AtHva(kRam + 0x4000));
    StoreWord(table + page, frame << 12 | kLeaf);
  }
  void Flush(VcpuId id, uint64_t, uint64_t which) override {
    NestedVcpu& nested = *vcpu(id).nested();
    ASSERT_TRUE(*nested.Invept(1 + which % 2, context_.eptp, context_.rules));
  }
  // L2's access is made while the vCPU counts as in the guest.
  uint64_t Load(VcpuId id, uint64_t page) override {
    uint64_t value = 0;
    const auto attempt = [&] {
      const sim::AccessResult result =
          world_->cpu(id).Access(Gva(page << 12), sim::AccessKind::kLoad, 8);
      if (!result.ok()) return result.event;
      value = LoadWord(reinterpret_cast<uint64_t*>(memory().At(result.hpa)));
      return result.event;
    };
    const auto answer = [&](const sim::Exit& exit) {
      const auto fault = vcpu(id).nested()->HandleViolation(exit.gpa, exit.qualification);
      EXPECT_LE(fault.outcome, NestedOutcome::kRetry) << fault.status;
      return fault.outcome <= NestedOutcome::kRetry;
    };
    world_->Run(id, attempt, answer, kAnyNumberOfExits);
    return value;
  }

  void Disturb(uint64_t frame, std::mt19937_64& random) override {
    const Hva hva = kRam + frame * kPageSize;
    switch (random() % 5) {
      case 0:
        ASSERT_TRUE(world_->Migrate(hva, kPageSize).ok());
        break;
      case 1:
        vm().ZapAll()->Settle();
        break;
      case 2:
        vm().AgeHostRange(hva, 8 * kPageSize)->flush.Settle();
        break;
      case 3:
        ASSERT_TRUE(world_->SetRam(kSize, -1, random() % 2 == 0 ? kSlotLogDirtyPages : 0).ok());
        break;
      default:
        EXPECT_EQ(vm().CheckInvariants(), absl::OkStatus());
    }
  }

  NestedContext context_;
};

TEST_F(NestedThreads, EachVcpuSeesItsOwnRemappingsAfterItsOwnInvept) {
  RemapBesideDisturbances(300);
}

}  // namespace
}  // namespace tdp
