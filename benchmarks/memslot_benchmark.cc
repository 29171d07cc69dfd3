// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Memory slots, dirty bitmaps and region trees. What changes slots is measured through `Vm`, as an
// embedder pays for it: checks, publication, writer sections and flushes included.

#include <malloc.h>

#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "benchmark/benchmark.h"
#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/floors.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/region.h"
#include "tdp/memslot/region_slots.h"
#include "tdp/memslot/slot_limits.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/memslot/slot_update.h"
#include "tdp/mmu/vm.h"
#include "tdp/tests/memslot/region_machine.h"

namespace tdp {
namespace {

using bench::Floor;
using bench::Stopwatch;

constexpr uint64_t kHva = 0x100000000000;
constexpr uint64_t kSlotPages = 16;
// Slots stand this far apart, so that half of the frames are holes.
constexpr uint64_t kSlotStride = 32;

MemoryRegion SlotAt(uint32_t id, uint64_t gfn) {
  return {.slot = id,
          .gpa = Gfn(gfn).address(),
          .size = kSlotPages * kPageSize,
          .hva = Hva(kHva + id * MiB(1))};
}

void Publish(SlotSet& set, const MemoryRegion& region) {
  absl::StatusOr<SlotUpdate> update = set.Prepare(region);
  TDP_CHECK(update.ok());
  if (update->takes_away()) set.PublishInvalid(*update);
  set.Publish(*std::move(update));
}

std::unique_ptr<SlotSet> SetOf(uint32_t slots) {
  auto set = std::make_unique<SlotSet>(SlotLimits{});
  for (uint32_t id = 0; id < slots; ++id) Publish(*set, SlotAt(id, id * kSlotStride));
  return set;
}

// `body` once per iteration; reports against the locked operation, the floor that varies least.
template <typename Body>
void Measure(benchmark::State& state, uint64_t items_per_iteration, const Body& body) {
  Stopwatch watch;
  watch.Start();
  for (auto _ : state) body();
  watch.Stop();
  bench::Report(state, watch, state.iterations() * items_per_iteration, Floor::kLockedOp);
}

void BM_SlotLookupHit(benchmark::State& state) {
  const auto set = SetOf(512);
  SlotReader reader(*set);
  uint64_t i = 0;
  Measure(state, 1, [&] {
    i = (i + 1) % kSlotPages;
    benchmark::DoNotOptimize(reader.Find(0, Gfn(7 * kSlotStride + i)));
  });
}
BENCHMARK(BM_SlotLookupHit)->Name("BM_SlotLookup/hit");

// Each lookup is of a random frame of a random slot.
void BM_SlotLookupRandom(benchmark::State& state) {
  const auto slots = static_cast<uint32_t>(state.range(0));
  const auto set = SetOf(slots);
  SlotReader reader(*set);
  std::mt19937_64 random(1);
  constexpr size_t kLookups = 1 << 14;
  std::vector<uint64_t> gfns(kLookups);
  for (uint64_t& gfn : gfns) gfn = random() % slots * kSlotStride + random() % kSlotPages;
  size_t i = 0;
  Measure(state, 1, [&] {
    i = (i + 1) % kLookups;
    benchmark::DoNotOptimize(reader.Find(0, Gfn(gfns[i])));
  });
}
BENCHMARK(BM_SlotLookupRandom)->Name("BM_SlotLookup/random")->Arg(32)->Arg(512)->Arg(32764);

class VmWithSlots {
 public:
  // One id is left for the benchmark.
  explicit VmWithSlots(uint32_t slots) : free_id_(slots - 1) {
    absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(backend_);
    TDP_CHECK(vm.ok());
    vm_ = *std::move(vm);
    for (uint32_t id = 0; id < free_id_; ++id) Set(SlotAt(id, id * kSlotStride));
  }

  void Set(const MemoryRegion& region) { TDP_CHECK(vm_->SetMemoryRegion(region).ok()); }
  uint32_t free_id() const { return free_id_; }
  Vm& vm() { return *vm_; }

