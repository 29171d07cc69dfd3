// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs of a hypervisor that edit EPT12 under the L2 that they run, while two threads of the
// host take pages away.

#include <atomic>
#include <cstdint>
#include <cstring>
#include <random>
#include <thread>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tests/mmu/shadow/beside_disturbances.h"
#include "tests/world/sim_test.h"

namespace tdp {
namespace {

constexpr ByteCount kSize = MiB(8);
constexpr uint64_t kRights = ept::kRightsMask;
constexpr uint64_t kLeaf = kRights | uint64_t{6} << ept::kMemoryTypeShift;
constexpr uint64_t kPages = 64;

// EPT12 in frames 1 to 4. Page i of L2 is mapped to frame 64 + i or 128 + i, of which the first
// word says the frame.
class NestedThreads : public SimTest {
 protected:
  void SetUp() override {
    Start({.table_quota = 200, .nested = true}, 2);
    ASSERT_TRUE(world_->SetRam(kSize).ok());
    for (uint64_t table = 1; table < 4; ++table) Store(table << 12, (table + 1) << 12 | kRights);
    for (uint64_t i = 0; i < kPages; ++i) Store(0x4000 + i * 8, (64 + i) << 12 | kLeaf);
    for (uint64_t frame = 64; frame < 64 + 2 * kPages; ++frame) Store(frame << 12, frame);
    context_ = NestedOn(backend(), Eptp::Make(Hpa(0x1000), 4, false));
    for (const int i : {0, 1}) ASSERT_TRUE(vcpu(i).nested()->Enter(context_).ok());
  }

  // L1's own store. Its tables do not move, so the place is good.
  void Store(uint64_t gpa, uint64_t value) {
    auto* place = reinterpret_cast<uint64_t*>(*memory().AtHva(kRam + gpa));
    std::atomic_ref<uint64_t>(*place).store(value, std::memory_order_relaxed);
  }

  // What L2 reads at `gpa`; the access is made while the vCPU counts as in the guest.
  uint64_t Load(VcpuId id, uint64_t gpa) {
    uint64_t value = 0;
    const auto attempt = [&] {
      const sim::AccessResult result = world_->cpu(id).Access(Gva(gpa), sim::AccessKind::kLoad, 8);
      if (!result.ok()) return result.event;
      auto* place = reinterpret_cast<uint64_t*>(memory().At(result.hpa));
      value = std::atomic_ref<uint64_t>(*place).load(std::memory_order_relaxed);
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

  // Maps its own pages to and fro, and after each INVEPT must find the frame that it asked for.
  void Remap(VcpuId id, int rounds, const std::atomic<int>& disturbances) {
    constexpr int kDisturbances = 100;
    std::mt19937_64 random(id + 1);
    for (int round = 0; (round < rounds || disturbances.load() < kDisturbances) && !HasFailure();
         ++round) {
      const uint64_t page = random() % (kPages / 2) * 2 + id;
      const uint64_t frame = 64 + page + (random() % 2) * kPages;
      Store(0x4000 + page * 8, frame << 12 | kLeaf);
      NestedVcpu& nested = *vcpu(id).nested();
      ASSERT_TRUE(*nested.Invept(1 + random() % 2, context_.eptp, context_.rules));
      ASSERT_EQ(Load(id, page << 12), frame) << "round " << round;
    }
  }

  void Disturb(unsigned seed, const std::atomic<int>& running, std::atomic<int>& disturbances) {
    std::mt19937_64 random(seed);
    while (running.load() != 0) {
      const uint64_t frame = 64 + random() % (2 * kPages);
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
        case 3: {
          const uint32_t flags = random() % 2 == 0 ? kSlotLogDirtyPages : 0;
          ASSERT_TRUE(world_->SetRam(kSize, -1, flags).ok());
          break;
        }
        default: {
          const absl::Status status = vm().CheckInvariants();
          EXPECT_TRUE(status.ok()) << status;
        }
      }
      disturbances.fetch_add(1);
      std::this_thread::yield();
    }
  }

  NestedContext context_;
};

TEST_F(NestedThreads, EachVcpuSeesItsOwnRemappingsAfterItsOwnInvept) {
  constexpr int kRounds = 300;
  RunBesideDisturbances(
      [this](VcpuId id, std::atomic<int>& disturbances) { Remap(id, kRounds, disturbances); },
      [this](unsigned seed, std::atomic<int>& running, std::atomic<int>& disturbances) {
        Disturb(seed, running, disturbances);
      });
  const absl::Status status = vm().CheckInvariants();
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace tdp
