// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Memory runs out on a machine without a C library: errors that are documented come back as errors,
// with their code, and the next try with memory succeeds. Besides, a build without shadow tables
// must refuse them in words.

// This is the machine of examples/freestanding, but for its allocation.
#define tdp_platform_allocate AllocateAlways
#include "machine.cc"
#undef tdp_platform_allocate

#include <cstdint>
#include <memory>
#include <new>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/mmu/vm.h"

namespace {

bool is_starved = false;

class Starved final : public tdp::Backend {
 public:
  Starved() { capabilities_.ept = tdp::EptCapabilities::All(); }

  const tdp::Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<tdp::Hpa> AllocateTableBlock() override {
    void* block = is_starved ? nullptr : Allocate(tdp::kTableBlockBytes, tdp::kTableBlockBytes);
    if (block == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("no %d bytes in one piece for a block of tables", tdp::kTableBlockBytes));
    }
    return tdp::Hpa(reinterpret_cast<uintptr_t>(block));
  }
  void FreeTableBlock(tdp::Hpa) override {}
  absl::StatusOr<tdp::HostPage> Resolve(tdp::Hva hva, tdp::Access) override {
    return tdp::HostPage{.hfn = tdp::Hfn::Of(tdp::Hpa(hva.raw()))};
  }
  void Invalidate(tdp::VcpuId, tdp::Eptp) override {}
  void InvalidateAll(tdp::VcpuId) override {}
  void Kick(absl::Span<const tdp::VcpuId>) override {}

 private:
  tdp::Capabilities capabilities_;
};

void Expect(bool is_so, const char* claim) {
  if (is_so) return;
  Print("not so: ");
  tdp_platform_panic(claim);
}

void CheckTablesWithoutMemory(tdp::Vm& vm) {
  constexpr size_t kTables = 100;
  is_starved = true;
  Expect(absl::IsResourceExhausted(vm.ReserveTables(kTables)),
         "tables without memory are an error");
  is_starved = false;
  Expect(vm.ReserveTables(kTables).ok(), "which memory mends");
  std::unique_ptr<tdp::Vcpu> vcpu = *vm.CreateVcpu();
  // Each fault is 2 MiB from the last and takes a table.
  is_starved = true;
  for (size_t i = 0; i < kTables / 2; ++i) {
    const tdp::FaultResult fault =
        vcpu->HandleEptViolation(tdp::Gpa(i * tdp::MiB(2)), tdp::ExitQualification(2));
    Expect(fault.outcome == tdp::FaultOutcome::kFixed, "faults allocate nothing");
  }
  is_starved = false;
}

void CheckErrorsWithoutMemory(tdp::Vm& vm) {
  is_starved = true;
  const absl::Status refused = vm.SetMemoryRegion({.slot = 9, .gpa = tdp::Gpa(1), .size = 1});
  Expect(absl::IsInvalidArgument(refused), "an error keeps its code without memory for its text");
  Expect(refused.message().empty(), "and has no text then");
  is_starved = false;
}

}  // namespace

extern "C" void* tdp_platform_allocate(size_t bytes, size_t alignment) {
  return is_starved ? nullptr : AllocateAlways(bytes, alignment);
}

extern "C" void Main() {
  Starved backend;
  for (const tdp::VmOptions& options :
       {tdp::VmOptions{.nested = true}, tdp::VmOptions{.reverse_map = true}}) {
    Expect(absl::IsUnimplemented(tdp::Vm::Create(backend, options).status()),
           "a build without shadow tables refuses what needs them");
  }
  std::unique_ptr<tdp::Vm> vm = *tdp::Vm::Create(backend, {.max_leaf_level = tdp::kLevel4K});
  Expect(vm->SetMemoryRegion({.slot = 0, .gpa = tdp::Gpa(0), .size = tdp::GiB(1)}).ok(),
         "a slot of 1 GiB");
  CheckErrorsWithoutMemory(*vm);
  CheckTablesWithoutMemory(*vm);
  Print("errors without memory are errors\n");
  Exit(0);
}
