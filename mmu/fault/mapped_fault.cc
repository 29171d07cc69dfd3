// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The short way of a fault where a reverse map is kept.

#include <cstdint>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/mmu/fault/fault_handler.h"
#include "tdp/mmu/fault/try_section.h"
#include "tdp/mmu/reverse_mapped/reverse_mapped_mmu.h"

namespace tdp {

// Answers a fault that found nothing mapped, in a slot in which nobody but the host has a say (as
// `HandlePlain` has it), on an ordinary page: its leaf goes into a hole of the table of the last
// fault, and its place into the reverse map. Where something is in the way the whole fault runs,
// and asks the host again.
void FaultHandler::HandleMapped(FaultResult& result, Gpa gpa, ExitQualification exit) {
  const uint64_t sequence = sequence_.Current();
  const Gfn gfn = Gfn::Of(gpa);
  const MemorySlot* const slot = slots_.Find(space_, gfn);
  if (slot == nullptr || slot->flags != 0 || slot->invalid || policy().is_special() ||
      !tables_.IsStocked() || !memo_.IsNear(gfn, kLevel4K)) {
    return HandleExit(result, gpa, exit);
  }
  const auto found = backend_.Resolve(slot->HvaOf(gfn), exit.access());
  if (ABSL_PREDICT_TRUE(
          found.ok() && policy().IsOrdinary(*found) &&
          FillMapped(*slot, gfn, sequence, policy().OrdinaryLeaf(found->hfn, exit.access())))) {
    counters_.leaves[0].Add();
    return;
  }
  HandleExit(result, gpa, exit);
}

// Puts leaf and place where they belong. False leaves everything as it is.
ABSL_ATTRIBUTE_ALWAYS_INLINE inline bool FaultHandler::FillMapped(const MemorySlot& slot, Gfn gfn,
                                                                  uint64_t sequence,
                                                                  EptEntry leaf) {
  return kHasShadow && TryInMmuSection(reader_, [&]() ABSL_ATTRIBUTE_ALWAYS_INLINE {
           return sequence_.IsQuietSince(sequence) &&
                  reverse_mapped_->FillHole(gfn, leaf, *reverse_mapped_->RmapOf(slot), memo_);
         });
}

}  // namespace tdp
