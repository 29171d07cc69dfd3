// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Looking up what the tables say of a frame.

#include <cstdint>
#include <vector>

#include "benchmark/benchmark.h"
#include "tdp/benchmarks/floors.h"
#include "tdp/benchmarks/guest.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/walker.h"

namespace tdp::bench {
namespace {

void BM_Walk(benchmark::State& state, bool random) {
  Guest guest(GiB(1), 0, {.max_leaf_level = kLevel4K});
  guest.Populate();
  const std::vector<uint32_t> order = Shuffled(guest.pages);
  Stopwatch watch;
  for (auto _ : state) {
    uint64_t sum = 0;
    watch.Start();
    const Walker walker(*guest.vm);
    for (uint64_t i = 0; i < guest.pages; ++i) {
      const Gfn gfn(random ? order[i] : 12345 + (i & 1));
      sum += walker.Walk(gfn).entry.raw();
    }
    watch.Stop();
    benchmark::DoNotOptimize(sum);
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         random ? Floor::kWalkRandom : Floor::kWalkHot);
}
BENCHMARK_CAPTURE(BM_Walk, hot, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Walk, random, true)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tdp::bench
