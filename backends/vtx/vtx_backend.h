// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine's backend on bare metal with VT-x.

#ifndef TDP_BACKENDS_VTX_VTX_BACKEND_H_
#define TDP_BACKENDS_VTX_VTX_BACKEND_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/local_apic.h"
#include "tdp/backends/vtx/vmx_capabilities.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::vtx {

// Host memory is an arena: an hva is a place in it, and all of it is there and writable. A
// hypervisor that pages or shares derives from this class and overrides `Resolve`.
class VtxBackend : public Backend {
 public:
  static constexpr VcpuId kMaxVcpus = 256;

  // `capabilities` as `DecodeCapabilities` gives them, or less of them.
  VtxBackend(FrameArena& arena, const Capabilities& capabilities);

  // `vcpu` is about to run on the CPU with `apic_id`, and kicks go there; `NotRunning`: nowhere.
  // Called by the vCPU's thread, outside of the guest.
  void SetRunningOn(VcpuId vcpu, ApicId apic_id);
  void SetNotRunning(VcpuId vcpu);

  // Adds a device's registers at host physical [start, start + bytes), outside of the arena and
  // mapped like it: `Resolve` gives them page by page, with `type`. Call it before the first vCPU
  // runs. InvalidArgument for what is not page aligned.
  absl::Status AddDevice(Hpa start, ByteCount bytes, MemoryType type = MemoryType::kUncacheable);

  const Capabilities& capabilities() const override { return capabilities_; }
  absl::StatusOr<Hpa> AllocateTableBlock() override;
  void FreeTableBlock(Hpa block) override;
  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override;
  void Invalidate(VcpuId vcpu, Eptp root) override;
  void InvalidateAll(VcpuId vcpu) override;
  void InvalidateLinear(VcpuId vcpu) override;
  void Kick(absl::Span<const VcpuId> vcpus) override;

  FrameArena& arena() { return arena_; }

 private:
  static constexpr int64_t kNowhere = -1;

  struct Device {
    Hpa start;
    Hpa end;
    MemoryType type;
  };

  FrameArena& arena_;
  const Capabilities capabilities_;
  const LocalApic apic_;
  std::vector<Device> devices_;
  std::array<std::atomic<int64_t>, kMaxVcpus> cpu_of_;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VTX_BACKEND_H_
