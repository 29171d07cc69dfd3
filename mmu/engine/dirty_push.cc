// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/dirty_push.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {

DirtyPush::DirtyPush(Engine& engine, AddressSpaceId space)
    : engine_(engine), space_(space), reader_(engine.mmu_lock()), tables_(engine.pool()) {}

// Where the last turn was not short of tables, the next one may need none: it goes on without, too.
absl::Status DirtyPush::Stock() {
  if (is_short_) return engine_.cold_tables().Stock(tables_, {space_, frames_});
  tables_.Refill().IgnoreError();
  return absl::OkStatus();
}

absl::StatusOr<bool> DirtyPush::Run(const MemorySlot& slot) {
  const FrameRange frames{slot.base, slot.end()};
  const uint64_t logs_begun = engine_.logging().begun();
  if (frames.first != frames_.first || frames.end != frames_.end || logs_begun != logs_begun_) {
    frames_ = frames;
    logs_begun_ = logs_begun;
    views_done_ = 0;
    next_ = frames.first;
  }
  slot_ = slot;
  is_short_ = false;
  size_t view = 0;
  TDP_RETURN_IF_ERROR(engine_.space(space_).PushDown([&](DirectMmu& mmu) {
    return view++ < views_done_ || is_short_ ? absl::OkStatus() : RunIn(mmu);
  }));
  return !is_short_;
}

absl::Status DirtyPush::RunIn(DirectMmu& mmu) {
  const Unprotect unprotect =
      IsByHardware(engine_.dirty_tracking()) ? Unprotect::kPushDirty : Unprotect::kPushWrite;
  PendingFlush flush;
  absl::Status status;
  while (next_ < frames_.end && !is_short_) {
    status = MakeRoom(next_);
    if (!status.ok()) break;
    DirectMmu::PushResult step;
    {
      MmuReadSection section(reader_);
      step = mmu.PushDown(next_, unprotect, tables_);
      if (step.flush_owed) flush.Merge(engine_.clock().Advance());
    }
    next_ = step.next;
    is_short_ = step.outcome == MapOutcome::kNeedsTables;
    if (step.outcome == MapOutcome::kBusy) Yield();
  }
  flush.Settle();
  if (status.ok() && !is_short_) {
    ++views_done_;
    next_ = frames_.first;
  }
  return status;
}

// Makes room for what the step at `gfn` may make writable, where the CPU finds the writes.
absl::Status DirtyPush::MakeRoom(Gfn gfn) const {
  if (!IsByHardware(engine_.dirty_tracking())) return absl::OkStatus();
  DirtyLog& log = *slot_.state->dirty_log();
  const Gfn first = gfn.AlignDown(kLevel2M.pages());
  const Gfn last = first + kLevel2M.pages() - PageCount(1);
  TDP_RETURN_IF_ERROR(log.Prepare(slot_.IndexOf(std::max(first, slot_.base))));
  return log.Prepare(slot_.IndexOf(std::min(last, slot_.end() - PageCount(1))));
}

}  // namespace tdp
