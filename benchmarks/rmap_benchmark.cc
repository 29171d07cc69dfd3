// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The reverse map by itself: lists of 1, 16 and 128 entries, and the histogram of a guest of 6 GiB
// that forked its processes, by size of the descriptor.

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "benchmark/benchmark.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/floors.h"
#include "tdp/rmap/rmap_list.h"

namespace tdp::bench {
namespace {

// Entries in tables of 4 KiB, and beside each table a page with the places of its entries.
class Tables {
 public:
  explicit Tables(uint64_t entries)
      : entries_(Round(entries)), memory_(Allocate(entries_)), places_(Allocate(entries_)) {}

  uint64_t* entry(uint64_t i) { return memory_.get() + i; }
  uint64_t size() const { return entries_; }

  struct Places {
    RmapPlace& operator()(uint64_t* entry) const {
      return reinterpret_cast<RmapPlace*>(places)[entry - first];
    }
    uint64_t* first;
    uint64_t* places;
  };
  Places places() { return {memory_.get(), places_.get()}; }

 private:
  struct Free {
    void operator()(uint64_t* memory) const { std::free(memory); }
  };
  using Memory = std::unique_ptr<uint64_t, Free>;

  static uint64_t Round(uint64_t entries) { return (entries + 511) / 512 * 512; }
  static Memory Allocate(uint64_t entries) {
    auto* memory = static_cast<uint64_t*>(std::aligned_alloc(4096, entries * sizeof(uint64_t)));
    std::fill_n(memory, entries, 0);
    return Memory(memory);
  }

  const uint64_t entries_;
  Memory memory_;
  Memory places_;
};

// `kLists` lists of `length` entries each, which are spread over the tables as the entries that map
// one frame are: each in a table of its own.
template <int kN>
class Lists {
 public:
  using List = RmapList<Tables::Places, kN>;
  static constexpr uint64_t kLists = 256;

  explicit Lists(uint64_t length)
      : length_(length), tables_(kLists * length), heads_(kLists), order_(length) {
    std::iota(order_.begin(), order_.end(), 0);
  }
  ~Lists() { Clear(); }

  void Fill() {
    for (uint64_t list = 0; list < kLists; ++list) {
      for (uint64_t i = 0; i < length_; ++i) Add(list, i);
    }
  }
  void Add(uint64_t list, uint64_t i) {
    TDP_CHECK(cache_.Refill(List::kDescriptorsPerAdd).ok());
    List::Add(heads_[list], EntryOf(list, i), tables_.places(), cache_);
  }
  void Remove(uint64_t list, uint64_t i) {
    List::Remove(heads_[list], EntryOf(list, i), tables_.places(), cache_);
  }
  void Clear() {
    for (RmapHead& head : heads_) List::Clear(head, cache_, [](uint64_t*) {});
  }
  uint64_t Sum() const {
    uint64_t sum = 0;
    for (const RmapHead& head : heads_) {
      List::ForEach(head,
                    [&sum](const uint64_t* entry) { sum += reinterpret_cast<uintptr_t>(entry); });
    }
    return sum;
  }
  // Returns the order in which entries of a list are removed, shuffled anew.
  const std::vector<uint64_t>& ShuffledOrder() {
    std::shuffle(order_.begin(), order_.end(), random_);
    return order_;
  }
  uint64_t items() const { return kLists * length_; }

 private:
  uint64_t* EntryOf(uint64_t list, uint64_t i) { return tables_.entry(i * kLists + list); }

  const uint64_t length_;
  Tables tables_;
  std::vector<RmapHead> heads_;
  std::vector<uint64_t> order_;
  std::mt19937_64 random_{1};
  DescriptorPool pool_{sizeof(typename List::Descriptor)};
  DescriptorCache cache_{pool_};
};

void BM_PteListAdd(benchmark::State& state) {
  Lists<kRmapDescriptorEntries> lists(static_cast<uint64_t>(state.range(0)));
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    watch.Start();
    lists.Fill();
    watch.Stop();
    items += lists.items();
    state.PauseTiming();
    lists.Clear();
    state.ResumeTiming();
  }
  Report(state, watch, items, Floor::kWalkCasSequential);
}
BENCHMARK(BM_PteListAdd)->Arg(1)->Arg(16)->Arg(128);

void BM_PteListRemoveRandom(benchmark::State& state) {
  Lists<kRmapDescriptorEntries> lists(static_cast<uint64_t>(state.range(0)));
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    state.PauseTiming();
    lists.Fill();
    const std::vector<uint64_t>& order = lists.ShuffledOrder();
    state.ResumeTiming();
    watch.Start();
    for (uint64_t list = 0; list < lists.kLists; ++list) {
      for (const uint64_t i : order) lists.Remove(list, i);
    }
    watch.Stop();
    items += lists.items();
  }
  Report(state, watch, items, Floor::kWalkCasSequential);
}
BENCHMARK(BM_PteListRemoveRandom)->Arg(1)->Arg(16)->Arg(128);

void BM_PteListIterate(benchmark::State& state) {
  Lists<kRmapDescriptorEntries> lists(static_cast<uint64_t>(state.range(0)));
  lists.Fill();
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    watch.Start();
    benchmark::DoNotOptimize(lists.Sum());
    watch.Stop();
    items += lists.items();
  }
  Report(state, watch, items, Floor::kWalkCasSequential);
}
BENCHMARK(BM_PteListIterate)->Arg(128);

