// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine runs on simulated CPUs here, watched by the flush oracle.

#include "tdp/backends/sim/sim_backend.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tdp/backends/sim/schedule.h"
#include "tests/world/sim_world.h"

namespace tdp::sim {
namespace {

constexpr ByteCount kSize = MiB(4);

class Machine : public SimWorld {
 public:
  explicit Machine(int cpus, int order = 0) : SimWorld({.vcpus = cpus, .cpu = {}, .oracle = {}}) {
    EXPECT_TRUE(SetRam(kSize, order).ok());
  }

  // Makes one access of a vCPU: it enters, exits, and lets the engine answer violations until it is
  // done. Returns what went wrong; empty if nothing did.
  std::string Access(int i, Gpa gpa, AccessKind kind) {
    std::string wrong;
    int faults = 0;
    const auto attempt = [&] { return cpu(i).Access(Gva(gpa.raw()), kind, 8).event; };
    const auto answer = [&](const Exit& exit) {
      if (exit.event != Event::kEptViolation) {
        wrong = exit.DebugString();
        return false;
      }
      const FaultResult fault = AnswerEptExit(vcpu(i), exit);
      if (fault.outcome == FaultOutcome::kError) wrong = std::string(fault.status.message());
      if (fault.outcome == FaultOutcome::kRetry) {
        std::this_thread::yield();  // the host is between begin and end of an invalidation
      } else if (++faults == 100) {
        wrong = "no progress";
      }
      return wrong.empty();
    };
    Run(i, attempt, answer, kAnyNumberOfExits);
    return wrong;
  }

  // Moves a page under the guest, as the host.
  absl::Status Migrate(uint64_t page) {
    return SimWorld::Migrate(kRam + page * kPageSize, kPageSize);
  }
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
  Machine machine(1);
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
  Machine machine(1);
  machine.backend().forgets_flushes = true;
  ASSERT_EQ(machine.Access(0, Gpa(0), AccessKind::kStore), "");
  ASSERT_TRUE(machine.Migrate(0).ok());
  ASSERT_EQ(machine.Access(0, Gpa(0), AccessKind::kLoad), "");
  ASSERT_EQ(machine.oracle().report_count(), 1u);
  EXPECT_EQ(machine.oracle().reports()[0].kind, ChangeKind::kRightRemoved);
  EXPECT_EQ(machine.oracle().reports()[0].where, "the engine");
}

// Runs two CPUs and a host that moves pages, in an order that the seed decides.
size_t RunScheduled(Machine& machine, uint64_t seed, uint64_t& invalidations) {
  std::vector<Step> actors;
  for (int vcpu = 0; vcpu < 2; ++vcpu) {
    actors.push_back([&machine, vcpu, left = 200, random = std::mt19937_64(seed + vcpu)]() mutable {
      const Gpa gpa(random() % (kSize / kPageSize) * kPageSize);
      const AccessKind kind = random() % 2 == 0 ? AccessKind::kLoad : AccessKind::kStore;
      EXPECT_EQ(machine.Access(vcpu, gpa, kind), "");
      return --left > 0;
    });
  }
  actors.push_back([&machine, left = 50, random = std::mt19937_64(seed + 2)]() mutable {
    EXPECT_TRUE(machine.Migrate(random() % (kSize / kPageSize)).ok());
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
      Machine machine(2, 9);
      EXPECT_EQ(RunScheduled(machine, seed, first), 450u);
      EXPECT_EQ(machine.oracle().report_count(), 0u);
      EXPECT_TRUE(machine.vm().CheckInvariants().ok());
    }
    Machine machine(2, 9);
    RunScheduled(machine, seed, second);
    EXPECT_EQ(first, second);
  }
}

TEST(EngineOnSimulatedCpus, ThreadsNeverUseAStaleTranslation) {
  Machine machine(2);
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
