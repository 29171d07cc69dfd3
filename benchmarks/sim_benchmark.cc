// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The software CPU: a TLB hit, and walks of four guest levels over four EPT levels. Compare each
// with BM_Calibration of the same run: a chain of dependent loads from the nearest cache.

#include <array>
#include <cstdint>
#include <numeric>

#include "benchmark/benchmark.h"
#include "tests/sim/world.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kGva = 0x7f0000000000;
constexpr int kPages = 32;

// 24 loads, each of which needs the one before: what a 2D walk's references alone would cost.
void BM_Calibration(benchmark::State& state) {
  std::array<uint32_t, 512> next;
  for (uint32_t i = 0; i < next.size(); ++i) next[i] = (i * 5 + 1) % next.size();
  uint32_t at = 0;
  for (auto _ : state) {
    for (int i = 0; i < 24; ++i) at = next[at];
    benchmark::DoNotOptimize(at);
  }
}
BENCHMARK(BM_Calibration);

CpuConfig ConfigOf(const char* caches) {
  CpuConfig config;
  config.caches = *CachePreset(caches);
  return config;
}

// `kPages` consecutive pages, all mapped in both dimensions.
void MapPages(World& world) {
  for (int i = 0; i < kPages; ++i) {
    world.MapEpt(MiB(64) + i * kPageSize, MiB(512) + i * kPageSize);
    world.MapGuest(kGva + i * kPageSize, MiB(64) + i * kPageSize);
  }
  world.Enter();
}

void AccessPages(benchmark::State& state, World& world, AccessKind kind) {
  uint64_t page = 0;
  for (auto _ : state) {
    const AccessResult result = world.cpu().Access(Gva(kGva + page * kPageSize + 64), kind, 8);
    if (!result.ok()) {
      state.SkipWithError("an access failed");
      break;
    }
    benchmark::DoNotOptimize(result);
    page = (page + 7) % kPages;
  }
  const CpuCounters counters = world.cpu().counters();
  state.counters["references"] =
      static_cast<double>(counters.references.total()) / static_cast<double>(counters.accesses());
}

void BM_SimAccess(benchmark::State& state, const char* caches, bool with_oracle) {
  World world(ConfigOf(caches));
  FlushOracle oracle;
  if (with_oracle) world.cpu().SetFlushOracle(&oracle);
  MapPages(world);
  AccessPages(state, world, AccessKind::kLoad);
}
BENCHMARK_CAPTURE(BM_SimAccess, tlb_hit, "skylake", false);
BENCHMARK_CAPTURE(BM_SimAccess, tlb_hit_oracle, "skylake", true);

void BM_SimWalk2D(benchmark::State& state, CacheConfig caches, bool with_oracle) {
  CpuConfig config;
  config.caches = caches;
  World world(config);
  FlushOracle oracle;
  if (with_oracle) world.cpu().SetFlushOracle(&oracle);
  MapPages(world);
  AccessPages(state, world, AccessKind::kLoad);
}
// Returns a preset that walks on every access: without its TLB.
CacheConfig WithoutTlb(const char* preset) {
  CacheConfig caches = *CachePreset(preset);
  caches.tlb = {};
  return caches;
}
BENCHMARK_CAPTURE(BM_SimWalk2D, 4x4_nocache, WithoutTlb("none"), false);
BENCHMARK_CAPTURE(BM_SimWalk2D, 4x4_nocache_oracle, WithoutTlb("none"), true);
BENCHMARK_CAPTURE(BM_SimWalk2D, 4x4_psc, WithoutTlb("psc"), false);
BENCHMARK_CAPTURE(BM_SimWalk2D, 4x4_psc_oracle, WithoutTlb("psc"), true);
BENCHMARK_CAPTURE(BM_SimWalk2D, 4x4_nested, WithoutTlb("nested"), false);
BENCHMARK_CAPTURE(BM_SimWalk2D, 4x4_nested_oracle, WithoutTlb("nested"), true);

// INVEPT of one root with a full TLB.
void BM_SimInvept(benchmark::State& state) {
  World world;
  MapPages(world);
  for (auto _ : state) {
    world.cpu().InveptSingle(world.eptp());
    benchmark::DoNotOptimize(world.cpu().Access(Gva(kGva), AccessKind::kLoad));
  }
}
BENCHMARK(BM_SimInvept);

}  // namespace
}  // namespace tdp::sim
