// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests count by operator new what the calls allocate of which docs/embedding.md says that
// they allocate nothing.

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/status/status.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_test.h"

namespace {

std::atomic<bool> counting = false;
std::atomic<int> allocations = 0;

void* Allocate(std::size_t size, std::size_t alignment) {
  if (counting.load(std::memory_order_relaxed)) allocations.fetch_add(1, std::memory_order_relaxed);
  const std::size_t whole = (size + alignment - 1) / alignment * alignment;
  void* const memory = alignment <= alignof(std::max_align_t)
                           ? std::malloc(size)
                           : std::aligned_alloc(alignment, whole);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

// It must not be inline: the compiler would see memory of `malloc` given to `delete`, or of `new`
// to `free`.
ABSL_ATTRIBUTE_NOINLINE void* operator new(std::size_t size) {
  return Allocate(size, alignof(std::max_align_t));
}
ABSL_ATTRIBUTE_NOINLINE void* operator new[](std::size_t size) {
  return Allocate(size, alignof(std::max_align_t));
}
ABSL_ATTRIBUTE_NOINLINE void* operator new(std::size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<std::size_t>(alignment));
}
ABSL_ATTRIBUTE_NOINLINE void* operator new[](std::size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<std::size_t>(alignment));
}
ABSL_ATTRIBUTE_NOINLINE void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size, alignof(std::max_align_t));
}
ABSL_ATTRIBUTE_NOINLINE void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size, alignof(std::max_align_t));
}
ABSL_ATTRIBUTE_NOINLINE void* operator new(std::size_t size, std::align_val_t alignment,
                                           const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<std::size_t>(alignment));
}
ABSL_ATTRIBUTE_NOINLINE void* operator new[](std::size_t size, std::align_val_t alignment,
                                             const std::nothrow_t&) noexcept {
  return Allocate(size, static_cast<std::size_t>(alignment));
}
ABSL_ATTRIBUTE_NOINLINE void operator delete(void* memory) noexcept { std::free(memory); }
ABSL_ATTRIBUTE_NOINLINE void operator delete[](void* memory) noexcept { std::free(memory); }
ABSL_ATTRIBUTE_NOINLINE void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
ABSL_ATTRIBUTE_NOINLINE void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
ABSL_ATTRIBUTE_NOINLINE void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
ABSL_ATTRIBUTE_NOINLINE void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
ABSL_ATTRIBUTE_NOINLINE void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
ABSL_ATTRIBUTE_NOINLINE void operator delete[](void* memory, std::size_t,
                                               std::align_val_t) noexcept {
  std::free(memory);
}
ABSL_ATTRIBUTE_NOINLINE void operator delete(void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}
ABSL_ATTRIBUTE_NOINLINE void operator delete[](void* memory, const std::nothrow_t&) noexcept {
  std::free(memory);
}

namespace tdp {
namespace {

constexpr Hva kRam{TiB(1)};

class Allocations : public HostTest, public testing::WithParamInterface<bool> {
 protected:
  Allocations() {
    vm_ = *Vm::Create(host_, {.accessed_dirty = GetParam() ? Use::kIfOffered : Use::kNever,
                              .dirty_tracking = DirtyTracking::kWriteProtection,
                              .address_spaces = 2});
    EXPECT_EQ(vm_->EnableDirtyRing(1024), absl::OkStatus());
    vcpu_ = *vm_->CreateVcpu();
    view_ = *vm_->CreateView();
    EXPECT_EQ(vm_->SetMemoryRegion({.flags = kSlotLogDirtyPages, .size = MiB(4), .hva = kRam}),
              absl::OkStatus());
    EXPECT_EQ(
        vm_->SetMemoryRegion({.slot = 1, .gpa = Gpa(MiB(4)), .size = MiB(4), .hva = kRam + MiB(4)}),
        absl::OkStatus());
    for (const uint64_t page : {0, 1, 1024, 1025}) Fault(page);
    // This zap stocks the two tables of a split, which are kept from one zap to the next.
    vm_->ZapRange(Gfn(1025), PageCount(1))->Settle();
  }
  void Fault(uint64_t page, ExitQualification how = kWriteFault) {
    EXPECT_EQ(vcpu_->HandleEptViolation(Gfn(page).address(), how).outcome, FaultOutcome::kFixed);
  }
  void ExpectNone(const std::string& call, const std::function<void()>& make) {
    const int blocks = host_.blocks;
    allocations = 0;
    counting = true;
    make();
    counting = false;
    EXPECT_EQ(allocations, 0) << call;
    EXPECT_EQ(host_.blocks, blocks) << call;
  }

  ViewId view_ = kBaseView;
};

TEST_P(Allocations, CallsThatMustNotAllocateDoNot) {
  int entries = 0;
  int runs = 0;
  ExpectNone("a fault, with tables in stock", [&] { Fault(1026); });
  ExpectNone("a fault by another way in", [&] { Fault(5, kReadFault); });
  ExpectNone("BeginHostInvalidation",
             [&] { (void)vm_->BeginHostInvalidation(kRam + MiB(4), kPageSize); });
  ExpectNone("EndHostInvalidation", [&] { vm_->EndHostInvalidation(); });
  ExpectNone("InvalidateHostRange", [&] { (void)vm_->InvalidateHostRange(kRam, kPageSize); });
  ExpectNone("ZapRange", [&] { vm_->ZapRange(Gfn(1), PageCount(1))->Settle(); });
  ExpectNone("AgeHostRange", [&] { std::move(vm_->AgeHostRange(kRam, MiB(8))->flush).Settle(); });
  ExpectNone("TestAge", [&] { (void)*vm_->TestAge(kRam, MiB(8)); });
  ExpectNone("Translate", [&] { (void)vm_->Translate(Gfn(1026).address()).ok(); });
  ExpectNone("VisitLeaves", [&] {
    (void)vm_->VisitLeaves(Gfn(0), PageCount(2048), [&](const LeafRun&) { ++runs; });
  });
  ExpectNone("Stats", [&] { (void)vm_->Stats(); });
  ExpectNone("eptp", [&] { (void)vm_->eptp(); });
  ExpectNone("HarvestDirtyRings",
             [&] { (void)vm_->HarvestDirtyRings([&](const DirtyRingEntry&) { ++entries; }); });
  ExpectNone("ResetDirtyRings", [&] { (void)vm_->ResetDirtyRings(); });
  ExpectNone("EnterGuest", [&] { (void)vcpu_->EnterGuest(); });
  ExpectNone("SetView", [&] { (void)vcpu_->SetView(view_); });
  ExpectNone("SetAddressSpace", [&] { (void)vcpu_->SetAddressSpace(1); });
  ExpectNone("OnCpuChanged", [&] { vcpu_->OnCpuChanged(); });
  ExpectNone("stats", [&] { (void)vcpu_->stats(); });
  ExpectNone("ZapAll", [&] { vm_->ZapAll()->Settle(); });
  ExpectNone("ReleaseTableMemory", [&] { (void)vm_->ReleaseTableMemory(); });
  EXPECT_GT(entries, 0);
  EXPECT_GT(runs, 0);
  EXPECT_EQ(vm_->CheckInvariants(), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutABits, Allocations, testing::Bool(),
                         [](const auto& param) { return param.param ? "ABits" : "NoABits"; });

}  // namespace
}  // namespace tdp
