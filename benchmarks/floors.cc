// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/benchmarks/floors.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

namespace tdp::bench {
namespace {

constexpr uint64_t kPages = (uint64_t{1} << 30) >> 12;
constexpr uint64_t kEntries = 512;

// Tables of four levels over 1 GiB, laid out by hand: one root, one level-3 and one level-2 table,
// and 512 leaf tables. Entries are plain pointers; a leaf holds a frame number.
class PrebuiltTables {
 public:
  PrebuiltTables() : memory_(static_cast<uint64_t*>(std::aligned_alloc(4096, kTables * 4096))) {
    std::memset(memory_, 0, kTables * 4096);
    table(0)[0] = Address(1);
    table(1)[0] = Address(2);
    for (uint64_t i = 0; i < kEntries; ++i) {
      table(2)[i] = Address(3 + i);
      for (uint64_t j = 0; j < kEntries; ++j) table(3 + i)[j] = i << 9 | j;
    }
  }
  ~PrebuiltTables() { std::free(memory_); }
  PrebuiltTables(const PrebuiltTables&) = delete;
  PrebuiltTables& operator=(const PrebuiltTables&) = delete;

  // Three dependent loads; the fourth is the caller's, of the leaf.
  std::atomic<uint64_t>* Leaf(uint64_t page) const {
    uint64_t at = reinterpret_cast<uintptr_t>(memory_);
    for (int shift = 27; shift > 0; shift -= 9) {
      at = std::atomic_ref<uint64_t>(reinterpret_cast<uint64_t*>(at)[page >> shift & 511])
               .load(std::memory_order_acquire);
    }
    return reinterpret_cast<std::atomic<uint64_t>*>(reinterpret_cast<uint64_t*>(at) + (page & 511));
  }

 private:
  static constexpr uint64_t kTables = 3 + kEntries;
  uint64_t* table(uint64_t i) { return memory_ + i * kEntries; }
  uint64_t Address(uint64_t i) { return reinterpret_cast<uintptr_t>(table(i)); }

  uint64_t* memory_;
};

PrebuiltTables& Tables() {
  static PrebuiltTables* tables = new PrebuiltTables;
  return *tables;
}

const std::vector<uint32_t>& RandomPages() {
  static const auto* pages = [] {
    auto* order = new std::vector<uint32_t>(kPages);
    for (uint32_t i = 0; i < kPages; ++i) (*order)[i] = i;
    std::shuffle(order->begin(), order->end(), std::mt19937_64(1));
    return order;
  }();
  return *pages;
}

template <typename PageOf>
void Walk(uint64_t n, PageOf page_of) {
  uint64_t sum = 0;
  for (uint64_t i = 0; i < n; ++i)
    sum += Tables().Leaf(page_of(i))->load(std::memory_order_acquire);
  benchmark::DoNotOptimize(sum);
}

template <typename PageOf>
void WalkCas(uint64_t n, PageOf page_of) {
  for (uint64_t i = 0; i < n; ++i) {
    std::atomic<uint64_t>* leaf = Tables().Leaf(page_of(i));
    uint64_t old = leaf->load(std::memory_order_acquire);
    leaf->compare_exchange_strong(old, old ^ uint64_t{1} << 40, std::memory_order_acq_rel);
  }
}

void StoreEntries(uint64_t n) {
  static auto* table = static_cast<uint64_t*>(std::aligned_alloc(4096, 4096));
  for (uint64_t done = 0; done < n; done += kEntries) {
    for (uint64_t i = 0; i < kEntries; ++i) {
      std::atomic_ref<uint64_t>(table[i]).store(done + i, std::memory_order_relaxed);
    }
    benchmark::ClobberMemory();
  }
}

void ClearPages(uint64_t n) {
  static auto* pages = static_cast<char*>(std::aligned_alloc(4096, 512 * 4096));
  for (uint64_t i = 0; i < n; ++i) {
    std::memset(pages + i % 512 * 4096, 0, 4096);
    benchmark::ClobberMemory();
  }
}

void LockedOps(uint64_t n) {
  alignas(64) static std::atomic<uint64_t> word{0};
  for (uint64_t i = 0; i < n; ++i) word.fetch_add(1, std::memory_order_seq_cst);
}

void Run(Floor floor, uint64_t n) {
  const uint32_t* random = RandomPages().data();
  const auto in_order = [](uint64_t i) { return i % kPages; };
  const auto at_random = [random](uint64_t i) { return uint64_t{random[i % kPages]}; };
  switch (floor) {
    case Floor::kWalkHot:
      return Walk(n, [](uint64_t i) { return 12345 + (i & 1); });
    case Floor::kWalkRandom:
      return Walk(n, at_random);
    case Floor::kWalkCasSequential:
      return WalkCas(n, in_order);
    case Floor::kWalkCasRandom:
      return WalkCas(n, at_random);
    case Floor::kStorePerEntry:
      return StoreEntries(n);
    case Floor::kClearPage:
      return ClearPages(n);
    case Floor::kLockedOp:
      return LockedOps(n);
  }
}

double Measure(Floor floor) {
  constexpr uint64_t kItems = kPages;  // a whole pass, a few milliseconds
  std::array<double, 9> rounds;
  Run(floor, kItems);  // warm
  for (double& ns : rounds) {
    Stopwatch watch;
    watch.Start();
    Run(floor, kItems);
    watch.Stop();
    ns = watch.ns() / static_cast<double>(kItems);
  }
  std::nth_element(rounds.begin(), rounds.begin() + rounds.size() / 2, rounds.end());
  return rounds[rounds.size() / 2];
}

void BM_Floor(benchmark::State& state, Floor floor) {
  for (auto _ : state) Run(floor, kPages);
  state.SetItemsProcessed(state.iterations() * static_cast<int64_t>(kPages));
  state.counters["ns_per_item"] = FloorNs(floor);
}

BENCHMARK_CAPTURE(BM_Floor, walk_hot, Floor::kWalkHot)->Name("BM_FloorWalk/hot");
BENCHMARK_CAPTURE(BM_Floor, walk_random, Floor::kWalkRandom)->Name("BM_FloorWalk/random");
BENCHMARK_CAPTURE(BM_Floor, cas_sequential, Floor::kWalkCasSequential)
    ->Name("BM_FloorWalkCas/sequential");
BENCHMARK_CAPTURE(BM_Floor, cas_random, Floor::kWalkCasRandom)->Name("BM_FloorWalkCas/random");
BENCHMARK_CAPTURE(BM_Floor, StorePerEntry, Floor::kStorePerEntry)->Name("BM_FloorStorePerEntry");
BENCHMARK_CAPTURE(BM_Floor, ClearPage, Floor::kClearPage)->Name("BM_FloorClearPage");
BENCHMARK_CAPTURE(BM_Floor, LockedOp, Floor::kLockedOp)->Name("BM_FloorLockedOp");

}  // namespace

double FloorNs(Floor floor) {
  static std::array<double, 7> known = {};
  double& ns = known[static_cast<size_t>(floor)];
  if (ns == 0) ns = Measure(floor);
  return ns;
}

void Report(benchmark::State& state, const Stopwatch& watch, uint64_t items, Floor floor) {
  const double ns = watch.ns() / static_cast<double>(items);
  state.SetItemsProcessed(static_cast<int64_t>(items));
  state.counters["ns_per_item"] = ns;
  state.counters["x_floor"] = ns / FloorNs(floor);
}

}  // namespace tdp::bench
