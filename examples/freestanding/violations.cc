// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine without an operating system's libraries: a static program without a C or C++ library
// makes a VM over its own memory and answers the EPT violations of a guest that writes a thousand
// pages. machine.cc is the machine below it; this file would be the same with a hosted library.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "machine.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/vm.h"

namespace {

constexpr uint64_t kPages = 1000;
constexpr uint64_t kWrite = 2;  // in an entry and in an exit qualification
alignas(tdp::kPageSize) unsigned char guest_memory[kPages * tdp::kPageSize];

// Host physical addresses are this program's pointers.
uint64_t* At(uint64_t hpa) { return reinterpret_cast<uint64_t*>(hpa); }

class Machine final : public tdp::Backend {
 public:
  Machine() { capabilities_.ept = tdp::EptCapabilities::All(); }

  const tdp::Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<tdp::Hpa> AllocateTableBlock() override {
    void* block = Allocate(tdp::kTableBlockBytes, tdp::kTableBlockBytes);
    if (block == nullptr) return absl::ResourceExhaustedError("no memory for tables");
    return tdp::Hpa(reinterpret_cast<uintptr_t>(block));
  }
  void FreeTableBlock(tdp::Hpa) override {}
  absl::StatusOr<tdp::HostPage> Resolve(tdp::Hva hva, tdp::Access) override {
    return tdp::HostPage{.hfn = tdp::Hfn::Of(tdp::Hpa(hva.raw()))};
  }
  // The one CPU has no TLB.
  void Invalidate(tdp::VcpuId, tdp::Eptp) override {}
  void InvalidateAll(tdp::VcpuId) override {}
  void Kick(absl::Span<const tdp::VcpuId>) override {}

 private:
  tdp::Capabilities capabilities_;
};

// Runs a guest without paging that writes its number to each page, through the tables as a CPU
// walks them, from `page` to the next violation or to its end. Returns where it stopped.
uint64_t RunGuest(tdp::Eptp eptp, uint64_t page) {
  constexpr uint64_t kAddress = 0x000f'ffff'ffff'f000;
  for (; page < kPages; ++page) {
    uint64_t entry = eptp.raw();
    for (int level = 4; level >= 1; --level) {
      entry = At(entry & kAddress)[page >> 9 * (level - 1) & 511];
      if ((entry & kWrite) == 0) return page;
    }
    *At(entry & kAddress) = page;
  }
  return page;
}

absl::Status AnswerViolations() {
  Machine machine;
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<tdp::Vm> vm,
                       tdp::Vm::Create(machine, {.max_leaf_level = tdp::kLevel4K}));
  const tdp::Hva memory(reinterpret_cast<uintptr_t>(guest_memory));
  TDP_RETURN_IF_ERROR(vm->SetMemoryRegion(
      {.slot = 0, .gpa = tdp::Gpa(0), .size = sizeof(guest_memory), .hva = memory}));
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<tdp::Vcpu> vcpu, vm->CreateVcpu());
  for (uint64_t page = 0;;) {
    tdp::GuestEntry entry = vcpu->EnterGuest();
    page = RunGuest(entry.eptp(), page);
    entry.Leave();
    if (page == kPages) break;
    const tdp::FaultResult fault =
        vcpu->HandleEptViolation(tdp::Gpa(page * tdp::kPageSize), tdp::ExitQualification(kWrite));
    if (fault.outcome == tdp::FaultOutcome::kError) return fault.status;
  }

  uint64_t right = 0;
  for (uint64_t i = 0; i < kPages; ++i) right += *At(memory.raw() + i * tdp::kPageSize) == i;
  const tdp::VmStats stats = vm->Stats();
  const std::string text = absl::StrFormat(
      "%d violations answered with %d pages of 4 KiB, %d tables in use, %d words in their places\n",
      stats.faults.fixed, stats.faults.leaves_installed[0], stats.tables_in_use, right);
  Print(text.c_str());
  return stats.faults.fixed == kPages && right == kPages ? absl::OkStatus()
                                                         : absl::InternalError("not all");
}

}  // namespace

extern "C" void Main() {
  const absl::Status status = AnswerViolations();
  if (!status.ok()) Print(status.ToString().c_str());
  Exit(status.ok() ? 0 : 1);
}
