// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Two vCPUs of a shadowed guest that write its tables and use them, while the host takes pages
// away.

#include "tdp/mmu/shadow/shadow_vcpu.h"

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
#include "tdp/mmu/vm.h"
#include "tests/mmu/shadow/beside_disturbances.h"

namespace tdp {
namespace {

constexpr Hva kRam{0x7f0000000000};
constexpr ByteCount kSize = MiB(8);
constexpr uint64_t kAll = 0x67;
constexpr uint64_t kPages = 64;

// Tables in frames 1 to 4. Page i of gva is mapped to frame 64 + i or 128 + i, of which the first
// byte says the frame.
class ShadowThreads : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(memory_.Map(kRam, kSize).ok());
    vm_ = *Vm::Create(backend_, {.paging = Paging::kShadow});
    ASSERT_TRUE(vm_->SetMemoryRegion({.size = kSize, .hva = kRam}).ok());
    sim::Controls controls;
    controls.ept = false;
    for (VcpuId id = 0; id < 2; ++id) {
      vcpus_.push_back(*vm_->CreateVcpu());
      ASSERT_TRUE(backend_.cpu(id).SetControls(controls).ok());
    }
    for (uint64_t table = 1; table < 4; ++table) Poke(table << 12, (table + 1) << 12 | kAll);
    for (uint64_t i = 0; i < kPages; ++i) Poke(0x4000 + i * 8, (64 + i) << 12 | kAll);
    // The table of leaves itself, and the directory.
    Poke(0x4000 + 200 * 8, 0x4000 | kAll);
    for (uint64_t frame = 64; frame < 64 + 2 * kPages; ++frame) Poke(frame << 12, frame);
    GuestControls guest;
    guest.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect | guest::kCr0ProtectionEnable;
    guest.cr4 = guest::kCr4PhysicalAddressExtension;
    guest.efer = guest::kEferLongModeActive | guest::kEferLongModeEnable | guest::kEferNoExecute;
    guest.physical_address_bits = 46;
    for (const auto& vcpu : vcpus_) ASSERT_TRUE(vcpu->shadow()->SetPaging(guest, 0x1000).ok());
  }

  void Poke(uint64_t gpa, uint64_t value) {
    std::memcpy(*memory_.AtHva(kRam + gpa), &value, sizeof(value));
  }

  // The access is made while the vCPU counts as in the guest, so that nothing is taken away under
  // it: `use` gets the place.
  template <typename Use>
  bool Access(VcpuId id, uint64_t gva, sim::AccessKind kind, Use use) {
    Vcpu& vcpu = *vcpus_[id];
    sim::Cpu& cpu = backend_.cpu(id);
    for (;;) {
      sim::Event event;
      {
        GuestEntry entry = vcpu.EnterGuest();
        const ShadowRegisters& load = vcpu.shadow()->registers();
        sim::Registers registers = cpu.registers();
        registers.cr0 = load.cr0;
        registers.cr3 = load.cr3;
        registers.cr4 = load.cr4;
        registers.efer = load.efer;
        cpu.SetRegisters(registers);
        event = cpu.Enter(entry.eptp());
        if (event == sim::Event::kNone) {
          const sim::AccessResult result = cpu.Access(Gva(gva), kind, 8);
          event = result.event;
          if (result.ok()) {
            use(reinterpret_cast<uint64_t*>(memory_.At(result.hpa)));
            return true;
          }
        }
      }
      if (event == sim::Event::kKick) continue;
      const PagingFaultResult fault =
          vcpu.shadow()->HandlePageFault(cpu.exit().gva, cpu.exit().error_code);
      if (fault.outcome == PagingOutcome::kEmulateWrite) {
        EXPECT_TRUE(vcpu.shadow()
                        ->EmulateWrite(
                            fault.gpa, 8,
                            [&use](std::byte* place) { use(reinterpret_cast<uint64_t*>(place)); })
                        .ok());
        return true;
      }
      if (fault.outcome > PagingOutcome::kRetry) {
        ADD_FAILURE() << PagingOutcomeName(fault.outcome) << " " << fault.status;
        return false;
      }
    }
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
        ASSERT_TRUE(vcpus_[id]->shadow()->WriteCr3(0x1000).ok());
      } else {
        ASSERT_TRUE(vcpus_[id]->shadow()->Invlpg(Gva(page << 12)).ok());
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
          ASSERT_TRUE(vm_->BeginHostInvalidation(hva, kPageSize).ok());
          ASSERT_TRUE(memory_.Migrate(hva, kPageSize).ok());
          vm_->EndHostInvalidation();
          break;
        }
        case 1:
          vm_->ZapAll()->Settle();
          break;
        case 2:
          vm_->ZapRange(Gfn(frame), PageCount(8))->Settle();
          break;
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
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

TEST_F(ShadowThreads, EachVcpuSeesItsOwnRemappingsAfterItsOwnFlush) {
  constexpr int kRounds = 400;
  RunBesideDisturbances(
      [this](VcpuId id, std::atomic<int>& disturbances) { Remap(id, kRounds, disturbances); },
      [this](unsigned seed, std::atomic<int>& running, std::atomic<int>& disturbances) {
        Disturb(seed, running, disturbances);
      });
  const absl::Status status = vm_->CheckInvariants();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_GT(vm_->Stats().shadow.mmu_shadow_zapped, 0u);
}

}  // namespace
}  // namespace tdp
