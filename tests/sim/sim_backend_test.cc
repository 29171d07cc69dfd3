// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine on simulated CPUs, watched by the flush oracle.

#include "tdp/backends/sim/sim_backend.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tdp/backends/sim/schedule.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/vm.h"
#include "tests/world/sim_backends.h"

namespace tdp::sim {
namespace {

constexpr ByteCount kRam = MiB(4);
constexpr Hva kRamHva(0x10000000);

// Tells the oracle of every store of the engine.
class Watch : public EntryStoreHook {
 public:
  Watch(FlushOracle& oracle, const HostMemory& memory)
      : oracle_(oracle), offset_(memory.direct_map_offset()), before_(SetEntryStoreHook(this)) {}
  ~Watch() override { SetEntryStoreHook(before_); }

  void OnStore(const uint64_t* where, EptEntry before, EptEntry after) override {
    oracle_.OnStore(Hpa(reinterpret_cast<uintptr_t>(where) - offset_), before.raw(), after.raw(),
                    "the engine");
  }

 private:
  FlushOracle& oracle_;
  uintptr_t offset_;
  EntryStoreHook* before_;
};

template <typename BackendType>
class Machine {
 public:
  explicit Machine(int cpus, const HostMapping& mapping = {})
      : backend_(memory_, {.cpus = cpus, .oracle = &oracle_}), watch_(oracle_, memory_) {
    EXPECT_TRUE(memory_.Map(kRamHva, kRam, mapping).ok());
    vm_ = *Vm::Create(backend_);
    EXPECT_TRUE(
        vm_->SetMemoryRegion({.slot = 0, .gpa = Gpa(0), .size = kRam, .hva = kRamHva}).ok());
    for (int i = 0; i < cpus; ++i) vcpus_.push_back(*vm_->CreateVcpu());
  }

  HostMemory& memory() { return memory_; }
  BackendType& backend() { return backend_; }
  FlushOracle& oracle() { return oracle_; }
  Vm& vm() { return *vm_; }

  // One access of a vCPU: enters, exits, and lets the engine answer violations until it is done.
  // Empty or what went wrong.
  std::string Access(int vcpu, Gpa gpa, AccessKind kind) {
    Cpu& cpu = backend_.cpu(vcpus_[vcpu]->id());
    for (int faults = 0; faults < 100;) {
      AccessResult result;
      {
        GuestEntry entry = vcpus_[vcpu]->EnterGuest();
        result.event = cpu.Enter(entry.eptp());
        if (result.ok()) result = cpu.Access(Gva(gpa.raw()), kind, 8);
      }
      if (result.ok()) return "";
      if (result.event == Event::kKick) continue;
      if (result.event != Event::kEptViolation) return cpu.exit().DebugString();
      const FaultResult fault =
          vcpus_[vcpu]->HandleEptViolation(cpu.exit().gpa, cpu.exit().qualification);
      if (fault.outcome == FaultOutcome::kError) return std::string(fault.status.message());
      if (fault.outcome == FaultOutcome::kRetry) {
        std::this_thread::yield();  // the host is between begin and end of an invalidation
      } else {
        ++faults;
      }
    }
    return "no progress";
  }

  // The host moves a page under the guest, as its mmu-notifier rules say.
  absl::Status Migrate(uint64_t page) {
    const Hva hva = kRamHva + page * kPageSize;
    absl::Status status = vm_->BeginHostInvalidation(hva, kPageSize);
    if (!status.ok()) return status;
    oracle_.Settle();
    status = memory_.Migrate(hva, kPageSize);
    vm_->EndHostInvalidation();
    return status;
  }

