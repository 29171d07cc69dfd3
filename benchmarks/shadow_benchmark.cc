// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The textbook's MMU: faults and zaps with a reverse map, and walks of the guest's own tables.

#include <cstdint>

#include "benchmark/benchmark.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/floors.h"
#include "tdp/benchmarks/guest.h"
#include "tdp/benchmarks/paged_guest.h"
#include "tdp/mmu/vm.h"

namespace tdp::bench {
namespace {

constexpr ByteCount kGuestSize = GiB(1);

VmOptions WithReverseMap() {
  VmOptions options;
  options.max_leaf_level = kLevel4K;
  options.reverse_map = true;
  return options;
}

void Populate(Guest& guest) {
  for (uint64_t gfn = 0; gfn < guest.pages; ++gfn) guest.Fault(gfn);
}

// Tables are torn down between rounds, so a round also builds 514 of them for its 262,144 leaves.
void BM_DirectRmapFault(benchmark::State& state) {
  Guest guest(kGuestSize, 0, WithReverseMap());
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    watch.Start();
    Populate(guest);
    watch.Stop();
    items += guest.pages;
    state.PauseTiming();
    guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
    state.ResumeTiming();
  }
  Report(state, watch, items, Floor::kWalkCasSequential);
}
BENCHMARK(BM_DirectRmapFault)->Name("BM_DirectRmapFault/sequential")->Unit(benchmark::kMillisecond);

void BM_RmapZap(benchmark::State& state) {
  Guest guest(kGuestSize, 0, WithReverseMap());
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    state.PauseTiming();
    Populate(guest);
    state.ResumeTiming();
    watch.Start();
    guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
    watch.Stop();
    items += guest.pages;
  }
  Report(state, watch, items, Floor::kWalkCasSequential);
}
BENCHMARK(BM_RmapZap)->Unit(benchmark::kMillisecond);

void BM_GvaToGpa(benchmark::State& state) {
  PagedGuest guest;
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    watch.Start();
    for (uint64_t i = 0; i < 512; ++i) {
      benchmark::DoNotOptimize(guest.Walk(Gva(i << kPageShift)));
    }
    watch.Stop();
    items += 512;
  }
  Report(state, watch, items, Floor::kWalkHot);
}
BENCHMARK(BM_GvaToGpa)->Name("BM_GvaToGpa/4level");

void BM_ShadowFault(benchmark::State& state, ShadowedGuest::Frames frames) {
  ShadowedGuest guest(frames);
  for (int round = 0; round < 2; ++round) {
    guest.FaultAll();
    guest.TakePages();
  }
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    state.PauseTiming();
    guest.TakePages();
    state.ResumeTiming();
    watch.Start();
    guest.FaultAll();
    watch.Stop();
    items += ShadowedGuest::kPages;
  }
  Report(state, watch, items, Floor::kWalkCasSequential);
}
BENCHMARK_CAPTURE(BM_ShadowFault, 4level, ShadowedGuest::Frames::kApart)
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_ShadowFault, 4level_in_a_row, ShadowedGuest::Frames::kInARow)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tdp::bench
