// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guests of two vCPUs map their pages to and fro, beside two threads of the host.

#ifndef TDP_TESTS_MMU_SHADOW_REMAPPING_VCPUS_H_
#define TDP_TESTS_MMU_SHADOW_REMAPPING_VCPUS_H_

#include <atomic>
#include <cstdint>
#include <random>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tests/world/sim_test.h"

namespace tdp {

// Page i of a guest is mapped to frame 64 + i or 128 + i, of which the first word says the frame.
class RemappingVcpus : public SimTest {
 protected:
  static constexpr ByteCount kSize = MiB(8);
  static constexpr uint64_t kPages = 64;

  void FillFrames() {
    for (uint64_t frame = 64; frame < 64 + 2 * kPages; ++frame) Poke(frame << 12, frame);
  }
  // Maps the page of the vCPU's guest to the frame, flushes what is cached of it by the instruction
  // that `which` chooses, and reads the page's first word.
  virtual void Map(VcpuId id, uint64_t page, uint64_t frame) = 0;
  virtual void Flush(VcpuId id, uint64_t page, uint64_t which) = 0;
  virtual uint64_t Load(VcpuId id, uint64_t page) = 0;
  // Does something to `frame`, or to all, as the host, which the guests must not notice.
  virtual void Disturb(uint64_t frame, std::mt19937_64& random) = 0;

  static uint64_t LoadWord(uint64_t* place) {
    return std::atomic_ref<uint64_t>(*place).load(std::memory_order_relaxed);
  }
  static void StoreWord(uint64_t* place, uint64_t value) {
    std::atomic_ref<uint64_t>(*place).store(value, std::memory_order_relaxed);
  }

  // Each vCPU makes `rounds` changes or more, until there were enough disturbances, and after each
  // flush it must find the frame that it asked for. Two threads disturb them, since an operation
  // may find that another has taken away what it was to take.
  void RemapBesideDisturbances(int rounds) {
    std::vector<std::thread> threads;
    for (VcpuId id = 0; id < 2; ++id) {
      threads.emplace_back([this, id, rounds] {
        Remap(id, rounds);
        running_.fetch_sub(1);
      });
    }
    threads.emplace_back([this] { DisturbWhileTheyRun(8); });
    DisturbWhileTheyRun(7);
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(vm().CheckInvariants(), absl::OkStatus());
  }

 private:
  void Remap(VcpuId id, int rounds) {
    constexpr int kDisturbances = 100;
    std::mt19937_64 random(id + 1);
    for (int round = 0; (round < rounds || disturbances_.load() < kDisturbances) && !HasFailure();
         ++round) {
      const uint64_t page = random() % (kPages / 2) * 2 + id;
      const uint64_t frame = 64 + page + (random() % 2) * kPages;
      Map(id, page, frame);
      Flush(id, page, random());
      ASSERT_EQ(Load(id, page), frame) << "round " << round;
    }
  }
  void DisturbWhileTheyRun(unsigned seed) {
    std::mt19937_64 random(seed);
    while (running_.load() != 0) {
      Disturb(64 + random() % (2 * kPages), random);
      disturbances_.fetch_add(1);
      std::this_thread::yield();
    }
  }

  std::atomic<int> running_{2};
  std::atomic<int> disturbances_{0};
};

}  // namespace tdp

#endif  // TDP_TESTS_MMU_SHADOW_REMAPPING_VCPUS_H_
