// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A reader's section for the shortest ways of a fault, which wait for nothing.

#ifndef TDP_MMU_FAULT_TRY_SECTION_H_
#define TDP_MMU_FAULT_TRY_SECTION_H_

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/mmu/sync/mmu_lock.h"

namespace tdp {

// Calls `work` in a reader's section and returns what it does, or false where there can be no
// section without a wait.
template <typename Work>
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool TryInMmuSection(MmuLock::Reader& reader, Work work) {
  if (ABSL_PREDICT_FALSE(!reader.TryEnter())) return false;
  const bool done = work();
  reader.Leave();
  return done;
}

}  // namespace tdp

#endif  // TDP_MMU_FAULT_TRY_SECTION_H_
