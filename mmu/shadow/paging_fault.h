// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what comes of a page fault (#PF) that the CPU raised while a guest ran on shadow tables.

#ifndef TDP_MMU_SHADOW_PAGING_FAULT_H_
#define TDP_MMU_SHADOW_PAGING_FAULT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"

namespace tdp {

enum class PagingOutcome : uint8_t {
  kFixed,         // the tables changed: run the guest on
  kSpurious,      // they already allowed it: run on
  kRetry,         // memory is changing under the fault: run on
  kGuestFault,    // the guest's own: deliver #PF with `error_code`, CR2 is the address
  kMmio,          // no memory at `gpa`, or a write to read-only memory: emulate the access
  kEmulateWrite,  // a write to a page table, at `gpa`: emulate it (`ShadowVcpu::EmulateWrite`)
  kNoTable,       // a table of the guest lies where there is no memory, at `gpa`
  kBlocked,       // a host page is not there yet: wait for it, then run on
  kError,         // `status` says why; nothing has been given to the guest
};
inline constexpr int kPagingOutcomes = static_cast<int>(PagingOutcome::kError) + 1;

const char* PagingOutcomeName(PagingOutcome outcome);

struct [[nodiscard]] PagingFaultResult {
  PagingOutcome outcome = PagingOutcome::kFixed;
  Level level = kLevel4K;   // of the leaf, after kFixed and kSpurious
  uint32_t error_code = 0;  // kGuestFault
  Gpa gpa;                  // of the access, where the guest's tables say one; of a table, kNoTable
  absl::Status status = absl::OkStatus();  // kError
};

// Says what an instruction of the guest ends in besides its effect.
enum class GuestEvent : uint8_t {
  kNone,
  kGeneralProtection,  // #GP(0), and the instruction has had no effect
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_PAGING_FAULT_H_
