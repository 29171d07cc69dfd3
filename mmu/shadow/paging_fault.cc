// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/shadow/paging_fault.h"

namespace tdp {

const char* PagingOutcomeName(PagingOutcome outcome) {
  switch (outcome) {
    case PagingOutcome::kFixed:
      return "fixed";
    case PagingOutcome::kSpurious:
      return "spurious";
    case PagingOutcome::kRetry:
      return "retry";
    case PagingOutcome::kGuestFault:
      return "guest fault";
    case PagingOutcome::kMmio:
      return "MMIO";
    case PagingOutcome::kEmulateWrite:
      return "emulate write";
    case PagingOutcome::kNoTable:
      return "no table";
    case PagingOutcome::kBlocked:
      return "blocked";
    case PagingOutcome::kError:
      return "error";
  }
  return "?";
}

}  // namespace tdp
