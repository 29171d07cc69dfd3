// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The MSRs that a guest with its own may not share with the host, and that the VMCS has no fields
// for: they change hands through the VM-entry and VM-exit MSR areas (SDM 25.7.2, 25.8.2).

#ifndef TDP_BACKENDS_VTX_MSR_AREAS_H_
#define TDP_BACKENDS_VTX_MSR_AREAS_H_

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/base/address.h"

namespace tdp::vtx {

// One page: the guest's values in its first half, the host's in its second.
class MsrAreas {
 public:
  static constexpr size_t kMost = 8;

  // `page` is zeroed. It then names STAR, LSTAR, CSTAR, FMASK and KERNEL_GS_BASE, TSC_AUX if
  // `tsc_aux`, and XSS if `xss`; the guest's values are 0, as after reset.
  void Init(FrameArena& arena, Hpa page, bool tsc_aux, bool xss);

  // Reads the host's values. On the CPU that the vCPU is loaded on.
  void ReadHost();
  // Writes the areas' addresses and counts to the current VMCS.
  absl::Status WriteFields() const;

  size_t size() const { return size_; }
  // Returns the guest's value of the MSR, for reading and writing while the guest does not run;
  // null for one that does not change hands here.
  uint64_t* Guest(uint32_t msr);
  // Does the same by place, below `size()`: always the same MSR for the same arguments of `Init`.
  uint64_t At(size_t i) const { return guest_[i].value; }
  void SetAt(size_t i, uint64_t value) { guest_[i].value = value; }

 private:
  // Has the layout of the SDM (table 25-15).
  struct Entry {
    uint32_t msr;
    uint32_t reserved;
    uint64_t value;
  };

  Entry* guest_ = nullptr;
  Entry* host_ = nullptr;
  Hpa page_;
  size_t size_ = 0;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_MSR_AREAS_H_