// The list of the textbook (Linux until 2021): descriptors without a count, whose entries are found
// by looking at them one after the other.
template <int kN>
class TextbookList {
 public:
  struct alignas(std::bit_ceil((kN + 1) * sizeof(uint64_t))) Descriptor {
    uint64_t* entries[kN] = {};
    Descriptor* more = nullptr;
  };

  static void Add(RmapHead& head, uint64_t* entry, const Tables::Places&, DescriptorCache& cache) {
    if (head.is_empty()) {
      head = RmapHead::Single(entry);
    } else if (head.is_single()) {
      auto* first = new (cache.Pop()) Descriptor;
      first->entries[0] = head.single();
      first->entries[1] = entry;
      head = RmapHead::Chain(first);
    } else {
      auto* at = static_cast<Descriptor*>(head.chain());
      while (at->entries[kN - 1] != nullptr && at->more != nullptr) at = at->more;
      if (at->entries[kN - 1] != nullptr) at = at->more = new (cache.Pop()) Descriptor;
      *std::find(at->entries, at->entries + kN, nullptr) = entry;
    }
  }

  static void Remove(RmapHead& head, uint64_t* entry, const Tables::Places&,
                     DescriptorCache& cache) {
    if (head.is_single()) {
      head = RmapHead();
      return;
    }
    Descriptor* previous = nullptr;
    for (auto* at = static_cast<Descriptor*>(head.chain());; previous = at, at = at->more) {
      uint64_t** hole = std::find(at->entries, at->entries + kN, entry);
      if (hole == at->entries + kN) continue;
      uint64_t** end = std::find(hole, at->entries + kN, nullptr);
      *hole = end[-1];
      end[-1] = nullptr;
      if (at->entries[0] == nullptr) Unlink(head, previous, at, cache);
      return;
    }
  }

 private:
  static void Unlink(RmapHead& head, Descriptor* previous, Descriptor* at, DescriptorCache& cache) {
    if (previous != nullptr) {
      previous->more = at->more;
    } else {
      head = at->more == nullptr ? RmapHead() : RmapHead::Chain(at->more);
    }
    cache.Push(at);
  }
};

// How many frames have how many entries, as KVM's rmap histogram of 4 KiB pages counted it in a
// guest of 6 GiB that forked 500 processes.
struct Bin {
  uint64_t frames;
  uint64_t least;
  uint64_t most;
};
constexpr uint64_t kEmptyFrames = 3'089'171;
constexpr Bin kHistogram[] = {
    {49'005, 1, 1}, {14'016, 2, 3}, {1'363, 4, 7}, {235, 8, 15},
    {212, 16, 31},  {15, 32, 63},   {7, 64, 127},
};

struct Mapping {
  uint32_t frame;
  uint32_t entry;
};

// One mapping of every frame of the histogram, in the order in which forks would make them: every
// frame's first, then every second, …; frames are spread over the guest.
std::vector<Mapping> HistogramMappings() {
  std::mt19937_64 random(1);
  std::vector<uint64_t> counts;
  for (const Bin& bin : kHistogram) {
    for (uint64_t i = 0; i < bin.frames; ++i) {
      counts.push_back(bin.least + random() % (bin.most - bin.least + 1));
    }
  }
  counts.resize(counts.size() + kEmptyFrames);
  std::shuffle(counts.begin(), counts.end(), random);
  std::vector<Mapping> mappings;
  for (uint64_t round = 0; round < 128; ++round) {
    for (uint64_t frame = 0; frame < counts.size(); ++frame) {
      if (counts[frame] > round) {
        mappings.push_back({static_cast<uint32_t>(frame), static_cast<uint32_t>(mappings.size())});
      }
    }
  }
  return mappings;
}

// Builds the histogram and takes it down again in random order.
template <typename List>
void BM_RmapHistogram(benchmark::State& state) {
  static const auto* mappings = new std::vector<Mapping>(HistogramMappings());
  std::vector<Mapping> removals = *mappings;
  std::shuffle(removals.begin(), removals.end(), std::mt19937_64(2));
  Tables tables(mappings->size());
  std::vector<RmapHead> heads(kEmptyFrames + 100'000);
  DescriptorPool pool(sizeof(typename List::Descriptor));
  DescriptorCache cache(pool);
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    watch.Start();
    for (const Mapping& mapping : *mappings) {
      TDP_CHECK(cache.Refill(1).ok());
      List::Add(heads[mapping.frame], tables.entry(mapping.entry), tables.places(), cache);
    }
    const double descriptors = static_cast<double>(pool.taken());
    for (const Mapping& mapping : removals) {
      List::Remove(heads[mapping.frame], tables.entry(mapping.entry), tables.places(), cache);
    }
    watch.Stop();
    items += mappings->size();
    state.counters["descriptor_KiB"] =
        descriptors * sizeof(typename List::Descriptor) / double{KiB(1)};
  }
  Report(state, watch, items, Floor::kWalkCasRandom);
}
template <int kN>
using Ours = RmapList<Tables::Places, kN>;

BENCHMARK_TEMPLATE(BM_RmapHistogram, TextbookList<3>);
BENCHMARK_TEMPLATE(BM_RmapHistogram, TextbookList<15>);
BENCHMARK_TEMPLATE(BM_RmapHistogram, Ours<3>);
BENCHMARK_TEMPLATE(BM_RmapHistogram, Ours<7>);
BENCHMARK_TEMPLATE(BM_RmapHistogram, Ours<14>);
BENCHMARK_TEMPLATE(BM_RmapHistogram, Ours<15>);

}  // namespace
}  // namespace tdp::bench
