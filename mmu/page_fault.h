// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what comes of a fault.

#ifndef TDP_MMU_PAGE_FAULT_H_
#define TDP_MMU_PAGE_FAULT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/access.h"
#include "tdp/base/level.h"

namespace tdp {

// Says how a fault ended, and in the comments what the embedder does then. All but `kError` are
// everyday outcomes.
enum class FaultOutcome : uint8_t {
  kFixed,     // the tables changed: run the guest on
  kSpurious,  // the tables already allowed it (another vCPU was faster, or a stale translation):
              // run on
  kRetry,     // memory is changing under the fault: run on, the guest will fault again if need be
  kMmio,      // no memory there, or a write to read-only memory: emulate the access
  kBlocked,   // the host page is not there yet: wait for it, then run on
  kDirtyRingFull,  // nearly: harvest and reset the rings, then run on
  kViewDenied,     // the vCPU's view, or the rights of a slot of host frames, denies the access
                   // (`FaultResult::denied`): emulate, skip or report it, or run on in another view
  kMemoryFault,    // the access is private and the memory shared, or the other way round
                   // (KVM_EXIT_MEMORY_FAULT): `Vm::SetMemoryAttributes`, or an error of the guest
  kError,          // `FaultResult::status` says why; the tables are as they were
};

// Says whether the guest's access is for private or shared memory, as far as hardware tells.
enum class Privacy : uint8_t {
  kAsSet,  // whichever `Vm::SetMemoryAttributes` gives the frame
  kPrivate,
  kShared,
};

const char* FaultOutcomeName(FaultOutcome outcome);

struct [[nodiscard]] FaultResult {
  FaultOutcome outcome = FaultOutcome::kFixed;
  // The level at which the guest frame is mapped after kFixed or kSpurious.
  Level level = kLevel4K;
  // OK unless `outcome` is kError.
  absl::Status status = absl::OkStatus();
  // After kViewDenied, what the access wanted and the view denies.
  Access denied = Access::None();
};

}  // namespace tdp

#endif  // TDP_MMU_PAGE_FAULT_H_