 private:
  HostMemory memory_{{.size = GiB(1)}};
  FlushOracle oracle_;
  BackendType backend_;
  Watch watch_;
  std::unique_ptr<Vm> vm_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;
};

TEST(SimBackend, DeclaresWhatItsCpusOffer) {
  HostMemory memory({.size = GiB(1)});
  SimBackendOptions options;
  options.cpu.features.pml = false;
  options.cpu.features.physical_address_bits = 40;
  SimBackend backend(memory, options);
  EXPECT_FALSE(backend.capabilities().pml);
  EXPECT_TRUE(backend.capabilities().mbec);
  EXPECT_EQ(backend.capabilities().physical_address_bits, 40);
  EXPECT_EQ(backend.capabilities().direct_map_offset, memory.direct_map_offset());
}

TEST(SimBackend, AKickBeforeTheEntryIsNotLost) {
  HostMemory memory({.size = GiB(1)});
  SimBackend backend(memory);
  const VcpuId vcpus[] = {0};
  backend.Kick(vcpus);
  EXPECT_EQ(backend.cpu(0).Enter(Eptp::Make(Hpa(MiB(4)), 4, false)), Event::kKick);
  EXPECT_EQ(backend.cpu(0).Enter(Eptp::Make(Hpa(MiB(4)), 4, false)), Event::kNone) << "only once";
  backend.Kick(vcpus);
  EXPECT_EQ(backend.cpu(0).Access(Gva(0), AccessKind::kLoad).event, Event::kKick);
}

TEST(EngineOnSimulatedCpus, NeverLeavesAStaleTranslationBehind) {
  Machine<SimBackend> machine(1);
  for (uint64_t page = 0; page < 16; ++page) {
    ASSERT_EQ(machine.Access(0, Gpa(page * kPageSize), AccessKind::kStore), "");
  }
  for (uint64_t page = 0; page < 16; page += 3) ASSERT_TRUE(machine.Migrate(page).ok());
  for (uint64_t page = 0; page < 16; ++page) {
    ASSERT_EQ(machine.Access(0, Gpa(page * kPageSize), AccessKind::kLoad), "");
  }
  EXPECT_EQ(machine.oracle().report_count(), 0u);
  EXPECT_GT(machine.backend().invalidations(), 0u);
}

TEST(EngineOnSimulatedCpus, AForgottenInveptIsCaught) {
  Machine<ForgetfulBackend> machine(1);
  ASSERT_EQ(machine.Access(0, Gpa(0), AccessKind::kStore), "");
  ASSERT_TRUE(machine.Migrate(0).ok());
  ASSERT_EQ(machine.Access(0, Gpa(0), AccessKind::kLoad), "");
  ASSERT_EQ(machine.oracle().report_count(), 1u);
  EXPECT_EQ(machine.oracle().reports()[0].kind, ChangeKind::kRightRemoved);
  EXPECT_EQ(machine.oracle().reports()[0].where, "the engine");
}

// Two CPUs and a host that moves pages, in an order that the seed decides.
size_t RunScheduled(Machine<SimBackend>& machine, uint64_t seed, uint64_t& invalidations) {
  std::vector<Step> actors;
  for (int vcpu = 0; vcpu < 2; ++vcpu) {
    actors.push_back([&machine, vcpu, left = 200, random = std::mt19937_64(seed + vcpu)]() mutable {
      const Gpa gpa(random() % (kRam / kPageSize) * kPageSize);
      const AccessKind kind = random() % 2 == 0 ? AccessKind::kLoad : AccessKind::kStore;
      EXPECT_EQ(machine.Access(vcpu, gpa, kind), "");
      return --left > 0;
    });
  }
  actors.push_back([&machine, left = 50, random = std::mt19937_64(seed + 2)]() mutable {
    EXPECT_TRUE(machine.Migrate(random() % (kRam / kPageSize)).ok());
    return --left > 0;
  });
  const size_t steps = RunInterleaved(std::move(actors), seed);
  invalidations = machine.backend().invalidations();
  return steps;
}

TEST(Schedule, TheSameSeedReplaysTheSameRun) {
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    uint64_t first = 0;
    uint64_t second = 0;
    {
      Machine<SimBackend> machine(2, {.order = 9});
      EXPECT_EQ(RunScheduled(machine, seed, first), 450u);
      EXPECT_EQ(machine.oracle().report_count(), 0u);
      EXPECT_TRUE(machine.vm().CheckInvariants().ok());
    }
    Machine<SimBackend> machine(2, {.order = 9});
    RunScheduled(machine, seed, second);
    EXPECT_EQ(first, second);
  }
}

TEST(EngineOnSimulatedCpus, ThreadsNeverUseAStaleTranslation) {
  Machine<SimBackend> machine(2);
  std::atomic<bool> done{false};
  std::vector<std::thread> threads;
  for (int vcpu = 0; vcpu < 2; ++vcpu) {
    threads.emplace_back([&machine, &done, vcpu] {
      std::mt19937_64 random(vcpu);
      while (!done.load(std::memory_order_relaxed)) {
        const Gpa gpa(random() % 64 * kPageSize);
        ASSERT_EQ(machine.Access(vcpu, gpa, AccessKind::kStore), "");
      }
    });
  }
  std::mt19937_64 random(7);
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(machine.Migrate(random() % 64).ok());
  done.store(true, std::memory_order_relaxed);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(machine.oracle().report_count(), 0u) << machine.oracle().reports()[0].DebugString();
}

}  // namespace
}  // namespace tdp::sim
