// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This is a stranger's port: a backend of its own over this process's memory, and a guest that is a
// row of violations. It needs `libtdp::tdp` and nothing else.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/vm.h"

namespace {

class ProcessBackend final : public tdp::Backend {
 public:
  ProcessBackend() {
    capabilities_.ept = tdp::EptCapabilities::All();
    capabilities_.physical_address_bits = 48;
  }

  const tdp::Capabilities& capabilities() const override { return capabilities_; }

  absl::StatusOr<tdp::Hpa> AllocateTableBlock() override {
    void* block = std::aligned_alloc(tdp::kTableBlockBytes, tdp::kTableBlockBytes);
    if (block == nullptr) return absl::ResourceExhaustedError("no memory for a block of tables");
    return tdp::Hpa(reinterpret_cast<uintptr_t>(block));
  }

  void FreeTableBlock(tdp::Hpa block) override {
    std::free(reinterpret_cast<void*>(static_cast<uintptr_t>(block.raw())));
  }

  absl::StatusOr<tdp::HostPage> Resolve(tdp::Hva hva, tdp::Access /*access*/) override {
    tdp::HostPage page;
    page.hfn = tdp::Hfn::Of(tdp::Hpa(hva.raw()));
    return page;
  }

  void Invalidate(tdp::VcpuId /*vcpu*/, tdp::Eptp /*root*/) override {}
  void InvalidateAll(tdp::VcpuId /*vcpu*/) override {}
  void Kick(absl::Span<const tdp::VcpuId> /*vcpus*/) override {}

 private:
  tdp::Capabilities capabilities_;
};

absl::Status AnswerViolations(void* ram, tdp::ByteCount size) {
  ProcessBackend backend;
  absl::StatusOr<std::unique_ptr<tdp::Vm>> vm = tdp::Vm::Create(backend);
  if (!vm.ok()) return vm.status();
  const absl::Status slot =
      (*vm)->SetMemoryRegion({.slot = 0,
                              .gpa = tdp::Gpa(0),
                              .size = size,
                              .hva = tdp::Hva(reinterpret_cast<uintptr_t>(ram))});
  if (!slot.ok()) return slot;
  absl::StatusOr<std::unique_ptr<tdp::Vcpu>> vcpu = (*vm)->CreateVcpu();
  if (!vcpu.ok()) return vcpu.status();
  constexpr uint64_t kDataWrite = 2;
  for (tdp::ByteCount at = 0; at < size; at += tdp::kPageSize) {
    const tdp::FaultResult fault =
        (*vcpu)->HandleEptViolation(tdp::Gpa(at), tdp::ExitQualification(kDataWrite));
    if (fault.outcome != tdp::FaultOutcome::kFixed) return absl::InternalError("not fixed");
  }
  return (*vm)->CheckInvariants();
}

}  // namespace

int main() {
  constexpr tdp::ByteCount kSize = tdp::MiB(4);
  void* ram = std::aligned_alloc(tdp::kPageSize, kSize);
  if (ram == nullptr) return 1;
  const absl::Status status = AnswerViolations(ram, kSize);
  std::free(ram);
  if (!status.ok()) std::fprintf(stderr, "own_backend: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
