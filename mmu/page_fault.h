// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A fault on its way through the engine, and what comes of it.

#ifndef TDP_MMU_PAGE_FAULT_H_
#define TDP_MMU_PAGE_FAULT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/mmu/backend.h"

namespace tdp {

// What happened. All but `kError` are everyday outcomes; what the embedder does is in the comments.
enum class FaultOutcome : uint8_t {
  kFixed,     // the tables changed: run the guest on
  kSpurious,  // the tables already allowed it (another vCPU was faster, or a stale translation):
              // run on
  kRetry,     // memory is changing under the fault: run on, the guest will fault again if need be
  kMmio,      // no memory there, or a write to read-only memory: emulate the access
  kBlocked,   // the host page is not there yet: wait for it, then run on
  kDirtyRingFull,  // nearly: harvest and reset the rings, then run on
  kViewDenied,     // the vCPU's view denies the access (`FaultResult::denied`), not slot or host:
                   // emulate, skip or report it, or run on in another view
  kMemoryFault,    // the access is private and the memory shared, or the other way round
                   // (KVM_EXIT_MEMORY_FAULT): `Vm::SetMemoryAttributes`, or an error of the guest
  kError,          // `FaultResult::status` says why; the tables are as they were
};

const char* FaultOutcomeName(FaultOutcome outcome);

struct [[nodiscard]] FaultResult {
  FaultOutcome outcome = FaultOutcome::kFixed;
  // The level at which the guest frame is mapped after kFixed or kSpurious.
  Level level = kLevel4K;
  // OK unless `outcome` is kError.
  absl::Status status = absl::OkStatus();
  // With kViewDenied: what the access wanted and the view denies.
  Access denied = Access::None();
};

// One fault.
struct PageFault {
  // What was given.
  Gpa gpa;
  Access access;              // what the guest tried
  bool reached_leaf = false;  // the walk found a page and it lacked a right

  // What was derived.
  Gfn gfn;
  uint64_t sequence = 0;             // taken before the slot
  const MemorySlot* slot = nullptr;  // the vCPU's copy
  Hva hva;
  bool log_write = false;  // the slot logs dirty pages and this is a write
  bool need_room = false;  // the log must have room for what the fault makes writable

  // What was found.
  const HostPage* page = nullptr;  // by pointer: copying its small fields stalls on their stores
};

}  // namespace tdp

#endif  // TDP_MMU_PAGE_FAULT_H_
