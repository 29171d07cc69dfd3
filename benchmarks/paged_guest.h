// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Guests for benchmarks that have page tables of their own, in memory that is real.

#ifndef TDP_BENCHMARKS_PAGED_GUEST_H_
#define TDP_BENCHMARKS_PAGED_GUEST_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "tdp/backends/minimal/minimal_backend.h"
#include "tdp/base/check.h"
#include "tdp/benchmarks/guest.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/guest/guest_walker.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vm.h"

namespace tdp::bench {

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

// A guest in 4-level paging on shadow tables: a page for each frame of its upper half. The tables
// of leaves stand in the lower half and are shadowed from the first round on; between rounds the
// host takes the pages away, so that a round walks the guest's tables and sets each leaf anew.
class ShadowedGuest {
 public:
  // Says how the guest's table maps the frames: each beside the one before, so that a fault brings
  // its neighbours with it, or as far apart as there are pages that a fault fills in.
  enum class Frames { kInARow, kApart };

  explicit ShadowedGuest(Frames frames) : frames_(frames) {
    TDP_CHECK(vm_->SetMemoryRegion(
                     {.size = 2 * kHalf, .hva = Hva(reinterpret_cast<uintptr_t>(ram_.get()))})
                  .ok());
    *Entry(kTop) = (kTop + 1) << kPageShift | kFlags;
    *Entry(kTop + 1) = (kTop + 2) << kPageShift | kFlags;
    for (uint64_t i = 0; i < kPages; ++i) {
      Entry(i / 512)[i % 512] = (kPages + FrameOf(i)) << kPageShift | kFlags;
      Entry(kTop + 2)[i / 512] = (i / 512) << kPageShift | kFlags;
    }
    const GuestControls controls{.cr0 = guest::kCr0Paging | guest::kCr0WriteProtect,
                                 .cr4 = guest::kCr4PhysicalAddressExtension,
                                 .efer = guest::kEferLongModeActive};
    TDP_CHECK(vcpu_->shadow()->SetPaging(controls, kTop << kPageShift).ok());
  }

  void Fault(uint64_t i) {
    const auto result = vcpu_->shadow()->HandlePageFault(Gva(i << kPageShift), guest::kFaultWrite);
    TDP_CHECK(result.outcome == PagingOutcome::kFixed);
  }
  // Faults on every page; from the second round on all are there afterwards: the first makes the
  // pages of tables.
  void FaultAll() {
    for (uint64_t i = 0; i < kPages; i += pages_per_fault()) Fault(i);
  }
  uint64_t pages_per_fault() const { return frames_ == Frames::kInARow ? kWindow : 1; }
  void TakePages() {
    const Hva pages(reinterpret_cast<uintptr_t>(ram_.get()) + kHalf);
    TDP_CHECK(vm_->InvalidateHostRange(pages, kHalf).ok());
  }

  static constexpr ByteCount kHalf = MiB(128);
  static constexpr uint64_t kPages = kHalf >> kPageShift;

 private:
  static constexpr uint64_t kWindow = 8;
  static constexpr uint64_t kTop = 1024;  // the frame of the root
  static constexpr uint64_t kFlags =
      guest::kPresent | guest::kWrite | guest::kUser | guest::kAccessed | guest::kDirty;
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  uint64_t FrameOf(uint64_t page) const {
    if (frames_ == Frames::kInARow) return page;
    return page * kWindow % kPages + page * kWindow / kPages;
  }
  uint64_t* Entry(uint64_t frame) {
    return reinterpret_cast<uint64_t*>(ram_.get() + (frame << kPageShift));
  }

  const Frames frames_;
  std::unique_ptr<std::byte, Free> ram_{
      static_cast<std::byte*>(std::aligned_alloc(kPageSize, 2 * kHalf))};
  ArithmeticHost host_{0};
  std::unique_ptr<Vm> vm_ = *Vm::Create(host_, {.paging = Paging::kShadow});
  std::unique_ptr<Vcpu> vcpu_ = *vm_->CreateVcpu();
};

}  // namespace tdp::bench

#endif  // TDP_BENCHMARKS_PAGED_GUEST_H_
