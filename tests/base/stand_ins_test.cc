// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests are of the stand-ins for Abseil's headers (base/freestanding), which this target
// finds in Abseil's place.

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/container/inlined_vector.h"
#include "absl/functional/function_ref.h"
#include "absl/memory/memory.h"
#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"

namespace {

TEST(StandInStrFormat, PrintsAsTheStandardDoes) {
  EXPECT_EQ(absl::StrFormat("%d %u %x %#x", -5, 7u, 255, uint64_t{0xabc}), "-5 7 ff 0xabc");
  EXPECT_EQ(absl::StrFormat("%#x", 0), "0");
  EXPECT_EQ(absl::StrFormat("%016x|%4d|%-4d|%03d", uint64_t{0x1f}, 12, 12, 7),
            "000000000000001f|  12|12  |007");
  EXPECT_EQ(absl::StrFormat("%s %s %c 100%%", "a", std::string("b"), 'c'), "a b c 100%");
  EXPECT_EQ(absl::StrFormat("%x", int8_t{-1}), "ff") << "in the width of its type";
  EXPECT_EQ(absl::StrFormat("%d", std::numeric_limits<int64_t>::min()), "-9223372036854775808");
  EXPECT_EQ(absl::StrFormat("%d%%"), "d%") << "a conversion without its argument prints its letter";
}

TEST(StandInStrCat, JoinsTextAndNumbers) {
  std::string text = absl::StrCat("a", 1, std::string("b"), uint64_t{18446744073709551615u}, -3);
  EXPECT_EQ(text, "a1b18446744073709551615-3");
  absl::StrAppend(&text, " ", absl::Hex(uint32_t{0xbeef}));
  EXPECT_EQ(text, "a1b18446744073709551615-3 beef");
}

TEST(StandInStatus, SaysItsCodeAndMessage) {
  EXPECT_TRUE(absl::OkStatus().ok());
  const absl::Status status = absl::InvalidArgumentError("field x");
  EXPECT_FALSE(status.ok());
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_FALSE(absl::IsNotFound(status));
  EXPECT_EQ(status.message(), "field x");
  EXPECT_TRUE(absl::IsDataLoss(absl::DataLossError("page 3")));
  EXPECT_TRUE(absl::IsDeadlineExceeded(absl::DeadlineExceededError("")));
  absl::StatusOr<int> value = 3;
  EXPECT_EQ(*value, 3);
  value = status;
  EXPECT_EQ(value.status(), status);
  absl::StatusOr<std::string> text = "abc";
  EXPECT_EQ(text->size(), 3u);
  EXPECT_DEATH(value.value(), "");
}

TEST(StandInStatus, IsOneWordAndCopiesShareTheText) {
  EXPECT_EQ(sizeof(absl::Status), sizeof(void*));
  absl::Status first = absl::NotFoundError("slot 7");
  const absl::Status copy = first;
  EXPECT_EQ(copy.message().data(), first.message().data());
  const absl::Status moved = std::move(first);
  first = absl::InternalError("");
  EXPECT_EQ(copy, moved);
  EXPECT_EQ(copy.message(), "slot 7");
  EXPECT_EQ(first.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(first.message(), "");
}

TEST(StandInStatus, KeepsTheFirstErrorOfAnUpdate) {
  absl::Status status;
  status.Update(absl::OkStatus());
  EXPECT_TRUE(status.ok());
  status.Update(absl::AbortedError("one"));
  status.Update(absl::InternalError("two"));
  status.Update(absl::OkStatus());
  EXPECT_EQ(status.message(), "one");
}

TEST(StandInSpan, ViewsContainersAndLists) {
  std::vector<int> numbers = {1, 2, 3};
  absl::Span<const int> all = numbers;
  EXPECT_EQ(all.size(), 3u);
  EXPECT_EQ(all.subspan(1)[0], 2);
  EXPECT_EQ(all.subspan(1, 100).size(), 2u) << "cut to what there is";
  absl::MakeSpan(numbers)[0] = 9;
  EXPECT_EQ(numbers[0], 9);
  const auto sum = [](absl::Span<const int> list) {
    int total = 0;
    for (int number : list) total += number;
    return total;
  };
  EXPECT_EQ(sum({4, 5}), 9);
  all.remove_prefix(2);
  EXPECT_EQ(all.size(), 1u);
  EXPECT_EQ(all.data(), &numbers[2]);
  EXPECT_EQ(absl::MakeConstSpan(numbers.data(), 2).size(), 2u);
}

TEST(StandInFunctionRef, CallsWhatItRefersTo) {
  int total = 0;
  const auto add = [&total](int n) { return total += n; };
  absl::FunctionRef<int(int)> ref = add;
  const absl::FunctionRef<int(int)> copy = ref;
  EXPECT_EQ(ref(2), 2);
  EXPECT_EQ(copy(3), 5);
  int (*function)(int) = [](int n) { return -n; };
  EXPECT_EQ(absl::FunctionRef<int(int)>(function)(4), -4);
}

TEST(StandInInt128, HoldsWhatSixtyFourBitsDoNot) {
  const absl::uint128 whole = absl::uint128{1} << 64;
  EXPECT_EQ(absl::Uint128High64(whole), 1u);
  EXPECT_EQ(absl::Uint128Low64(whole - 1), ~uint64_t{0});
  EXPECT_LT(absl::int128{0} - 1, absl::int128{0});
}

TEST(StandInInlinedVector, KeepsItsElementsAsItOutgrowsItself) {
  absl::InlinedVector<int, 4> numbers;
  EXPECT_TRUE(numbers.empty());
  const auto* const before = reinterpret_cast<const char*>(numbers.data());
  EXPECT_LT(static_cast<size_t>(before - reinterpret_cast<const char*>(&numbers)), sizeof(numbers));
  for (int i = 0; i < 100; ++i) {
    numbers.push_back(i);
    numbers.push_back(numbers[0]);
  }
  ASSERT_EQ(numbers.size(), 200u);
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(numbers[2 * i], i);
    EXPECT_EQ(numbers[2 * i + 1], 0);
  }
}

TEST(StandInAlgorithms, FindAndOwn) {
  const std::vector<int> numbers = {3, 5};
  EXPECT_TRUE(absl::c_linear_search(numbers, 5));
  EXPECT_FALSE(absl::c_linear_search(numbers, 4));
  const std::unique_ptr<int> owner = absl::WrapUnique(new int(7));
  EXPECT_EQ(*owner, 7);
}

TEST(StandInMutex, ExcludesWritersFromEachOtherAndFromReaders) {
  absl::Mutex mutex;
  int count = 0;
  const auto add = [&] {
    for (int i = 0; i < 2000; ++i) {
      absl::MutexLock lock(&mutex);
      ++count;
    }
  };
  std::thread other(add);
  add();
  other.join();
  EXPECT_EQ(count, 4000);
  mutex.ReaderLock();
  mutex.ReaderLock();
  EXPECT_FALSE(mutex.TryLock());
  mutex.ReaderUnlock();
  mutex.ReaderUnlock();
  EXPECT_TRUE(mutex.TryLock());
  mutex.Unlock();
}

TEST(StandInMutex, LetsAWriterPassReadersThatKeepComing) {
  absl::Mutex mutex;
  std::atomic<bool> stop{false};
  const auto read = [&] {
    while (!stop) {
      mutex.ReaderLock();
      mutex.ReaderUnlock();
    }
  };
  std::thread one(read);
  std::thread two(read);
  for (int i = 0; i < 100; ++i) absl::MutexLock lock(&mutex);
  stop = true;
  one.join();
  two.join();
}

struct Key {
  uint64_t a;
  uint16_t b;
  friend bool operator==(const Key&, const Key&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const Key& key) {
    return H::combine(std::move(h), key.a, key.b);
  }
};

TEST(StandInFlatHashMap, DoesWhatAMapDoesOverRandomOperations) {
  absl::flat_hash_map<Key, std::string> map;
  std::unordered_map<uint64_t, std::string> model;
  uint64_t random = 1;
  for (int i = 0; i < 20000; ++i) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    const uint64_t n = random >> 55;
    const Key key = {n, static_cast<uint16_t>(n)};
    switch (random >> 20 & 3) {
      case 0:
        EXPECT_EQ(map.erase(key), model.erase(n));
        break;
      case 1: {
        const bool is_new = map.try_emplace(key, std::to_string(i)).second;
        EXPECT_EQ(is_new, model.try_emplace(n, std::to_string(i)).second);
        break;
      }
      case 2:
        map[key] = std::to_string(i);
        model[n] = std::to_string(i);
        break;
      default: {
        const auto found = map.find(key);
        EXPECT_EQ(found != map.end(), model.contains(n));
        if (found != map.end()) {
          EXPECT_EQ(found->second, model[n]);
        }
      }
    }
    ASSERT_EQ(map.size(), model.size());
  }
  size_t seen = 0;
  for (const auto& [key, text] : map) {
    ++seen;
    EXPECT_EQ(text, model[key.a]);
  }
  EXPECT_EQ(seen, model.size());
  map.clear();
  EXPECT_TRUE(map.empty());
  EXPECT_EQ(map.find({1, 1}), map.end());
}

TEST(StandInFlatHashMap, InsertsWithoutAGrowthWhatWasReserved) {
  absl::flat_hash_map<int, int> map;
  for (int i = 0; i < 1000; ++i) {
    map.reserve(map.size() + 1);
    const size_t capacity = map.capacity();
    map[i] = i;
    EXPECT_EQ(map.capacity(), capacity);
    if (i % 3 != 0) map.erase(i);
  }
  EXPECT_EQ(map.at(999), 999);
  EXPECT_DEATH(map.at(1), "");
}

TEST(StandInFlatHashSet, SaysWhetherAValueIsNew) {
  absl::flat_hash_set<int> set;
  EXPECT_TRUE(set.insert(3).second);
  EXPECT_FALSE(set.insert(3).second);
  EXPECT_TRUE(set.contains(3));
  EXPECT_EQ(set.size(), 1u);
}

TEST(StandInMacros, CompileToNothingOrToTheirCondition) {
  int guarded ABSL_GUARDED_BY(nothing) = 1;
  EXPECT_TRUE(ABSL_PREDICT_TRUE(guarded == 1));
  EXPECT_FALSE(ABSL_PREDICT_FALSE(guarded == 2));
}

}  // namespace
