// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/rmap/descriptor_pool.h"

#include <cstdint>
#include <cstring>
#include <set>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace tdp {
namespace {

TEST(DescriptorPool, DescriptorsAreAlignedAndDistinct) {
  DescriptorPool pool(128);
  std::vector<void*> taken(2000);
  ASSERT_TRUE(pool.Take(taken.size(), taken.data()).ok());
  std::set<uintptr_t> addresses;
  for (void* descriptor : taken) {
    std::memset(descriptor, 0xff, 128);
    addresses.insert(reinterpret_cast<uintptr_t>(descriptor));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(descriptor) % 128, 0u);
  }
  EXPECT_EQ(addresses.size(), taken.size());
  EXPECT_GE(pool.reserved_bytes(), taken.size() * 128);
  pool.Return(taken.size(), taken.data());
  EXPECT_EQ(pool.taken(), 0u);
}

TEST(DescriptorPool, WhatComesBackIsUsedAgain) {
  DescriptorPool pool(64);
  void* some[16];
  for (int round = 0; round < 1000; ++round) {
    ASSERT_TRUE(pool.Take(16, some).ok());
    pool.Return(16, some);
  }
  EXPECT_EQ(pool.reserved_bytes(), KiB(64));
}

TEST(DescriptorCache, AFullStockGivesHalfBack) {
  DescriptorPool pool(64);
  DescriptorCache cache(pool);
  void* some[DescriptorCache::kCapacity + 1];
  ASSERT_TRUE(pool.Take(DescriptorCache::kCapacity + 1, some).ok());
  for (void* descriptor : some) cache.Push(descriptor);
  EXPECT_EQ(cache.size(), DescriptorCache::kCapacity / 2 + 1);
  EXPECT_EQ(pool.taken(), static_cast<size_t>(cache.size()));
}

TEST(DescriptorCache, RefillBringsWhatWasAskedFor) {
  DescriptorPool pool(64);
  DescriptorCache cache(pool);
  ASSERT_TRUE(cache.Refill(3).ok());
  EXPECT_GE(cache.size(), 3);
  const int before = cache.size();
  ASSERT_TRUE(cache.Refill(before).ok());
  EXPECT_EQ(cache.size(), before) << "enough was there";
}

TEST(DescriptorCache, ThreadsShareAPool) {
  DescriptorPool pool(32);
  const auto work = [&pool] {
    DescriptorCache cache(pool);
    std::vector<uint64_t*> held;
    for (uint64_t i = 0; i < 20000; ++i) {
      ASSERT_TRUE(cache.Refill(1).ok());
      held.push_back(static_cast<uint64_t*>(cache.Pop()));
      *held.back() = i;
      if (held.size() < 300) continue;
      for (uint64_t* descriptor : held) cache.Push(descriptor);
      held.clear();
    }
    for (uint64_t* descriptor : held) cache.Push(descriptor);
  };
  std::thread other(work);
  work();
  other.join();
  EXPECT_EQ(pool.taken(), 0u);
}

TEST(DescriptorPool, OneDescriptorMoreThanThereAreIsAskedOfTheHost) {
  DescriptorPool pool(64);
  std::vector<void*> taken(KiB(64) / 64);
  ASSERT_TRUE(pool.Take(taken.size() - 1, taken.data()).ok());
  void* two[2] = {};
  ASSERT_TRUE(pool.Take(2, two).ok());
  EXPECT_NE(two[0], nullptr);
  EXPECT_NE(two[1], nullptr);
  EXPECT_EQ(pool.reserved_bytes(), KiB(128));
  pool.Return(2, two);
  pool.Return(taken.size() - 1, taken.data());
}

}  // namespace
}  // namespace tdp
