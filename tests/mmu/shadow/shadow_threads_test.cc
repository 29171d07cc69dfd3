// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs of a shadowed guest that write its tables and use them, while the host takes pages
// away.

#include "tdp/mmu/shadow/shadow_vcpu.h"

#include <atomic>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/mmu/shadow/beside_disturbances.h"
#include "tests/world/sim_test.h"

namespace tdp {
namespace {

constexpr uint64_t kAll = 0x67;
constexpr uint64_t kPages = 64;

// Tables in frames 1 to 4. Page i of gva is mapped to frame 64 + i or 128 + i, of which the first
// byte says the frame.
class ShadowThreads : public SimTest {
 protected:
  void SetUp() override {
    Start({.paging = Paging::kShadow}, 2);
    ASSERT_TRUE(world_->SetRam(MiB(8)).ok());
    for (uint64_t table = 1; table < 4; ++table) Poke(table << 12, (table + 1) << 12 | kAll);
    for (uint64_t i = 0; i < kPages; ++i) Poke(0x4000 + i * 8, (64 + i) << 12 | kAll);
    // The table of leaves itself, and the directory.
    Poke(0x4000 + 200 * 8, 0x4000 | kAll);
    for (uint64_t frame = 64; frame < 64 + 2 * kPages; ++frame) Poke(frame << 12, frame);
    for (const int i : {0, 1}) {
      ASSERT_TRUE(vcpu(i).shadow()->SetPaging(FourLevelPaging(), 0x1000).ok());
    }
  }

  // The access is made while the vCPU counts as in the guest, so that nothing is taken away under
  // it: `use` gets the place.
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

  static uint64_t Load(uint64_t* place) {
    return std::atomic_ref<uint64_t>(*place).load(std::memory_order_relaxed);
  }
  static void Store(uint64_t* place, uint64_t value) {
    std::atomic_ref<uint64_t>(*place).store(value, std::memory_order_relaxed);
  }

  // Maps its own pages to and fro, and after each INVLPG must find the frame that it asked for.
  void Remap(VcpuId id, int rounds, const std::atomic<int>& disturbances) {
    constexpr int kDisturbances = 100;
    std::mt19937_64 random(id + 1);
    for (int round = 0; (round < rounds || disturbances.load() < kDisturbances) && !HasFailure();
         ++round) {
      const uint64_t page = random() % (kPages / 2) * 2 + id;
      const uint64_t frame = 64 + page + (random() % 2) * kPages;
      const uint64_t where = (uint64_t{200} << 12) + page * 8;
      Access(id, where, sim::AccessKind::kStore,
             [frame](uint64_t* place) { Store(place, frame << 12 | kAll); });
      if (round % 5 == 0) {
        ASSERT_TRUE(vcpu(id).shadow()->WriteCr3(0x1000).ok());
      } else {
        ASSERT_TRUE(vcpu(id).shadow()->Invlpg(Gva(page << 12)).ok());
      }
      uint64_t seen = 0;
      Access(id, page << 12, sim::AccessKind::kLoad,
             [&seen](uint64_t* place) { seen = Load(place); });
      ASSERT_EQ(seen, frame) << "round " << round;
    }
  }

  // What the host does meanwhile, until no vCPU runs any more.
  void Disturb(unsigned seed, const std::atomic<int>& running, std::atomic<int>& disturbances) {
    std::mt19937_64 random(seed);
    while (running.load() != 0) {
      const uint64_t frame = 64 + random() % (2 * kPages);
      switch (random() % 4) {
        case 0: {
          // Pages move with what is in them; tables too.
          const Hva hva = kRam + (random() % 4 == 0 ? 4 : frame) * kPageSize;
          ASSERT_TRUE(world_->Migrate(hva, kPageSize).ok());
          break;
        }
        case 1:
          vm().ZapAll()->Settle();
          break;
        case 2:
          vm().ZapRange(Gfn(frame), PageCount(8))->Settle();
          break;
        default: {
          const absl::Status status = vm().CheckInvariants();
          EXPECT_TRUE(status.ok()) << status;
        }
      }
      disturbances.fetch_add(1);
      std::this_thread::yield();
    }
  }
};

TEST_F(ShadowThreads, EachVcpuSeesItsOwnRemappingsAfterItsOwnFlush) {
  constexpr int kRounds = 400;
  RunBesideDisturbances(
      [this](VcpuId id, std::atomic<int>& disturbances) { Remap(id, kRounds, disturbances); },
      [this](unsigned seed, std::atomic<int>& running, std::atomic<int>& disturbances) {
        Disturb(seed, running, disturbances);
      });
  const absl::Status status = vm().CheckInvariants();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GT(vm().Stats().shadow.mmu_shadow_zapped, 0u);
}

}  // namespace
}  // namespace tdp
