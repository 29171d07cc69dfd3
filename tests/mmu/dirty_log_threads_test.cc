// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Dirty logging runs here while everything else does: CPUs write on threads of their own, one
// thread takes the logs and copies, one takes mappings away.

#include <atomic>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tdp/tests/mmu/logging_guest.h"
#include "tests/world/dirty_logs.h"

namespace tdp {
namespace {

using ::testing::IsEmpty;

constexpr Gpa kBase[2] = {Gpa(MiB(1) + 3 * kPageSize), Gpa(MiB(8))};

class LoggingThreads : public testing::TestWithParam<DirtyTracking> {
 protected:
  LoggingThreads() {
    guest_.AddSlot(0, kBase[0], MiB(3) + 5 * kPageSize);
    guest_.AddSlot(1, kBase[1], MiB(4), 9);
    guest_.StartMigration(0);
    guest_.StartMigration(1);
  }

  // Returns a page that is written often, or any.
  Gpa SomePage(std::mt19937_64& random) {
    const auto slot = static_cast<uint32_t>(random() % 2);
    const uint64_t page = random() % 4 != 0 ? random() % 16 * 61 : random();
    return kBase[slot] + page % guest_.PagesOf(slot) * kPageSize;
  }

  void RunCpu(int cpu, uint64_t seed) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < kAccesses; ++i) {
      if (random() % 4 == 0) {
        guest_.Read(cpu, SomePage(random));
      } else {
        guest_.Write(cpu, SomePage(random));
      }
      if (random() % 64 == 0) guest_.Leave(cpu);
    }
    guest_.Leave(cpu);
    running_.fetch_sub(1);
  }

  void RunZapper(uint64_t seed) {
    std::mt19937_64 random(seed);
    while (running_.load() != 0) {
      const auto slot = static_cast<uint32_t>(random() % 2);
      const uint64_t page = random() % guest_.PagesOf(slot);
      const uint64_t pages = 1 + random() % (guest_.PagesOf(slot) - page);
      switch (random() % 8) {
        case 0:
          guest_.vm().ZapAll()->Settle();
          break;
        case 1:
          guest_.InvalidateHost(slot, page, pages);
          break;
        case 2:
          EXPECT_EQ(guest_.vm().PushDownDirtyLog(slot), absl::OkStatus());
          break;
        default:
          guest_.vm().ZapRange(Gfn::Of(kBase[slot]) + PageCount(page), PageCount(pages))->Settle();
      }
      std::this_thread::yield();
    }
  }

  static constexpr int kCpus = 2;
  static constexpr int kAccesses = 20000;

  LoggingGuest guest_{{.tracking = GetParam(), .vcpus = kCpus, .stepped = false, .oracle = false}};
  std::atomic<int> running_{kCpus};
};

std::string NameWithoutSpaces(const testing::TestParamInfo<DirtyTracking>& of) {
  std::string name = DirtyTrackingName(of.param);
  std::erase_if(name, [](char c) { return c == ' ' || c == '-'; });
  return name;
}

INSTANTIATE_TEST_SUITE_P(Tracking, LoggingThreads, EachTracking(), NameWithoutSpaces);

TEST_P(LoggingThreads, NoWriteIsLostWhileLogsAreTakenAndMappingsGo) {
  std::vector<std::thread> threads;
  for (int cpu = 0; cpu < kCpus; ++cpu) {
    threads.emplace_back([this, cpu] { RunCpu(cpu, 7 + static_cast<uint64_t>(cpu)); });
  }
  std::thread zapper([this] { RunZapper(99); });
  for (uint32_t slot = 0; running_.load() != 0; slot ^= 1) guest_.Take(slot);
  // The CPUs are done; the zapper may be in the middle of something still.
  for (const uint32_t slot : {0u, 1u}) {
    guest_.Take(slot);
    EXPECT_THAT(guest_.Differences(slot), IsEmpty()) << slot;
  }
  for (std::thread& thread : threads) thread.join();
  zapper.join();
}

}  // namespace
}  // namespace tdp
