// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The textbook's MMU: faults and zaps with a reverse map, and walks of the guest's own tables.

#include <cstdint>
#include <cstdlib>
#include <memory>

#include "benchmark/benchmark.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/floors.h"
#include "tdp/benchmarks/guest.h"
#include "tdp/mmu/guest/guest_walker.h"
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

// A guest whose memory is real, with 4-level tables in its first frames.
class PagedGuest {
 public:
  PagedGuest() {
    TDP_CHECK(
        vm_->SetMemoryRegion({.size = kSize, .hva = Hva(reinterpret_cast<uintptr_t>(ram_.get()))})
            .ok());
    for (uint64_t level = 0; level < 3; ++level) {
      *Entry(level * 512) = (level + 1) << kPageShift | kFlags;
    }
    for (uint64_t i = 0; i < 512; ++i) *Entry(3 * 512 + i) = (i + 4) << kPageShift | kFlags;
  }

  Gpa Walk(Gva gva) {
    GuestWalk walk;
    TDP_CHECK(vcpu_->WalkGuest(paging_, roots_, gva, GuestAccess::Read(), walk).ok());
    return walk.gpa;
  }

 private:
  static constexpr ByteCount kSize = MiB(4);
  static constexpr uint64_t kFlags =
      guest::kPresent | guest::kWrite | guest::kUser | guest::kAccessed;
  struct Free {
    void operator()(uint64_t* memory) const { std::free(memory); }
  };
  uint64_t* Entry(uint64_t index) { return ram_.get() + index; }

  std::unique_ptr<uint64_t, Free> ram_{
      static_cast<uint64_t*>(std::aligned_alloc(kPageSize, kSize))};
  MinimalBackend host_;
  std::unique_ptr<Vm> vm_ = *Vm::Create(host_);
  std::unique_ptr<Vcpu> vcpu_ = *vm_->CreateVcpu();
  const GuestPaging paging_{GuestControls{.cr0 = guest::kCr0Paging,
                                          .cr4 = guest::kCr4PhysicalAddressExtension,
                                          .efer = guest::kEferLongModeActive}};
  const GuestRoots roots_;
};

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

// A guest in 4-level paging on shadow tables: a page for each frame of its upper half. The tables
// of leaves stand in the lower half and are shadowed from the first round on; between rounds the
// host takes the pages away, so that a round walks the guest's tables and sets each leaf anew.
class ShadowedGuest {
 public:
  ShadowedGuest() {
    TDP_CHECK(vm_->SetMemoryRegion(
                     {.size = 2 * kHalf, .hva = Hva(reinterpret_cast<uintptr_t>(ram_.get()))})
                  .ok());
    *Entry(kTop) = (kTop + 1) << kPageShift | kFlags;
    *Entry(kTop + 1) = (kTop + 2) << kPageShift | kFlags;
    for (uint64_t i = 0; i < kPages; ++i) {
      Entry(i / 512)[i % 512] = (kPages + i) << kPageShift | kFlags;
      Entry(kTop + 2)[i / 512] = (i / 512) << kPageShift | kFlags;
    }
    const GuestControls controls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                 .cr4 = guest::kCr4PhysicalAddressExtension,
                                 .efer = guest::kEferLongModeActive};
    TDP_CHECK(vcpu_->shadow()->SetPaging(controls, kTop << kPageShift).ok());
  }

  void FaultAll() {
    for (uint64_t i = 0; i < kPages; ++i) {
      const auto result =
          vcpu_->shadow()->HandlePageFault(Gva(i << kPageShift), guest::kFaultWrite);
      TDP_CHECK(result.outcome == PagingOutcome::kFixed);
    }
  }
  void TakePages() {
    const Hva pages(reinterpret_cast<uintptr_t>(ram_.get()) + kHalf);
    TDP_CHECK(vm_->InvalidateHostRange(pages, kHalf).ok());
  }

  static constexpr ByteCount kHalf = MiB(128);
  static constexpr uint64_t kPages = kHalf >> kPageShift;

 private:
  static constexpr uint64_t kTop = 1024;  // the frame of the root
  static constexpr uint64_t kFlags =
      guest::kPresent | guest::kWrite | guest::kUser | guest::kAccessed | guest::kDirty;
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  uint64_t* Entry(uint64_t frame) {
    return reinterpret_cast<uint64_t*>(ram_.get() + (frame << kPageShift));
  }

  std::unique_ptr<std::byte, Free> ram_{
      static_cast<std::byte*>(std::aligned_alloc(kPageSize, 2 * kHalf))};
  MinimalBackend host_;
  std::unique_ptr<Vm> vm_ = *Vm::Create(host_, {.paging = Paging::kShadow});
  std::unique_ptr<Vcpu> vcpu_ = *vm_->CreateVcpu();
};

void BM_ShadowFault(benchmark::State& state) {
  ShadowedGuest guest;
  guest.FaultAll();
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
BENCHMARK(BM_ShadowFault)->Name("BM_ShadowFault/4level")->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace tdp::bench
