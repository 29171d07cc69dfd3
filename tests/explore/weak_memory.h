// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This memory decides what loads may see where the machine is weaker than x86: C++'s release and
// acquire, by the view that each thread has of memory (Kang et al., "A promising semantics", 2017,
// without promises).
//
// Every atomic place has the stores to it in one order. A thread has a view: for each place, the
// oldest store that it may still see. A load may see any store from there on, and moves the view; a
// release store carries the storing thread's view, and an acquiring load of it takes the view over.
// Sequentially consistent operations share one more view. So a store that should have been a
// release, a load that should have acquired, and a missing barrier between a store and a load each
// let some thread see an old value here. What this memory does not do: a load never sees a store
// that is made later, and plain memory is always up to date.

#ifndef TDP_TESTS_EXPLORE_WEAK_MEMORY_H_
#define TDP_TESTS_EXPLORE_WEAK_MEMORY_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "tests/explore/strategy.h"

namespace tdp::explore {

class WeakMemory {
 public:
  // Forgets everything.
  void Clear();

  // Returns how many stores `thread`'s load of `where` may see, which is 1 where it sees the newest
  // alone.
  int Choices(int thread, const void* where, uint64_t newest, std::memory_order order);
  // Loads from the store that is `age` older than the newest, below `Choices`.
  uint64_t Load(int thread, const void* where, uint64_t newest, std::memory_order order, int age);
  void Store(int thread, const void* where, uint64_t before, uint64_t after,
             std::memory_order order);
  // Makes a read-modify-write, which sees the newest.
  void Update(int thread, const void* where, uint64_t before, uint64_t after,
              std::memory_order order);
  void Forget(const void* where) { places_.erase(where); }

  // Say that the lock of `where` was taken, or is about to be left.
  void Acquire(int thread, const void* where);
  void Release(int thread, const void* where);
  // Says that the thread is told by other means all that any thread has seen.
  void SeeAll(int thread);

 private:
  // Holds the number of a store by place number; 0 where the view is short.
  using View = std::vector<uint32_t>;
  struct Message {
    uint64_t value;
    uint32_t number;
    View view;  // what an acquiring load of it sees from then on
  };
  struct History {
    uint32_t place = 0;
    std::vector<Message> messages;  // by ascending number; the newest last
  };
  static constexpr size_t kMessages = 16;  // older ones are forgotten

  static uint32_t At(const View& view, uint32_t place) {
    return place < view.size() ? view[place] : 0;
  }
  static void Raise(View& view, uint32_t place, uint32_t number);
  static void Join(View& view, const View& other);
  // Returns the stores to `where`, of which the newest has left `value`. Others than the newest are
  // forgotten where plain stores have changed the value since.
  History& Of(const void* where, uint64_t value);
  void Append(History& history, uint64_t value, View view);

  absl::flat_hash_map<const void*, History> places_;
  absl::flat_hash_map<const void*, View> locks_;
  std::array<View, kMaxThreads> views_;
  View sequential_;
  uint32_t next_place_ = 0;
  uint32_t next_number_ = 1;
};

}  // namespace tdp::explore

#endif  // TDP_TESTS_EXPLORE_WEAK_MEMORY_H_
