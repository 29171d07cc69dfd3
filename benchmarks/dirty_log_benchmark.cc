// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Switching dirty logging on, and taking the log: whole calls, flush and hand-out included. Nothing
// runs in the guest; what a CPU would set in the tables is set by hand, untimed.

#include <bit>
#include <cstdint>
#include <random>

#include "absl/container/flat_hash_set.h"
#include "benchmark/benchmark.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/floors.h"
#include "tdp/benchmarks/guest.h"
#include "tdp/mmu/vm.h"

namespace tdp::bench {
namespace {

constexpr Hva kMemory{TiB(16)};
constexpr auto kWriteToReadOnly =
    ExitQualification::Make(Access::Write(), Access::ReadExecute(), true, true);

MemoryRegion Region(const Guest& guest, uint32_t flags) {
  return {.flags = flags, .gpa = Gpa(0), .size = guest.size, .hva = kMemory};
}

// Plays the CPU: walks to frames, setting A on the way and D, if asked, in the leaf.
class Toucher {
 public:
  explicit Toucher(const Vm& vm) : root_(vm.eptp().root()), level_(vm.eptp().root_level()) {}

  void Touch(Gfn gfn, uint64_t leaf_bits) const {
    uint64_t table = root_.raw();
    for (Level level = level_;; level = level.below()) {
      uint64_t& entry = reinterpret_cast<uint64_t*>(table)[level.IndexOf(gfn)];
      if (level == kLevel4K) {
        entry |= leaf_bits;
        return;
      }
      entry |= ept::kAccessed;
      table = EptEntry(entry).address().raw();
    }
  }

 private:
  const Hpa root_;
  const Level level_;
};

uint64_t Take(Guest& guest) {
  uint64_t pages = 0;
  const absl::Status status = guest.vm->TakeDirtyLog(
      0, [&](uint64_t, uint64_t mask) { pages += static_cast<uint64_t>(std::popcount(mask)); });
  TDP_CHECK(status.ok());
  return pages;
}

// Every `step`-th frame; afterwards no entry has A or D.
void WriteAllAndTake(Guest& guest, const Toucher& cpu, uint64_t step) {
  for (uint64_t gfn = 0; gfn < guest.pages; gfn += step) cpu.Touch(Gfn(gfn), ept::kDirty);
  // The second take looks again where the first one cleared A.
  for (int i = 0; i < 2; ++i) Take(guest);
}

// Switches the log of a slot on, all of it mapped and writable: 4 KiB pages up to 1 GiB, then 2
// MiB.
void BM_EnableDirtyLog(benchmark::State& state, ByteCount size) {
  const bool small = size <= GiB(1);
  Guest guest(size, small ? 0 : 9);
  guest.Populate(small ? 1 : 512);
  const uint64_t top = kLevel512G.pages().raw();
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    TDP_CHECK(guest.vm->SetMemoryRegion(Region(guest, 0)).ok());
    // One write below each of the highest entries gives them their W back.
    for (uint64_t gfn = 0; gfn < guest.pages; gfn += top) {
      TDP_CHECK(guest.vcpu->HandleEptViolation(Gfn(gfn).address(), kWriteToReadOnly).outcome <=
                FaultOutcome::kSpurious);
    }
    state.ResumeTiming();
    watch.Start();
    TDP_CHECK(guest.vm->SetMemoryRegion(Region(guest, kSlotLogDirtyPages)).ok());
    watch.Stop();
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()), Floor::kLockedOp);
}
BENCHMARK_CAPTURE(BM_EnableDirtyLog, 1GiB, GiB(1))->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(BM_EnableDirtyLog, 1TiB, TiB(1))->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(BM_EnableDirtyLog, 4TiB, TiB(4))->Unit(benchmark::kMicrosecond);

// A take from 1 GiB of 4 KiB pages that were all written, or all read: nanoseconds per page.
void BM_HarvestDBits(benchmark::State& state, bool dirty) {
  Guest guest(GiB(1), 0, {.dirty_tracking = DirtyTracking::kDirtyBits, .max_leaf_level = kLevel4K},
              kSlotLogDirtyPages);
  guest.Populate();
  const Toucher cpu(*guest.vm);
  WriteAllAndTake(guest, cpu, 1);
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    for (uint64_t gfn = 0; gfn < guest.pages; ++gfn) cpu.Touch(Gfn(gfn), dirty ? ept::kDirty : 0);
    state.ResumeTiming();
    watch.Start();
    const uint64_t pages = Take(guest);
    watch.Stop();
    TDP_CHECK_EQ(pages, dirty ? guest.pages : 0);
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages,
         dirty ? Floor::kLockedOp : Floor::kStorePerEntry);
}
BENCHMARK_CAPTURE(BM_HarvestDBits, dirty, true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(BM_HarvestDBits, clean, false)->Unit(benchmark::kMicrosecond);

// A take from 1 TiB of which 1000 pages were written, the same ones each time: all that is mapped,
// or, if `is_full`, of a guest in which every 2 MiB has its table of leaves, with one page in it.
void BM_HarvestDBitsSparse(benchmark::State& state, bool is_full) {
  Guest guest(TiB(1), 0, {.dirty_tracking = DirtyTracking::kDirtyBits}, kSlotLogDirtyPages);
  std::mt19937_64 random(5);
  absl::flat_hash_set<uint64_t> touched;
  while (touched.size() < 1000) {
    touched.insert(random() % guest.pages & ~uint64_t{Level::kEntries - 1});
  }
  const Toucher cpu(*guest.vm);
  if (is_full) {
    guest.Populate(Level::kEntries);
    WriteAllAndTake(guest, cpu, Level::kEntries);
  } else {
    for (const uint64_t gfn : touched) guest.Fault(gfn);
    for (int i = 0; i < 2; ++i) Take(guest);
  }
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    for (const uint64_t gfn : touched) cpu.Touch(Gfn(gfn), ept::kDirty);
    state.ResumeTiming();
    watch.Start();
    const uint64_t pages = Take(guest);
    watch.Stop();
    TDP_CHECK_EQ(pages, touched.size());
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()), Floor::kWalkRandom);
}
BENCHMARK_CAPTURE(BM_HarvestDBitsSparse, full, true)
    ->Name("BM_HarvestDBits/sparse")
    ->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(BM_HarvestDBitsSparse, mapped, false)
    ->Name("BM_HarvestDBits/sparse_mapped")
    ->Unit(benchmark::kMicrosecond);

// A take from 1 GiB of 4 KiB pages that were all written, each protected again: per page.
void BM_HarvestBitmap(benchmark::State& state) {
  Guest guest(GiB(1), 0,
              {.dirty_tracking = DirtyTracking::kWriteProtection, .max_leaf_level = kLevel4K},
              kSlotLogDirtyPages);
  guest.Populate();
  Take(guest);
  Stopwatch watch;
  for (auto _ : state) {
    state.PauseTiming();
    for (uint64_t gfn = 0; gfn < guest.pages; ++gfn) {
      TDP_CHECK(guest.vcpu->HandleEptViolation(Gfn(gfn).address(), kWriteToReadOnly).outcome ==
                FaultOutcome::kFixed);
    }
    state.ResumeTiming();
    watch.Start();
    const uint64_t pages = Take(guest);
    watch.Stop();
    TDP_CHECK_EQ(pages, guest.pages);
  }
  Report(state, watch, static_cast<uint64_t>(state.iterations()) * guest.pages, Floor::kLockedOp);
}
BENCHMARK(BM_HarvestBitmap)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tdp::bench
