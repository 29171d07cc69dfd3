// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/sim_backend.h"

#include "tdp/base/check.h"

namespace tdp::sim {
namespace {

Capabilities CapabilitiesOf(const CpuFeatures& features, uintptr_t direct_map_offset) {
  return {.ept = features.ept,
          .physical_address_bits = features.physical_address_bits,
          .mbec = features.mbec,
          .pml = features.pml,
          .spp = features.spp,
          .ve = features.ve,
          .eptp_switching = features.eptp_switching,
          .shadow_paging = true,
          .direct_map_offset = direct_map_offset};
}

}  // namespace

SimBackend::SimBackend(HostMemory& memory, const SimBackendOptions& options)
    : memory_(memory),
      capabilities_(CapabilitiesOf(options.cpu.features, memory.direct_map_offset())) {
  TDP_CHECK_LE(memory.size(), ByteCount{1} << options.cpu.features.physical_address_bits);
  for (int i = 0; i < options.cpus; ++i) {
    cpus_.push_back(std::make_unique<Cpu>(memory.physical(), options.cpu));
    if (options.oracle != nullptr) cpus_.back()->SetFlushOracle(options.oracle);
  }
}

Cpu& SimBackend::cpu(VcpuId id) {
  TDP_CHECK_LT(id, cpus_.size());
  return *cpus_[id];
}

void SimBackend::Invalidate(VcpuId vcpu, Eptp root) {
  invalidations_.fetch_add(1, std::memory_order_relaxed);
  TDP_CHECK(cpu(vcpu).InveptSingle(root));
}

void SimBackend::InvalidateAll(VcpuId vcpu) {
  invalidations_.fetch_add(1, std::memory_order_relaxed);
  TDP_CHECK(cpu(vcpu).InveptAll());
}

void SimBackend::InvalidateLinear(VcpuId vcpu) {
  invalidations_.fetch_add(1, std::memory_order_relaxed);
  constexpr int kSingleContext = 1;
  // Without a VPID the next entry drops them.
  if (const uint16_t vpid = cpu(vcpu).controls().vpid; vpid != 0) {
    TDP_CHECK(cpu(vcpu).Invvpid(kSingleContext, vpid));
  }
}

void SimBackend::Kick(absl::Span<const VcpuId> vcpus) {
  for (VcpuId vcpu : vcpus) {
    kicks_.fetch_add(1, std::memory_order_relaxed);
    cpu(vcpu).Kick();
  }
}

}  // namespace tdp::sim
