// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The memory type of an access: EPT type, guest PAT and CR0.CD combined (SDM vol. 3C 29.3.7, vol.
// 3A table 13-7 with the EPT type in the MTRR's place).

#ifndef TDP_BACKENDS_SIM_MEMORY_TYPES_H_
#define TDP_BACKENDS_SIM_MEMORY_TYPES_H_

#include <cstdint>

#include "tdp/base/access.h"

namespace tdp::sim {

// An entry of the PAT: the encodings of `MemoryType`, and 7 for UC-.
inline constexpr uint8_t kPatUcMinus = 7;

// Returns the type of the PAT entry that the bits PAT, PCD and PWT of a guest leaf (4, 2 and 1
// here) choose.
constexpr uint8_t PatType(uint64_t pat, unsigned index) { return pat >> 8 * (index & 7) & 7; }

// `pat` is a type or `kPatUcMinus`. UC- over WP is write-combining, and of WT against WP the PAT
// decides: older editions of the table call these undefined, newer ones say that every processor
// with a PAT does so (its note 3).
constexpr MemoryType CombineMemoryTypes(MemoryType ept, bool ignore_pat, uint8_t pat,
                                        bool caches_disabled) {
  using enum MemoryType;
  if (caches_disabled) return kUncacheable;
  if (ignore_pat) return ept;
  if (pat == static_cast<uint8_t>(kWriteCombining)) return kWriteCombining;
  if (pat == kPatUcMinus) {
    return ept == kWriteCombining || ept == kWriteProtected ? kWriteCombining : kUncacheable;
  }
  if (pat == static_cast<uint8_t>(kUncacheable) || ept == kUncacheable) return kUncacheable;
  if (pat == static_cast<uint8_t>(kWriteBack)) return ept;
  return ept == kWriteCombining ? kUncacheable : static_cast<MemoryType>(pat);
}

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_MEMORY_TYPES_H_
