// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The VM exits of a guest whose tables are shadowed.

#ifndef TDP_TOOLS_REPLAY_SHADOW_COUNTS_H_
#define TDP_TOOLS_REPLAY_SHADOW_COUNTS_H_

#include <cstdint>

namespace tdp::tools {

struct ShadowCounts {
  uint64_t fixed = 0;          // page faults that the engine answered
  uint64_t spurious = 0;       // that it had answered already
  uint64_t guest_faults = 0;   // page faults that it gave to the guest
  uint64_t table_writes = 0;   // of the guest's kernel
  uint64_t invalidations = 0;  // INVLPG
  uint64_t cr3_writes = 0;

  uint64_t total() const {
    return fixed + spurious + guest_faults + table_writes + invalidations + cr3_writes;
  }
  ShadowCounts& operator+=(const ShadowCounts& other) {
    fixed += other.fixed;
    spurious += other.spurious;
    guest_faults += other.guest_faults;
    table_writes += other.table_writes;
    invalidations += other.invalidations;
    cr3_writes += other.cr3_writes;
    return *this;
  }
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_SHADOW_COUNTS_H_
