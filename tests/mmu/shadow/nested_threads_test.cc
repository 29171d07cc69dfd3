// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs of a hypervisor that edit EPT12 under the L2 that they run, while two threads of the
// host take pages away.

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/vm.h"
#include "tests/mmu/shadow/beside_disturbances.h"

namespace tdp {
namespace {

constexpr Hva kRam{0x7f0000000000};
constexpr ByteCount kSize = MiB(8);
constexpr uint64_t kRights = ept::kRightsMask;
constexpr uint64_t kLeaf = kRights | uint64_t{6} << ept::kMemoryTypeShift;
constexpr uint64_t kPages = 64;

// EPT12 in frames 1 to 4. Page i of L2 is mapped to frame 64 + i or 128 + i, of which the first
// word says the frame.
class NestedThreads : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(memory_.Map(kRam, kSize).ok());
    vm_ = *Vm::Create(backend_, {.table_quota = 200, .nested = true});
    ASSERT_TRUE(vm_->SetMemoryRegion({.size = kSize, .hva = kRam}).ok());
    for (uint64_t table = 1; table < 4; ++table) Store(table << 12, (table + 1) << 12 | kRights);
    for (uint64_t i = 0; i < kPages; ++i) Store(0x4000 + i * 8, (64 + i) << 12 | kLeaf);
    for (uint64_t frame = 64; frame < 64 + 2 * kPages; ++frame) Store(frame << 12, frame);
    context_.eptp = Eptp::Make(Hpa(0x1000), 4, false);
    context_.rules.capabilities = backend_.capabilities().ept;
    context_.rules.physical_address_bits = backend_.capabilities().physical_address_bits;
    context_.vpid = 1;
    for (VcpuId id = 0; id < 2; ++id) {
      vcpus_.push_back(*vm_->CreateVcpu());
      ASSERT_TRUE(vcpus_[id]->nested()->Enter(context_).ok());
    }
  }

  // L1's own store. Its tables do not move, so the place is good.
  void Store(uint64_t gpa, uint64_t value) {
    auto* place = reinterpret_cast<uint64_t*>(*memory_.AtHva(kRam + gpa));
    std::atomic_ref<uint64_t>(*place).store(value, std::memory_order_relaxed);
  }

  // What L2 reads at `gpa`; the access is made while the vCPU counts as in the guest.
  uint64_t Load(VcpuId id, uint64_t gpa) {
    sim::Cpu& cpu = backend_.cpu(id);
    for (;;) {
      sim::Event event;
      {
        const GuestEntry entry = vcpus_[id]->EnterGuest();
        event = cpu.Enter(entry.eptp());
        if (event == sim::Event::kNone) {
          const sim::AccessResult result = cpu.Access(Gva(gpa), sim::AccessKind::kLoad, 8);
          event = result.event;
          if (result.ok()) {
            auto* place = reinterpret_cast<uint64_t*>(memory_.At(result.hpa));
            return std::atomic_ref<uint64_t>(*place).load(std::memory_order_relaxed);
          }
        }
      }
      if (event == sim::Event::kKick) continue;
      const NestedFaultResult fault =
          vcpus_[id]->nested()->HandleViolation(cpu.exit().gpa, cpu.exit().qualification);
      if (fault.outcome > NestedOutcome::kRetry) {
        ADD_FAILURE() << NestedOutcomeName(fault.outcome) << " " << fault.status;
        return 0;
      }
    }
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
      NestedVcpu& nested = *vcpus_[id]->nested();
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
          ASSERT_TRUE(vm_->BeginHostInvalidation(hva, kPageSize).ok());
          ASSERT_TRUE(memory_.Migrate(hva, kPageSize).ok());
          vm_->EndHostInvalidation();
          break;
        case 1:
          vm_->ZapAll()->Settle();
          break;
        case 2:
          vm_->AgeHostRange(hva, 8 * kPageSize)->flush.Settle();
          break;
        case 3: {
          const uint32_t flags = random() % 2 == 0 ? kSlotLogDirtyPages : 0;
          ASSERT_TRUE(vm_->SetMemoryRegion({.flags = flags, .size = kSize, .hva = kRam}).ok());
          break;
        }
        default: {
          const absl::Status status = vm_->CheckInvariants();
          EXPECT_TRUE(status.ok()) << status;
        }
      }
      disturbances.fetch_add(1);
      std::this_thread::yield();
    }
  }

  sim::HostMemory memory_{{.size = MiB(512)}};
  sim::SimBackend backend_{memory_, {.cpus = 2}};
  std::unique_ptr<Vm> vm_;
  NestedContext context_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

TEST_F(NestedThreads, EachVcpuSeesItsOwnRemappingsAfterItsOwnInvept) {
  constexpr int kRounds = 300;
  RunBesideDisturbances(
      [this](VcpuId id, std::atomic<int>& disturbances) { Remap(id, kRounds, disturbances); },
      [this](unsigned seed, std::atomic<int>& running, std::atomic<int>& disturbances) {
        Disturb(seed, running, disturbances);
      });
  const absl::Status status = vm_->CheckInvariants();
  EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace tdp
