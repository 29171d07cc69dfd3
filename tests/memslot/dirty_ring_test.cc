// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/dirty_ring.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "gtest/gtest.h"

namespace tdp {
namespace {

std::unique_ptr<DirtyRing> MakeRing(uint32_t entries) {
  auto ring = DirtyRing::Create(entries);
  EXPECT_TRUE(ring.ok());
  return *std::move(ring);
}

TEST(DirtyRing, SizeIsAPowerOfTwoWithinBounds) {
  EXPECT_TRUE(DirtyRing::CheckSize(1024).ok());
  EXPECT_TRUE(DirtyRing::CheckSize(65536).ok());
  for (uint64_t bad : {0, 1000, 512, 65535}) {
    EXPECT_EQ(DirtyRing::CheckSize(bad).code(), absl::StatusCode::kInvalidArgument) << bad;
  }
  EXPECT_EQ(DirtyRing::CheckSize(131072).code(), absl::StatusCode::kOutOfRange);
}

TEST(DirtyRing, EntriesGoFromDirtyToHarvestedToFree) {
  const auto ring = MakeRing(1024);
  for (uint64_t i = 0; i < 5; ++i) ASSERT_TRUE(ring->Push({0, 3, 100 + i}));
  DirtyRingEntry got[3];
  EXPECT_EQ(ring->Harvest(absl::MakeSpan(got)), 3u);
  EXPECT_EQ(got[2], (DirtyRingEntry{0, 3, 102}));
  EXPECT_EQ(ring->used(), 5u);
  std::vector<std::pair<DirtyRingEntry, uint64_t>> runs;
  const auto collect = [&](const DirtyRingEntry& first, uint64_t mask) {
    runs.emplace_back(first, mask);
  };
  EXPECT_EQ(ring->Reset(collect), 3u);
  EXPECT_EQ(ring->used(), 2u);
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_EQ(runs[0].first, (DirtyRingEntry{0, 3, 100}));
  EXPECT_EQ(runs[0].second, 7u);
  EXPECT_EQ(ring->Reset(collect), 0u);
}

TEST(DirtyRing, ResetJoinsNeighboursOfOneSlotOnly) {
  const auto ring = MakeRing(1024);
  const DirtyRingEntry entries[] = {{0, 1, 10}, {0, 1, 73}, {0, 1, 74}, {0, 2, 75},
                                    {1, 2, 76}, {1, 2, 70}, {1, 2, 70}};
  for (const DirtyRingEntry& entry : entries) ASSERT_TRUE(ring->Push(entry));
  DirtyRingEntry got[10];
  ASSERT_EQ(ring->Harvest(absl::MakeSpan(got)), 7u);
  std::vector<std::pair<DirtyRingEntry, uint64_t>> runs;
  ring->Reset([&](const DirtyRingEntry& first, uint64_t mask) { runs.emplace_back(first, mask); });
  ASSERT_EQ(runs.size(), 5u);
  EXPECT_EQ(runs[0].second, uint64_t{1} | uint64_t{1} << 63);
  EXPECT_EQ(runs[1].first, (DirtyRingEntry{0, 1, 74}));
  EXPECT_EQ(runs[4].first, (DirtyRingEntry{1, 2, 70}));
  EXPECT_EQ(runs[4].second, 1u);
}

TEST(DirtyRing, KeepsRoomForAFullLogOfTheCpusAndTheFaultThatFoundIt) {
  constexpr uint32_t kLogOfTheCpu = 512;
  constexpr uint32_t kOfAFault = 64;
  const auto ring = MakeRing(1024);
  uint64_t index = 0;
  while (!ring->is_nearly_full()) ASSERT_TRUE(ring->Push({0, 0, index++}));
  for (uint32_t i = 0; i < kLogOfTheCpu + kOfAFault; ++i) {
    ASSERT_TRUE(ring->Push({0, 0, index++})) << i;
  }
}

TEST(DirtyRing, IsNearlyFullBeforeItIsFull) {
  const auto ring = MakeRing(1024);
  uint32_t pushed = 0;
  while (!ring->is_nearly_full()) {
    ASSERT_TRUE(ring->Push({0, 0, pushed}));
    ++pushed;
  }
  EXPECT_EQ(pushed, 1024 - DirtyRing::kReservedEntries);
  for (; pushed < 1024; ++pushed) ASSERT_TRUE(ring->Push({0, 0, pushed}));
  EXPECT_FALSE(ring->Push({0, 0, 0}));
  std::vector<DirtyRingEntry> all(2000);
  EXPECT_EQ(ring->Harvest(absl::MakeSpan(all)), 1024u);
  EXPECT_FALSE(ring->Push({0, 0, 0}));
  ring->Reset([](const DirtyRingEntry&, uint64_t) {});
  EXPECT_TRUE(ring->Push({0, 0, 0}));
}

TEST(DirtyRing, DeliversEveryEntryInOrderBesideItsCollector) {
  const auto ring = MakeRing(1024);
  constexpr uint64_t kEntries = 200000;
  std::thread vcpu([&] {
    for (uint64_t i = 0; i < kEntries;) {
      if (ring->Push({0, static_cast<uint32_t>(i % 3), i})) {
        ++i;
      } else {
        std::this_thread::yield();
      }
    }
  });
  uint64_t next = 0;
  uint64_t reset = 0;
  std::vector<DirtyRingEntry> got(100);
  while (next < kEntries) {
    const uint32_t count = ring->Harvest(absl::MakeSpan(got));
    for (uint32_t i = 0; i < count; ++i, ++next) {
      ASSERT_EQ(got[i], (DirtyRingEntry{0, static_cast<uint32_t>(next % 3), next}));
    }
    reset += ring->Reset([](const DirtyRingEntry&, uint64_t) {});
    if (count == 0) std::this_thread::yield();
  }
  vcpu.join();
  EXPECT_EQ(reset, kEntries);
}

TEST(DirtyRing, HasNeverMoreEntriesInUseThanItHas) {
  const auto ring = MakeRing(1024);
  std::atomic<bool> done = false;
  std::thread vcpu([&] {
    std::vector<DirtyRingEntry> got(256);
    for (uint64_t i = 0; i < 3000000; ++i) {
      EXPECT_TRUE(ring->Push({0, 0, i}));
      ring->Harvest(absl::MakeSpan(got));
      ring->Reset([](const DirtyRingEntry&, uint64_t) {});
    }
    done = true;
  });
  uint32_t most = 0;
  while (!done) most = std::max(most, ring->used());
  vcpu.join();
  EXPECT_LE(most, ring->size());
}

}  // namespace
}  // namespace tdp
