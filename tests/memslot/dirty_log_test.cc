// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/dirty_log.h"

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"

namespace tdp {
namespace {

using Pages = std::set<uint64_t>;

std::unique_ptr<DirtyLog> MakeLog(uint64_t pages,
                                  DirtyLog::Initial initial = DirtyLog::Initial::kClean) {
  absl::StatusOr<std::unique_ptr<DirtyLog>> log = DirtyLog::Create(PageCount(pages), initial);
  EXPECT_TRUE(log.ok()) << log.status();
  return *std::move(log);
}

void PrepareAndMark(DirtyLog& log, uint64_t index) {
  ASSERT_TRUE(log.Prepare(index).ok());
  log.Mark(index);
}

auto AddTo(Pages& pages) {
  return [&pages](uint64_t base, uint64_t mask) {
    EXPECT_NE(mask, 0u);
    EXPECT_EQ(base % 64, 0u);
    for (; mask != 0; mask &= mask - 1) pages.insert(base + std::countr_zero(mask));
  };
}

Pages Take(DirtyLog& log) {
  Pages pages;
  EXPECT_TRUE(log.Take(AddTo(pages)).ok());
  return pages;
}

Pages Copy(const DirtyLog& log) {
  Pages pages;
  log.Copy(AddTo(pages));
  return pages;
}

TEST(DirtyLog, TakesWhatWasMarkedOnce) {
  const auto log = MakeLog(DirtyLog::kPagesPerDirectory * 3);
  const Pages marked{0,
                     63,
                     64,
                     DirtyLog::kPagesPerChunk - 1,
                     DirtyLog::kPagesPerChunk,
                     DirtyLog::kPagesPerDirectory,
                     DirtyLog::kPagesPerDirectory * 3 - 1};
  for (uint64_t page : marked) PrepareAndMark(*log, page);
  for (uint64_t page : marked) log->Mark(page);
  EXPECT_EQ(log->CountDirty(), marked.size());
  EXPECT_EQ(Copy(*log), marked);
  EXPECT_EQ(Take(*log), marked);
  EXPECT_EQ(Take(*log), Pages{});
  log->Mark(64);
  EXPECT_EQ(Take(*log), Pages{64});
}

TEST(DirtyLog, AnInitiallyDirtyLogHasEveryPageAndNoMore) {
  constexpr uint64_t kPages = 100000;
  const auto log = MakeLog(kPages, DirtyLog::Initial::kAllDirty);
  EXPECT_LT(log->bytes(), 1024u);
  EXPECT_EQ(log->CountDirty(), kPages);
  EXPECT_EQ(*Copy(*log).rbegin(), kPages - 1);
  EXPECT_TRUE(log->IsDirty(kPages - 1));
  log->Mark(5);
  EXPECT_LT(log->bytes(), 1024u);
  const std::vector<uint64_t> all(2, ~uint64_t{0});
  Pages cleared;
  ASSERT_TRUE(log->Clear(64, 100, all, AddTo(cleared)).ok());
  EXPECT_EQ(cleared.size(), 100u);
  EXPECT_EQ(*cleared.begin(), 64u);
  EXPECT_FALSE(log->IsDirty(64));
  EXPECT_FALSE(log->IsDirty(163));
  EXPECT_TRUE(log->IsDirty(164));
  EXPECT_EQ(log->CountDirty(), kPages - 100);
  EXPECT_EQ(Take(*log).size(), kPages - 100);
  EXPECT_EQ(log->CountDirty(), 0u);
}

TEST(DirtyLog, AnInitiallyDirtyLogEndsWithItsLastPageWhereverThatStands) {
  for (const uint64_t pages : {uint64_t{1}, DirtyLog::kPagesPerWord + 1,
                               DirtyLog::kPagesPerChunk + 1, DirtyLog::kPagesPerDirectory + 1}) {
    const auto log = MakeLog(pages, DirtyLog::Initial::kAllDirty);
    uint64_t last = 0;
    log->Copy([&](uint64_t base, uint64_t mask) {
      EXPECT_NE(mask, 0u);
      last = base + static_cast<uint64_t>(std::bit_width(mask)) - 1;
    });
    EXPECT_EQ(last, pages - 1);
    EXPECT_EQ(log->CountDirty(), pages);
    uint64_t taken = 0;
    ASSERT_TRUE(log->Take([&](uint64_t, uint64_t mask) {
                     taken += static_cast<uint64_t>(std::popcount(mask));
                   })
                    .ok());
    EXPECT_EQ(taken, pages);
  }
}

TEST(DirtyLog, AClearOfAnInitiallyDirtyLogMayLieInTwoChunks) {
  const auto log = MakeLog(2 * DirtyLog::kPagesPerChunk, DirtyLog::Initial::kAllDirty);
  Pages cleared;
  const std::vector<uint64_t> all(2, ~uint64_t{0});
  ASSERT_TRUE(log->Clear(DirtyLog::kPagesPerChunk - 64, 128, all, AddTo(cleared)).ok());
  EXPECT_EQ(cleared.size(), 128u);
}

TEST(DirtyLog, TheLastPageOfTheLongestSlotIsTaken) {
  constexpr uint64_t kPages = uint64_t{1} << 31;
  const auto log = MakeLog(kPages);
  PrepareAndMark(*log, kPages - 1);
  EXPECT_EQ(Copy(*log), Pages{kPages - 1});
  EXPECT_EQ(Take(*log), Pages{kPages - 1});
}

TEST(DirtyLog, ClearTakesOnlyTheBitsGivenInsideTheRange) {
  const auto log = MakeLog(1000);
  for (uint64_t page = 100; page < 300; ++page) PrepareAndMark(*log, page);
  const std::vector<uint64_t> bits{0xff, ~uint64_t{0}, 0};
  Pages cleared;
  ASSERT_TRUE(log->Clear(128, 70, bits, AddTo(cleared)).ok());
  Pages want{128, 129, 130, 131, 132, 133, 134, 135, 192, 193, 194, 195, 196, 197};
  EXPECT_EQ(cleared, want);
  EXPECT_EQ(log->CountDirty(), 200 - want.size());
  cleared.clear();
  ASSERT_TRUE(log->Clear(128, 70, bits, AddTo(cleared)).ok());
  EXPECT_TRUE(cleared.empty());
}

TEST(DirtyLog, MarksWholeWords) {
  const auto log = MakeLog(130);
  ASSERT_TRUE(log->Prepare(64).ok());
  log->MarkWord(64, 0xf0);
  log->MarkWord(128, 3);
  EXPECT_EQ(Take(*log), (Pages{68, 69, 70, 71, 128, 129}));
}

TEST(DirtyLog, CostsWhatItTouches) {
  const auto log = MakeLog(uint64_t{1} << 31);
  EXPECT_LT(log->bytes(), KiB(9));
  PrepareAndMark(*log, 12345678);
  EXPECT_LT(log->bytes(), KiB(16));
  Take(*log);
  const size_t before = log->bytes();
  PrepareAndMark(*log, 12345679);
  EXPECT_EQ(log->bytes(), before);
}

TEST(DirtyLog, AgreesWithASetUnderRandomOperations) {
  for (const auto initial : {DirtyLog::Initial::kClean, DirtyLog::Initial::kAllDirty}) {
    std::mt19937_64 random(3);
    constexpr uint64_t kPages = 70001;
    const auto log = MakeLog(kPages, initial);
    Pages model;
    if (initial == DirtyLog::Initial::kAllDirty) {
      for (uint64_t page = 0; page < kPages; ++page) model.insert(page);
    }
    for (int i = 0; i < 3000; ++i) {
      const uint64_t page = random() % 8 == 0 ? random() % kPages : random() % 300;
      if (random() % 16 == 0) {
        const uint64_t first = page & ~uint64_t{63};
        const uint64_t count = std::min<uint64_t>(kPages - first, random() % 200);
        std::vector<uint64_t> bits{random(), random(), random(), random()};
        Pages got;
        ASSERT_TRUE(log->Clear(first, count, bits, AddTo(got)).ok());
        Pages want;
        for (uint64_t at = 0; at < count; ++at) {
          if ((bits[at / 64] >> (at % 64) & 1) != 0 && model.erase(first + at) != 0) {
            want.insert(first + at);
          }
        }
        ASSERT_EQ(got, want);
      } else if (random() % 200 == 0) {
        ASSERT_EQ(Take(*log), model);
        model.clear();
      } else {
        PrepareAndMark(*log, page);
        model.insert(page);
      }
      ASSERT_EQ(log->IsDirty(page), model.contains(page));
    }
    EXPECT_EQ(Copy(*log), model);
  }
}

// Each writer stores a value to a page, then marks it, as a guest and its fault do; the taker reads
// each page after taking it. At the end its copy must be the memory.
TEST(DirtyLog, NoMarkedPageIsLostBesideATaker) {
  constexpr uint64_t kPages = 40000;
  constexpr int kWriters = 2;
  constexpr uint32_t kWrites = 60000;
  const auto log = MakeLog(kPages);
  std::vector<std::atomic<uint32_t>> memory(kPages);
  std::vector<uint32_t> copy(kPages);
  std::atomic<int> running{kWriters};
  std::vector<std::thread> writers;
  for (int writer = 0; writer < kWriters; ++writer) {
    writers.emplace_back([&, writer] {
      std::mt19937_64 random(writer);
      for (uint32_t i = 0; i < kWrites; ++i) {
        const uint64_t page = random() % 4 == 0 ? random() % kPages : random() % 128;
        ASSERT_TRUE(log->Prepare(page).ok());
        memory[page].fetch_add(1);
        log->Mark(page);
      }
      --running;
    });
  }
  const auto take = [&] {
    ASSERT_TRUE(log->Take([&](uint64_t base, uint64_t mask) {
                     for (; mask != 0; mask &= mask - 1) {
                       const uint64_t page = base + std::countr_zero(mask);
                       copy[page] = memory[page].load();
                     }
                   })
                    .ok());
  };
  while (running != 0) take();
  for (std::thread& writer : writers) writer.join();
  take();
  for (uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(copy[page], memory[page]) << page;
}

// The promise is stronger than that: a take has what was marked before it began, though another
// thread marked the same page a moment earlier and may still be on its way to the summaries.
TEST(DirtyLog, AMarkThatReturnedIsInTheNextTake) {
  const auto log = MakeLog(64 * 1024);
  ASSERT_TRUE(log->Prepare(0).ok());
  std::atomic<bool> stop{false};
  std::thread other([&] {
    while (!stop) log->Mark(7);
  });
  for (int round = 0; round < 20000; ++round) {
    log->Mark(7);
    bool found = false;
    ASSERT_TRUE(
        log->Take([&](uint64_t base, uint64_t mask) { found |= base == 0 && (mask >> 7 & 1) != 0; })
            .ok());
    ASSERT_TRUE(found) << "round " << round;
  }
  stop = true;
  other.join();
}

}  // namespace
}  // namespace tdp
