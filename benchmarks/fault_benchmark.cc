// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The fault path, whole: exit qualification in, entry in the tables.

#include <algorithm>
#include <barrier>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "benchmark/benchmark.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/floors.h"
#include "tdp/benchmarks/guest.h"
#include "tdp/mmu/format/table_page.h"
#include "tdp/mmu/vm.h"

namespace tdp::bench {
namespace {

constexpr ByteCount kGuestSize = GiB(1);
constexpr auto kWriteToReadOnly =
    ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true);

// The order in which a benchmark touches its frames: in order, or shuffled.
class Frames {
 public:
  Frames(uint64_t n, bool random) : n_(n) {
    if (random) order_ = Shuffled(n);
  }
  template <typename Visit>
  void ForEach(Visit visit) const {
    if (order_.empty()) {
      for (uint64_t i = 0; i < n_; ++i) visit(i);
    } else {
      for (const uint32_t i : order_) visit(uint64_t{i});
    }
  }

 private:
  uint64_t n_;
  std::vector<uint32_t> order_;
};

// Table and metadata bytes of a mapped 4 KiB page. The few tables that wait in the vCPU's cache are
// not of any page.
void ReportTableBytes(benchmark::State& state, const Guest& guest) {
  const double tables = static_cast<double>(guest.CountTables());
  const double bytes = tables * (kPageSize + static_cast<double>(kPageSize) / kTablesPerBlock);
  state.counters["bytes_per_page"] = bytes / static_cast<double>(guest.pages);
}

void BM_Fault(benchmark::State& state, bool random) {
  Guest guest(kGuestSize, 0, {.max_leaf_level = kLevel4K});
  const Frames frames(guest.pages, random);
  guest.Populate();
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    guest.ClearLeaves();
    state.ResumeTiming();
    watch.Start();
    frames.ForEach([&](uint64_t gfn) { guest.Fault(gfn); });
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         random ? Floor::kWalkCasRandom : Floor::kWalkCasSequential);
  ReportTableBytes(state, guest);
}
BENCHMARK_CAPTURE(BM_Fault, sequential, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_Fault, random, true)->Unit(benchmark::kMillisecond);

void BM_FaultColdTables(benchmark::State& state) {
  Guest guest(kGuestSize, 0, {.max_leaf_level = kLevel4K});
  guest.Populate();
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
    state.ResumeTiming();
    watch.Start();
    guest.Populate();
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         Floor::kWalkCasSequential);
}
BENCHMARK(BM_FaultColdTables)->Name("BM_FaultColdTables/sequential")->Unit(benchmark::kMillisecond);

// Maps by range, into tables that are made on the way.
void BM_Prefault(benchmark::State& state) {
  Guest guest(kGuestSize, 0, {.max_leaf_level = kLevel4K});
  guest.Populate();
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    guest.vm->ZapRange(Gfn(0), PageCount(guest.pages))->Settle();
    state.ResumeTiming();
    watch.Start();
    TDP_CHECK(guest.vcpu->Prefault(Gpa(0), guest.size).value() == guest.size);
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         Floor::kStorePerEntry);
}
BENCHMARK(BM_Prefault)->Unit(benchmark::kMillisecond);

void BM_Fault2M(benchmark::State& state) {
  Guest guest(GiB(64), 9);
  const uint64_t leaves = guest.pages / 512;
  guest.Populate(512);
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    guest.ClearLeaves();
    state.ResumeTiming();
    watch.Start();
    guest.Populate(512);
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * leaves,
         Floor::kWalkCasSequential);
}
BENCHMARK(BM_Fault2M)->Unit(benchmark::kMillisecond);

// Maps all of a machine to itself at once, in a slot of host frames; the `Vm` is made anew each
// time, outside of the measured part.
void BM_PopulateIdentity(benchmark::State& state) {
  constexpr ByteCount kAll = GiB(512);
  ArithmeticHost host(0);
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    std::unique_ptr<Vm> vm = *Vm::Create(host);
    TDP_CHECK(vm->SetMemoryRegion({.flags = kSlotHostFrames, .gpa = Gpa(0), .size = kAll}).ok());
    state.ResumeTiming();
    watch.Start();
    TDP_CHECK(*vm->Populate(Gpa(0), kAll) == kAll);
    watch.Stop();
    state.PauseTiming();
    TDP_CHECK(vm->Stats().table_bytes_reserved == kTableBlockBytes);
    vm.reset();
    state.ResumeTiming();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * (kAll / GiB(1)),
         Floor::kStorePerEntry);
}
BENCHMARK(BM_PopulateIdentity)->Name("BM_Populate/identity_512GiB")->Unit(benchmark::kMicrosecond);

