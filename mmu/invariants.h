// SPDX-License-Identifier: Apache-2.0
//
// The checker behind `Vm::CheckInvariants`.

#ifndef TDP_MMU_INVARIANTS_H_
#define TDP_MMU_INVARIANTS_H_

#include "absl/status/status.h"
#include "tdp/mmu/engine.h"

namespace tdp {

// OK, or Internal with the first thing that does not hold. The caller holds the slots mutex and the
// writer side of `MmuLock`.
absl::Status CheckEngineInvariants(Engine& engine);

}  // namespace tdp

#endif  // TDP_MMU_INVARIANTS_H_
