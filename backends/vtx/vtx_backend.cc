// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/vtx_backend.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/backends/vtx/vmx_instructions.h"
#include "tdp/base/check.h"

namespace tdp::vtx {
namespace {

// A flush that fails leaves a guest with memory it has lost: there is no going on.
void CheckFlushed(const absl::Status& status) {
  if (!status.ok()) internal::CheckFailed(__FILE__, __LINE__, std::string(status.message()));
}

// Returns the largest order of a host page of which the aligned run around `frame` lies in [start,
// end).
int LargestOrder(Hfn frame, Hfn start, Hfn end) {
  int order = 0;
  while (order < HostPage::kLargestOrder) {
    const PageCount pages(uint64_t{2} << order);
    const Hfn first = frame.AlignDown(pages);
    if (first < start || first + pages > end) break;
    ++order;
  }
  return order;
}

}  // namespace

VtxBackend::VtxBackend(FrameArena& arena, const Capabilities& capabilities)
    : arena_(arena), capabilities_(capabilities), apic_(arena.direct_map_offset()) {
  for (std::atomic<int64_t>& cpu : cpu_of_) cpu.store(kNowhere, std::memory_order_relaxed);
}

void VtxBackend::SetRunningOn(VcpuId vcpu, ApicId apic_id) {
  TDP_CHECK_LT(vcpu, kMaxVcpus);
  cpu_of_[vcpu].store(apic_id, std::memory_order_seq_cst);
}

void VtxBackend::SetNotRunning(VcpuId vcpu) {
  cpu_of_[vcpu].store(kNowhere, std::memory_order_seq_cst);
}

absl::Status VtxBackend::AddDevice(Hpa start, ByteCount bytes, MemoryType type) {
  if (!start.is_aligned(kPageSize) || bytes % kPageSize != 0 || bytes == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("device at 0x%x + 0x%x: whole pages", start.raw(), bytes));
  }
  devices_.push_back({start, start + bytes, type});
  return absl::OkStatus();
}

absl::StatusOr<Hpa> VtxBackend::AllocateTableBlock() {
  return arena_.Allocate(kTableBlockBytes, kTableBlockBytes);
}

void VtxBackend::FreeTableBlock(Hpa block) { arena_.Free(block, kTableBlockBytes); }

absl::StatusOr<HostPage> VtxBackend::Resolve(Hva hva, Access) {
  const Hpa hpa = arena_.HpaOf(hva);
  for (const Device& device : devices_) {
    if (hpa >= device.start && hpa < device.end) {
      return HostPage{.hfn = Hfn::Of(hpa), .memory_type = device.type};
    }
  }
  if (hpa < arena_.start() || hpa >= arena_.end()) {
    return absl::NotFoundError(
        absl::StrFormat("hva 0x%x: outside of the host's memory", hva.raw()));
  }
  const Hfn frame = Hfn::Of(hpa);
  return HostPage{.hfn = frame,
                  .order = LargestOrder(frame, Hfn::Of(arena_.start()), Hfn::Of(arena_.end()))};
}

void VtxBackend::Invalidate(VcpuId vcpu, Eptp root) {
  if (!capabilities_.ept.invept_single()) return InvalidateAll(vcpu);
  CheckFlushed(Invept(InveptType::kSingleContext, root));
}

void VtxBackend::InvalidateAll(VcpuId) { CheckFlushed(Invept(InveptType::kAllContexts, Eptp())); }

// Drops linear translations of every VPID, since which one the vCPU runs under is not known here. A
// CPU without INVVPID has no VPIDs: its entries drop everything linear.
void VtxBackend::InvalidateLinear(VcpuId) {
  constexpr int kAllContexts = static_cast<int>(InvvpidType::kAllContexts);
  if (!capabilities_.ept.invvpid(kAllContexts)) return;
  CheckFlushed(Invvpid(InvvpidType::kAllContexts, 0, Gva(0)));
}

void VtxBackend::Kick(absl::Span<const VcpuId> vcpus) {
  for (const VcpuId vcpu : vcpus) {
    const int64_t cpu = cpu_of_[vcpu].load(std::memory_order_seq_cst);
    if (cpu != kNowhere) apic_.SendNmi(static_cast<ApicId>(cpu));
  }
}

}  // namespace tdp::vtx
