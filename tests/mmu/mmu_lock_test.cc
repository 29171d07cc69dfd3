// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/sync/mmu_lock.h"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace tdp {
namespace {

TEST(MmuLock, AWriterIsAloneAndReadersSeeItsWholeChange) {
  constexpr int kReaders = 3;
  constexpr int kWrites = 2000;
  MmuLock lock;
  // These are plain on purpose: the lock alone orders the accesses, and the thread sanitizer checks
  // it.
  int first = 0;
  int second = 0;
  std::atomic<bool> stop{false};
  std::atomic<int> torn{0};
  std::vector<std::thread> readers;
  for (int i = 0; i < kReaders; ++i) {
    readers.emplace_back([&] {
      MmuLock::Reader reader(lock);
      while (!stop.load()) {
        MmuReadSection section(reader);
        if (first != second) torn.fetch_add(1);
      }
    });
  }
  for (int i = 0; i < kWrites; ++i) {
    MmuWriteSection section(lock);
    ++first;
    ++second;
  }
  stop.store(true);
  for (std::thread& thread : readers) thread.join();
  EXPECT_EQ(torn.load(), 0);
  EXPECT_EQ(second, kWrites);
}

TEST(MmuLock, TwoWritersExcludeEachOther) {
  MmuLock lock;
  int count = 0;
  const auto add = [&] {
    for (int i = 0; i < 10000; ++i) {
      MmuWriteSection section(lock);
      ++count;
    }
  };
  std::thread other(add);
  add();
  other.join();
  EXPECT_EQ(count, 20000);
}

TEST(MmuLock, ReadersComeAndGoWhileWritersWork) {
  MmuLock lock;
  std::atomic<bool> stop{false};
  int value = 0;
  std::thread writer([&] {
    while (!stop.load()) {
      MmuWriteSection section(lock);
      ++value;
    }
  });
  int last = 0;
  for (int i = 0; i < 2000; ++i) {
    MmuLock::Reader reader(lock);
    MmuReadSection section(reader);
    EXPECT_GE(value, last);
    last = value;
  }
  stop.store(true);
  writer.join();
}

TEST(MmuLockDeathTest, AReaderThatIsInsideCannotBeDestroyed) {
  EXPECT_DEATH(
      {
        MmuLock lock;
        auto reader = std::make_unique<MmuLock::Reader>(lock);
        reader->Enter();
        reader.reset();
      },
      "check failed: !is_inside");
}

}  // namespace
}  // namespace tdp