 private:
  MinimalBackend backend_;
  const uint32_t free_id_;
  std::unique_ptr<Vm> vm_;
};

// A slot between two others comes and goes. An item is a pair of calls.
void BM_SlotCreateDelete(benchmark::State& state) {
  VmWithSlots slots(static_cast<uint32_t>(state.range(0)));
  const MemoryRegion create =
      SlotAt(slots.free_id(), slots.free_id() / 2 * kSlotStride + kSlotPages);
  MemoryRegion remove = create;
  remove.size = 0;
  Measure(state, 1, [&] {
    slots.Set(create);
    slots.Set(remove);
  });
}
BENCHMARK(BM_SlotCreateDelete)->Arg(512)->Arg(32764);

// Does the same in the slot set alone: no locks, no writer section, no flush clock.
void BM_SlotSetCreateDelete(benchmark::State& state) {
  const auto slots = static_cast<uint32_t>(state.range(0));
  const auto set = SetOf(slots - 1);
  const MemoryRegion create = SlotAt(slots - 1, slots / 2 * kSlotStride + kSlotPages);
  MemoryRegion remove = create;
  remove.size = 0;
  Measure(state, 1, [&] {
    Publish(*set, create);
    Publish(*set, remove);
  });
}
BENCHMARK(BM_SlotSetCreateDelete)->Arg(512)->Arg(32764);

// A slot that the guest uses moves, back and forth; between moves a page of it is faulted in.
void BM_SlotMoveActive(benchmark::State& state) {
  VmWithSlots slots(static_cast<uint32_t>(state.range(0)));
  const uint64_t here = slots.free_id() / 2 * kSlotStride + kSlotPages;
  const uint64_t there = slots.free_id() / 4 * kSlotStride + kSlotPages;
  slots.Set(SlotAt(slots.free_id(), here));
  absl::StatusOr<std::unique_ptr<Vcpu>> vcpu = slots.vm().CreateVcpu();
  TDP_CHECK(vcpu.ok());
  uint64_t at = here;
  Measure(state, 1, [&] {
    const FaultResult fault = (*vcpu)->HandleEptViolation(Gfn(at).address(), ExitQualification(2));
    TDP_CHECK(fault.outcome == FaultOutcome::kFixed);
    at = at == here ? there : here;
    slots.Set(SlotAt(slots.free_id(), at));
  });
}
BENCHMARK(BM_SlotMoveActive)->Arg(32764);

// A million changes, one after another: a random slot goes, or comes back at its own place or at
// the one behind. What the set takes beyond its slots must not grow with the changes.
void BM_SlotChurn(benchmark::State& state) {
  constexpr uint64_t kChanges = 1'000'000;
  const auto slots = static_cast<uint32_t>(state.range(0));
  const auto set = SetOf(slots);
  std::vector<bool> is_there(slots, true);
  std::mt19937_64 random(3);
  size_t before = 0;
  Stopwatch watch;
  for (auto _ : state) {
    watch.Start();
    for (uint64_t i = 0; i < kChanges; ++i) {
      // The memory that a first round takes for its nodes is no growth.
      if (i == kChanges / 10) before = mallinfo2().uordblks;
      const auto id = static_cast<uint32_t>(random() % slots);
      MemoryRegion region = SlotAt(id, id * kSlotStride + random() % 2 * kSlotPages);
      if (is_there[id]) region.size = 0;
      is_there[id] = !is_there[id];
      Publish(*set, region);
    }
    watch.Stop();
  }
  const size_t after = mallinfo2().uordblks;
  state.counters["bytes_grown"] = after > before ? static_cast<double>(after - before) : 0;
  bench::Report(state, watch, state.iterations() * kChanges, Floor::kLockedOp);
}
BENCHMARK(BM_SlotChurn)->Arg(512)->Arg(32764)->Iterations(1);

// 1000 dirty pages, spread over the slot, are taken; marking them is not timed.
void BM_DirtyGet(benchmark::State& state, ByteCount slot_size) {
  constexpr uint64_t kDirtyPages = 1000;
  const uint64_t pages = slot_size / kPageSize;
  auto log = DirtyLog::Create(PageCount(pages), DirtyLog::Initial::kClean);
  TDP_CHECK(log.ok());
  std::mt19937_64 random(2);
  std::vector<uint64_t> dirty(kDirtyPages);
  for (uint64_t& page : dirty) {
    page = random() % pages;
    TDP_CHECK((*log)->Prepare(page).ok());
  }
  Stopwatch watch;
  uint64_t taken = 0;
  for (auto _ : state) {
    state.PauseTiming();
    for (uint64_t page : dirty) (*log)->Mark(page);
    state.ResumeTiming();
    watch.Start();
    TDP_CHECK((*log)->Take([&](uint64_t, uint64_t mask) { taken ^= mask; }).ok());
    watch.Stop();
  }
  benchmark::DoNotOptimize(taken);
  bench::Report(state, watch, state.iterations(), Floor::kLockedOp);
}
BENCHMARK_CAPTURE(BM_DirtyGet, 1GiB, GiB(1));
BENCHMARK_CAPTURE(BM_DirtyGet, 1TiB, TiB(1));

// One page marked, dirty already or not.
void BM_DirtyMark(benchmark::State& state, bool again) {
  constexpr uint64_t kPages = 32768;
  auto log = DirtyLog::Create(PageCount(kPages), DirtyLog::Initial::kClean);
  TDP_CHECK(log.ok());
  for (uint64_t page = 0; page < kPages; page += DirtyLog::kPagesPerChunk) {
    TDP_CHECK((*log)->Prepare(page).ok());
  }
  Stopwatch watch;
  for (auto _ : state) {
    watch.Start();
    for (uint64_t page = 0; page < kPages; ++page) (*log)->Mark(page);
    watch.Stop();
    if (again) continue;
    state.PauseTiming();
    TDP_CHECK((*log)->Take([](uint64_t, uint64_t) {}).ok());
    state.ResumeTiming();
  }
  bench::Report(state, watch, state.iterations() * kPages, Floor::kLockedOp);
}
BENCHMARK_CAPTURE(BM_DirtyMark, clean, false);
BENCHMARK_CAPTURE(BM_DirtyMark, dirty, true);

// A PC's SMRAM is shown and hidden: two slots become one and are two again. An item is one commit.
void BM_RegionCommit(benchmark::State& state) {
  RegionTree tree;
  Pc pc(tree);
  MinimalBackend backend;
  absl::StatusOr<std::unique_ptr<Vm>> vm = Vm::Create(backend);
  TDP_CHECK(vm.ok());
  RegionSlots slots(&tree, pc.system, vm->get());
  TDP_CHECK(slots.OnRegionsChanged().ok());
  bool shown = false;
  Measure(state, 1, [&] {
    shown = !shown;
    TDP_CHECK(tree.SetEnabled(pc.smram, shown).ok());
  });
}
BENCHMARK(BM_RegionCommit)->Name("BM_RegionCommit/pc");

}  // namespace
}  // namespace tdp
