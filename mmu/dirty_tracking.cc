// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/dirty_tracking.h"

namespace tdp {

const char* DirtyTrackingName(DirtyTracking tracking) {
  switch (tracking) {
    case DirtyTracking::kBest:
      return "best";
    case DirtyTracking::kWriteProtection:
      return "write-protection";
    case DirtyTracking::kDirtyBits:
      return "D bits";
    case DirtyTracking::kPml:
      return "PML";
  }
  return "unknown";
}

}  // namespace tdp
