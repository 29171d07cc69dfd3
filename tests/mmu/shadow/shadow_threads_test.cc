// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs of a shadowed guest write its tables and use them, while the host takes pages away.

#include "tdp/mmu/shadow/shadow_vcpu.h"

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/remapping_vcpus.h"

namespace tdp {
namespace {

constexpr uint64_t kAll = 0x67;

// The guest's tables are in frames 1 to 4.
class ShadowThreads : public RemappingVcpus {
 protected:
  void SetUp() override {
    Start({.paging = Paging::kShadow}, 2);
    ASSERT_TRUE(world_->SetRam(kSize).ok());
    for (uint64_t table = 1; table < 4; ++table) Poke(table << 12, (table + 1) << 12 | kAll);
    for (uint64_t i = 0; i < kPages; ++i) Poke(0x4000 + i * 8, (64 + i) << 12 | kAll);
    // One more entry maps the table of leaves itself.
    Poke(0x4000 + 200 * 8, 0x4000 | kAll);
    FillFrames();
    for (const int i : {0, 1}) {
      ASSERT_TRUE(vcpu(i).shadow()->SetPaging(FourLevelPaging(), 0x1000).ok());
    }
  }

  // Makes the access while the vCPU counts as in the guest, so that nothing is taken away under it:
  // `use` gets the place.
  template <typename Use>
  void Access(VcpuId id, uint64_t gva, sim::AccessKind kind, Use use) {
    ShadowVcpu& shadow = *vcpu(id).shadow();
    const auto attempt = [&] {
      const sim::AccessResult result = world_->cpu(id).Access(Gva(gva), kind, 8);
      if (result.ok()) use(reinterpret_cast<uint64_t*>(memory().At(result.hpa)));
      return result.event;
    };
    const auto answer = [&](const sim::Exit& exit) {
      const PagingFaultResult fault = shadow.HandlePageFault(exit.gva, exit.error_code);
      if (fault.outcome <= PagingOutcome::kRetry) return true;
      const bool emulates = fault.outcome == PagingOutcome::kEmulateWrite;
      EXPECT_TRUE(emulates) << PagingOutcomeName(fault.outcome) << " " << fault.status;
      const auto store = [&](std::byte* place) { use(reinterpret_cast<uint64_t*>(place)); };
      if (emulates) {
        EXPECT_TRUE(shadow.EmulateWrite(fault.gpa, 8, store).ok());
      }
      return false;
    };
    world_->Run(id, attempt, answer, kAnyNumberOfExits);
  }

  void Map(VcpuId id, uint64_t page, uint64_t frame) override {
    Access(id, (uint64_t{200} << 12) + page * 8, sim::AccessKind::kStore,
           [frame](uint64_t* place) { StoreWord(place, frame << 12 | kAll); });
  }
  void Flush(VcpuId id, uint64_t page, uint64_t which) override {
    ShadowVcpu& shadow = *vcpu(id).shadow();
    if (which % 5 == 0) {
      ASSERT_TRUE(shadow.WriteCr3(0x1000).ok());
    } else {
      ASSERT_TRUE(shadow.Invlpg(Gva(page << 12)).ok());
    }
  }
  uint64_t Load(VcpuId id, uint64_t page) override {
    uint64_t seen = 0;
    Access(id, page << 12, sim::AccessKind::kLoad,
           [&seen](uint64_t* place) { seen = LoadWord(place); });
    return seen;
  }
  void Disturb(uint64_t frame, std::mt19937_64& random) override {
    switch (random() % 4) {
      case 0:
        // A page moves with what is in it, and so may the table of leaves.
        if (random() % 4 == 0) frame = 4;
        ASSERT_TRUE(world_->Migrate(kRam + frame * kPageSize, kPageSize).ok());
        break;
      case 1:
        vm().ZapAll()->Settle();
        break;
      case 2:
        vm().ZapRange(Gfn(frame), PageCount(8))->Settle();
        break;
      default:
        EXPECT_EQ(vm().CheckInvariants(), absl::OkStatus());
    }
  }
};

TEST_F(ShadowThreads, EachVcpuSeesItsOwnRemappingsAfterItsOwnFlush) {
  RemapBesideDisturbances(400);
  EXPECT_GT(vm().Stats().shadow.mmu_shadow_zapped, 0u);
}

}  // namespace
}  // namespace tdp
