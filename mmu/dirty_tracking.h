// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How the pages that a guest writes are found, for slots that log dirty pages.

#ifndef TDP_MMU_DIRTY_TRACKING_H_
#define TDP_MMU_DIRTY_TRACKING_H_

#include <cstdint>

namespace tdp {

// Whatever the way, switching logging on costs the same whatever the size of the slot: W is taken
// from the highest entries inside it. docs/locking.md has the timelines.
enum class DirtyTracking : uint8_t {
  kBest,             // as an option: D bits where the VM uses A and D bits, else write-protection
  kWriteProtection,  // the first write of each page is a fault, which marks it
  kDirtyBits,        // the CPU sets D bits; taking the log collects them. The first write of each
                     // 2 MiB is a fault, no other
  kPml,              // the CPU writes the addresses down, and the backend hands them over:
                     // `Vcpu::LogPml`. Faults as with D bits
};

// "write-protection" and the like.
const char* DirtyTrackingName(DirtyTracking tracking);

// Whether the CPU finds the writes by itself, below entries that have W.
constexpr bool IsByHardware(DirtyTracking tracking) {
  return tracking == DirtyTracking::kDirtyBits || tracking == DirtyTracking::kPml;
}

}  // namespace tdp

#endif  // TDP_MMU_DIRTY_TRACKING_H_
