// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The EPT pointer, the VMCS field that names the root table (SDM vol. 3C, 25.6.11).

#ifndef TDP_MMU_FORMAT_EPTP_H_
#define TDP_MMU_FORMAT_EPTP_H_

#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_capabilities.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp {

// Names a view of one address space: its index in the list of EPTPs that VMFUNC chooses from.
using ViewId = uint16_t;
// The view that every address space has from the beginning.
inline constexpr ViewId kBaseView = 0;
// How many views one address space may have, the base included: as many as an EPTP list has
// entries.
inline constexpr int kMaxViews = 512;

class Eptp {
 public:
  constexpr Eptp() = default;
  constexpr explicit Eptp(uint64_t raw) : raw_(raw) {}

  // Makes the pointer to a write-back root table at `root` (page aligned) with `levels` 4 or 5.
  static constexpr Eptp Make(Hpa root, int levels, bool accessed_dirty) {
    return Eptp(root.raw() | static_cast<uint64_t>(MemoryType::kWriteBack) |
                static_cast<uint64_t>(levels - 1) << ept::kEptpLevelsShift |
                (accessed_dirty ? ept::kEptpAccessedDirty : 0));
  }

  constexpr uint64_t raw() const { return raw_; }
  constexpr Hpa root() const { return Hpa(raw_ & ept::kAddressMask); }
  // Returns the encoding of the tables' memory type; only 0 and 6 are legal.
  constexpr uint64_t memory_type_encoding() const { return raw_ & ept::kEptpMemoryTypeMask; }
  constexpr int levels() const {
    return static_cast<int>((raw_ & ept::kEptpLevelsMask) >> ept::kEptpLevelsShift) + 1;
  }
  constexpr Level root_level() const { return Level(levels()); }
  constexpr bool accessed_dirty() const { return (raw_ & ept::kEptpAccessedDirty) != 0; }
  constexpr bool supervisor_shadow_stack() const {
    return (raw_ & ept::kEptpSupervisorShadowStack) != 0;
  }

  // Returns OK if VM entry would accept it (SDM 27.2.1.1) on a CPU of these capabilities and this
  // physical address width in bits; else InvalidArgument that names the field at fault and its
  // value.
  absl::Status Check(EptCapabilities capabilities, int physical_address_bits) const;

  friend constexpr bool operator==(Eptp, Eptp) = default;

 private:
  uint64_t raw_ = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_EPTP_H_
