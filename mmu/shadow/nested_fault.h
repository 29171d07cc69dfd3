// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a hypervisor in the guest (L1) has given for its own guest (L2), and what comes of an
// EPT violation of L2.

#ifndef TDP_MMU_SHADOW_NESTED_FAULT_H_
#define TDP_MMU_SHADOW_NESTED_FAULT_H_

#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/eptp.h"
#include "tdp/mmu/format/exit_qualification.h"

namespace tdp {

// Holds what of L1's VMCS for L2 bears on translation.
struct NestedContext {
  Eptp eptp;         // EPT12: its tables lie in L1's memory
  EntryRules rules;  // of the CPU that L1 sees; no more than the CPU has
  // The VPID that L1 gives L2; 0 where L1 does not enable VPIDs, whose VM entries and VM exits then
  // drop L2's linear and combined translations and its own (SDM vol. 3C, 30.4.3.1).
  uint16_t vpid = 0;
};

enum class NestedOutcome : uint8_t {
  kFixed,             // EPT02 has changed: run L2 on
  kSpurious,          // it already allowed the access: run on
  kRetry,             // memory is changing under the fault: run on
  kViolation,         // L1's own: give it exit 48 with `qualification` and the address
  kMisconfiguration,  // L1's own: give it exit 49 with the address
  kMmio,              // no memory at L1's `gpa`, or a write to read-only memory: emulate the access
  kNoTable,           // a table of L1's lies where there is no memory, at `gpa`
  kBlocked,           // a host page is not there yet: wait for it, then run on
  kDirtyRingFull,     // nearly: harvest and reset the rings, then run on
  kError,             // `status` says why; nothing has been given to L1
};

const char* NestedOutcomeName(NestedOutcome outcome);

struct [[nodiscard]] NestedFaultResult {
  NestedOutcome outcome = NestedOutcome::kFixed;
  Level level = kLevel4K;                  // of the leaf, after kFixed and kSpurious
  ExitQualification qualification;         // kViolation: as EPT12 makes it
  Gpa gpa;                                 // of L1, where EPT12 says one; of a table, kNoTable
  absl::Status status = absl::OkStatus();  // kError
};

}  // namespace tdp

#endif  // TDP_MMU_SHADOW_NESTED_FAULT_H_
