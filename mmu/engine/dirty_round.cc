// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/dirty_round.h"

#include <cstdint>

#include "absl/types/span.h"
#include "tdp/mmu/dirty/detached_dirt.h"
#include "tdp/mmu/dirty/dirty_harvest.h"
#include "tdp/mmu/dirty/written_frames.h"

namespace tdp {

void DirtyRound::Gather() {
  switch (engine_.dirty_tracking()) {
    case DirtyTracking::kBest:
    case DirtyTracking::kWriteProtection:
      return engine_.WaitForFaults();  // they have marked by then what others wrote through them
    case DirtyTracking::kDirtyBits:
      return GatherDirtyBits();  // what a fault makes writable has D: it need not be marked
    case DirtyTracking::kPml:
      // A CPU does not log what a fault has given D.
      engine_.WaitForFaults();
      // A vCPU hands its log over before its guest entry ends.
      return engine_.clock().Advance().Settle();
  }
}

void DirtyRound::GatherDirtyBits() {
  // While no slot begins to log, all faults in one that logs are of the kind that notes the lines
  // of tables: those of a reverse map are not, but it finds writes by write-protection alone.
  const uint64_t number = engine_.logging().begun();
  engine_.views(slot_.address_space).ForEach([this, number](const View& view) {
    DirtyHarvest harvest(view.mmu(), engine_.pool(), engine_.mmu_lock(), number);
    harvest.Run(slot_.base, slot_.end(),
                [this](absl::Span<const WrittenFrames> written) { MarkWritten(slot_, written); });
  });
  // The flush makes what was found final, and lets the D bits of detached tables be read.
  PendingFlush flush = engine_.clock().Advance();
  gathered_at_ = flush.generation();
  flush.Settle();
  engine_.clock().WaitForReclaims();
}

void DirtyRound::Rearm(uint64_t base, uint64_t mask) {
  any_ = true;
  const DirtyTracking tracking = engine_.dirty_tracking();
  if (tracking == DirtyTracking::kDirtyBits) return;  // D was cleared as it was gathered
  engine_.NarrowPages(
      reader_, slot_.address_space, slot_.base + PageCount(base), mask,
      tracking == DirtyTracking::kPml ? WriteNotice::kDirtyBit : WriteNotice::kFault);
}

// A page may be in the log, and its W or D gone, while a CPU still has the right to write it:
// another thread took them and has not flushed yet. So a flush is owed if any page was taken, even
// if no entry was changed for it. Where D bits are gathered only a structural operation since then
// can have left such a page; the section waits for one under way.
void DirtyRound::Finish() {
  if (!any_) return;
  if (engine_.dirty_tracking() == DirtyTracking::kDirtyBits) {
    MmuReadSection section(reader_);
    if (engine_.clock().generation() == gathered_at_) return;
  }
  engine_.clock().Advance().Settle();
}

}  // namespace tdp
