// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a `Vcpu` asks of the tables that it has beside its EPT, or in its place.

#ifndef TDP_MMU_SHADOW_VCPU_SIDE_H_
#define TDP_MMU_SHADOW_VCPU_SIDE_H_

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/stats.h"

namespace tdp {

// Stands for the shadow of a guest's own paging (`ShadowVcpuImpl`) or of its EPT12
// (`NestedVcpuImpl`). A vCPU that runs on its EPT alone has none. Used by the vCPU's thread, which
// is in no section; `AddTo` by any.
class VcpuSide {
 public:
  virtual ~VcpuSide() = default;

  // Returns FailedPrecondition, saying why, where an EPT violation is not one of the EPT.
  virtual absl::Status CheckRunsOnEpt() const = 0;
  // Makes the CPU forget what it may not keep as it enters the guest. `owed` says that the flush
  // clock wants it to, `has_new_tables` that memory for tables has come since the last call.
  // Returns whether it was made to forget anything.
  virtual bool FlushForEntry(VcpuId id, bool owed, bool has_new_tables) = 0;
  // Returns what the CPU runs the guest on, of which `own` is the EPT.
  virtual Eptp RunsOn(Eptp own) const = 0;
  // Sets the address space of the vCPU. With an error nothing has changed: FailedPrecondition where
  // it can not leave the one it is in now, ResourceExhausted without memory, Unavailable (memory
  // keeps changing: again). Waits for vCPUs that are in the guest.
  virtual absl::Status SetAddressSpace(AddressSpaceId space) = 0;
  // Adds what its faults were counted as.
  virtual void AddTo(FaultStats& stats) const = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_VCPU_SIDE_H_
