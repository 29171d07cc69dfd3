// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The backend over simulated hardware: host memory and a set of CPUs.

#ifndef TDP_BACKENDS_SIM_SIM_BACKEND_H_
#define TDP_BACKENDS_SIM_SIM_BACKEND_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/mmu/backend.h"

namespace tdp::sim {

struct SimBackendOptions {
  int cpus = 1;  // a vCPU of id n runs on CPU n
  CpuConfig cpu;
  FlushOracle* oracle = nullptr;  // watches every CPU; outlives the backend
};

// Thread-safe as `Backend` demands; each `Cpu` belongs to the thread that runs its vCPU.
class SimBackend : public Backend {
 public:
  // `memory` outlives the backend. The CPUs' physical address width must cover it (checked).
  explicit SimBackend(HostMemory& memory, const SimBackendOptions& options = {});

  HostMemory& memory() { return memory_; }
  int cpus() const { return static_cast<int>(cpus_.size()); }
  // Returns the CPU of a vCPU; `id` is below `cpus()`.
  Cpu& cpu(VcpuId id);

  // Return how many calls of each kind came so far, from all threads.
  uint64_t invalidations() const { return invalidations_.load(std::memory_order_relaxed); }
  uint64_t kicks() const { return kicks_.load(std::memory_order_relaxed); }

  const Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<Hpa> AllocateTableBlock() override { return memory_.AllocateTableBlock(); }
  void FreeTableBlock(Hpa block) override { memory_.FreeTableBlock(block); }
  absl::StatusOr<HostPage> Resolve(Hva hva, tdp::Access access) override {
    return memory_.Resolve(hva, access);
  }
  void Invalidate(VcpuId vcpu, Eptp root) override;
  void InvalidateAll(VcpuId vcpu) override;
  void InvalidateLinear(VcpuId vcpu) override;
  void Kick(absl::Span<const VcpuId> vcpus) override;

 private:
  HostMemory& memory_;
  Capabilities capabilities_;
  std::vector<std::unique_ptr<Cpu>> cpus_;
  std::atomic<uint64_t> invalidations_{0};
  std::atomic<uint64_t> kicks_{0};
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_SIM_BACKEND_H_
