// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Taking mappings away. Freeing is part of every figure: the flush is settled and the tables come
// back.

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include "benchmark/benchmark.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/floors.h"
#include "tdp/benchmarks/guest.h"
#include "tdp/mmu/vm.h"

namespace tdp::bench {
namespace {

uint64_t NowNs() {
  return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
}

void ReportWriterSection(benchmark::State& state, const Guest& guest, uint64_t before) {
  const uint64_t ns = guest.vm->Stats().writer_section_ns - before;
  state.counters["writer_section_us"] =
      static_cast<double>(ns) / 1000 / static_cast<double>(state.iterations());
}

void BM_ZapRange(benchmark::State& state) {
  Guest guest(GiB(1), 0, {.max_leaf_level = kLevel4K, .section_clock = NowNs});
  Stopwatch watch;
  const uint64_t before = guest.vm->Stats().writer_section_ns;
  for (auto _ : state) {
    state.PauseTiming();
    guest.Populate();
    state.ResumeTiming();
    watch.Start();
    guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         Floor::kWalkCasSequential);
  ReportWriterSection(state, guest, before);
}
BENCHMARK(BM_ZapRange)->Name("BM_ZapRange/1GiB")->Unit(benchmark::kMicrosecond);

// Takes the pages of a populated guest away one by one, each by `take(vm, page)`.
template <typename Take>
void TakePages(benchmark::State& state, Take take) {
  Guest guest(GiB(1), 0, {.max_leaf_level = kLevel4K});
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    guest.Populate();
    state.ResumeTiming();
    watch.Start();
    for (uint64_t page = 0; page < guest.pages; ++page) take(*guest.vm, page);
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         Floor::kWalkCasSequential);
}

void BM_ZapPage(benchmark::State& state) {
  TakePages(state, [](Vm& vm, uint64_t page) { vm.ZapRange(Gfn(page), PageCount(1))->Settle(); });
}
BENCHMARK(BM_ZapPage)->Name("BM_ZapPage/sequential")->Unit(benchmark::kMillisecond);

// Beside vCPUs that have faulted and been in the guest once (idle), or that fault between any two
// zaps, off the clock (running): a writer looks at a line or two of each vCPU that does something.
void BM_ZapPageVcpus(benchmark::State& state) {
  Guest guest(MiB(64), 0, {.max_leaf_level = kLevel4K});
  const bool running = state.range(1) != 0;
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  for (int64_t i = 1; i < state.range(0); ++i) vcpus.push_back(*guest.vm->CreateVcpu());
  const auto use = [&] {
    for (const std::unique_ptr<Vcpu>& vcpu : vcpus) {
      guest.Fault(*vcpu, 0);
      vcpu->EnterGuest().Leave();
    }
  };
  guest.Populate();
  use();
  Stopwatch watch;
  uint64_t page = 0;
  for (auto _ : state) {
    state.PauseTiming();
    if (running) use();
    page = page % (guest.pages - 2) + 1;
    guest.Fault(page);
    state.ResumeTiming();
    watch.Start();
    guest.vm->ZapRange(Gfn(page), PageCount(1))->Settle();
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()), Floor::kWalkCasSequential);
}
BENCHMARK(BM_ZapPageVcpus)
    ->Name("BM_ZapPage")
    ->ArgNames({"vcpus", "running"})
    ->ArgsProduct({{1, 64, 256, 1024}, {0, 1}});

// Zaps by host address: the slot is looked for, and the sequence moves twice.
void BM_InvalidateHostPage(benchmark::State& state) {
  TakePages(state, [](Vm& vm, uint64_t page) {
    TDP_CHECK(vm.InvalidateHostRange(Hva(TiB(16) + page * kPageSize), kPageSize).ok());
  });
}
BENCHMARK(BM_InvalidateHostPage)->Unit(benchmark::kMillisecond);

// The cost of the writer's section must not depend on the size; the rest is freeing, off the lock.
// Guests above 1 GiB are mapped by 2 MiB leaves to fit the machine.
void BM_ZapAll(benchmark::State& state) {
  const ByteCount size = GiB(static_cast<uint64_t>(state.range(0)));
  const bool small = size <= GiB(1);
  Guest guest(size, small ? 0 : 9, {.section_clock = NowNs});
  Stopwatch watch;
  const uint64_t before = guest.vm->Stats().writer_section_ns;
  for (auto _ : state) {
    state.PauseTiming();
    guest.Populate(small ? 1 : 512);
    state.ResumeTiming();
    watch.Start();
    guest.vm->ZapAll()->Settle();
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()), Floor::kLockedOp);
  ReportWriterSection(state, guest, before);
}
BENCHMARK(BM_ZapAll)->ArgName("GiB")->Arg(1)->Arg(64)->Arg(1024)->Arg(4096)->Unit(
    benchmark::kMicrosecond);

// Per 2 MiB page; the flush is part of both.
constexpr ByteCount kSplitSize = GiB(4);
constexpr uint64_t kSplitLeaves = kSplitSize / MiB(2);

void BM_Split2M(benchmark::State& state) {
  Guest guest(kSplitSize, 9);
  guest.Populate(512);
  Stopwatch watch;
  for (auto _ : state) {
    watch.Start();
    guest.vm->SplitRange(Gfn(0), PageCount(guest.pages))->Settle();
    watch.Stop();
    state.PauseTiming();
    TDP_CHECK(guest.vm->CollapseRange(Gfn(0), PageCount(guest.pages)).value() == kSplitLeaves);
    state.ResumeTiming();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * kSplitLeaves, Floor::kClearPage);
}
BENCHMARK(BM_Split2M)->Unit(benchmark::kMillisecond);

void BM_Collapse2M(benchmark::State& state) {
  Guest guest(kSplitSize, 9, {.section_clock = NowNs});
  guest.Populate(512);
  Stopwatch watch;
  const uint64_t before = guest.vm->Stats().writer_section_ns;
  for (auto _ : state) {
    state.PauseTiming();
    guest.vm->SplitRange(Gfn(0), PageCount(guest.pages))->Settle();
    state.ResumeTiming();
    watch.Start();
    TDP_CHECK(guest.vm->CollapseRange(Gfn(0), PageCount(guest.pages)).value() == kSplitLeaves);
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * kSplitLeaves, Floor::kClearPage);
  ReportWriterSection(state, guest, before);
}
BENCHMARK(BM_Collapse2M)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tdp::bench