void BM_FaultSpurious(benchmark::State& state, bool random) {
  Guest guest(kGuestSize, 0, {.max_leaf_level = kLevel4K});
  guest.Populate();
  const Frames frames(guest.pages, random);
  Stopwatch watch;
  for (auto _ : state) {
    watch.Start();
    frames.ForEach([&](uint64_t gfn) { guest.Fault(random ? gfn : 12345 + (gfn & 1)); });
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         random ? Floor::kWalkCasRandom : Floor::kWalkCasSequential);
}
BENCHMARK_CAPTURE(BM_FaultSpurious, hot, false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_FaultSpurious, random, true)->Unit(benchmark::kMillisecond);

// A write to a page whose W was taken by dirty logging.
void BM_FaultWriteUnprotect(benchmark::State& state) {
  Guest guest(kGuestSize, 0,
              {.dirty_tracking = DirtyTracking::kWriteProtection, .max_leaf_level = kLevel4K},
              kSlotLogDirtyPages);
  guest.Populate();
  const MemoryRegion logged{
      .flags = kSlotLogDirtyPages, .gpa = Gpa(0), .size = guest.size, .hva = Hva(TiB(16))};
  MemoryRegion plain = logged;
  plain.flags = 0;
  // One write a table first: what is measured is the page, not the push of the protection down to
  // it.
  const auto write = [&](uint64_t gfn) {
    const FaultResult result = guest.vcpu->HandleEptViolation(Gfn(gfn).address(), kWriteToReadOnly);
    TDP_CHECK(result.outcome == FaultOutcome::kFixed);
  };
  Stopwatch watch;
  uint64_t items = 0;
  for (auto _ : state) {
    state.PauseTiming();
    TDP_CHECK(guest.vm->SetMemoryRegion(plain).ok());
    TDP_CHECK(guest.vm->SetMemoryRegion(logged).ok());
    for (uint64_t gfn = 0; gfn < guest.pages; gfn += 512) write(gfn);
    state.ResumeTiming();
    watch.Start();
    for (uint64_t table = 0; table < guest.pages; table += 512) {
      for (uint64_t i = 1; i < 512; ++i) write(table + i);
    }
    watch.Stop();
    items += guest.pages / 512 * 511;
  }
  Report(state, watch, items, Floor::kWalkCasSequential);
}
BENCHMARK(BM_FaultWriteUnprotect)->Unit(benchmark::kMillisecond);

// `threads` vCPUs fault in their own shares of one guest at the same time; the time is the wall's.
void BM_FaultThreads(benchmark::State& state) {
  const auto threads = static_cast<uint64_t>(state.range(0));
  Guest guest(GiB(1) * threads, 0, {.max_leaf_level = kLevel4K});
  std::vector<std::unique_ptr<Vcpu>> vcpus;
  for (uint64_t i = 0; i < threads; ++i) vcpus.push_back(*guest.vm->CreateVcpu());
  guest.Populate();
  const uint64_t share = guest.pages / threads;
  // Each vCPU times itself, from the moment when all are there; the slowest counts. A thread that
  // waited for the others would be late to see them begin.
  Stopwatch watch(Stopwatch::By::kWall);
  for (auto _ : state) {
    guest.ClearLeaves();
    std::barrier together(static_cast<std::ptrdiff_t>(threads));
    std::vector<Stopwatch> watches(threads, Stopwatch(Stopwatch::By::kWall));
    std::vector<std::thread> workers;
    for (uint64_t i = 0; i < threads; ++i) {
      workers.emplace_back([&, i] {
        together.arrive_and_wait();
        watches[i].Start();
        for (uint64_t gfn = i * share; gfn < (i + 1) * share; ++gfn) guest.Fault(*vcpus[i], gfn);
        watches[i].Stop();
      });
    }
    for (std::thread& worker : workers) worker.join();
    watch.Add(
        *std::max_element(watches.begin(), watches.end(),
                          [](const Stopwatch& a, const Stopwatch& b) { return a.ns() < b.ns(); }));
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         Floor::kWalkCasSequential);
}
BENCHMARK(BM_FaultThreads)->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tdp::bench
