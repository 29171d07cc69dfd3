// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/page_fault.h"

namespace tdp {

const char* FaultOutcomeName(FaultOutcome outcome) {
  switch (outcome) {
    case FaultOutcome::kFixed:
      return "fixed";
    case FaultOutcome::kSpurious:
      return "spurious";
    case FaultOutcome::kRetry:
      return "retry";
    case FaultOutcome::kMmio:
      return "mmio";
    case FaultOutcome::kDirtyRingFull:
      return "dirty ring full";
    case FaultOutcome::kViewDenied:
      return "view denied";
    case FaultOutcome::kMemoryFault:
      return "memory fault";
    case FaultOutcome::kBlocked:
      return "blocked";
    case FaultOutcome::kError:
      return "error";
  }
  return "unknown";
}

}  // namespace tdp
