// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/nested_fault.h"

namespace tdp {

const char* NestedOutcomeName(NestedOutcome outcome) {
  switch (outcome) {
    case NestedOutcome::kFixed:
      return "fixed";
    case NestedOutcome::kSpurious:
      return "spurious";
    case NestedOutcome::kRetry:
      return "retry";
    case NestedOutcome::kViolation:
      return "violation for L1";
    case NestedOutcome::kMisconfiguration:
      return "misconfiguration for L1";
    case NestedOutcome::kMmio:
      return "mmio";
    case NestedOutcome::kNoTable:
      return "no table";
    case NestedOutcome::kBlocked:
      return "blocked";
    case NestedOutcome::kDirtyRingFull:
      return "dirty ring full";
    case NestedOutcome::kError:
      return "error";
  }
  return "?";
}

}  // namespace tdp
