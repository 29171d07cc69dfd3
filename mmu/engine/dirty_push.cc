// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/dirty_push.h"

#include <algorithm>

#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {

DirtyPush::DirtyPush(Engine& engine, const MemorySlot& slot)
    : engine_(engine), slot_(slot), reader_(engine.mmu_lock()), tables_(engine.pool()) {}

absl::Status DirtyPush::Run() {
  return engine_.space(slot_.address_space).PushDown([this](DirectMmu& mmu) { return RunIn(mmu); });
}

absl::Status DirtyPush::RunIn(DirectMmu& mmu) {
  const Unprotect unprotect =
      IsByHardware(engine_.dirty_tracking()) ? Unprotect::kPushDirty : Unprotect::kPushWrite;
  PendingFlush flush;
  absl::Status status;
  for (Gfn gfn = slot_.base; gfn < slot_.end() && status.ok();) {
    // Without tables the step may still have nothing to split.
    tables_.Refill().IgnoreError();
    status = MakeRoom(gfn);
    if (!status.ok()) break;
    DirectMmu::PushResult step;
    {
      MmuReadSection section(reader_);
      step = mmu.PushDown(gfn, unprotect, tables_);
      if (step.flush_owed) flush.Merge(engine_.clock().Advance());
    }
    gfn = step.next;
    if (step.outcome == MapOutcome::kNeedsTables) {
      status =
          engine_.cold_tables().Stock(tables_, {slot_.address_space, {slot_.base, slot_.end()}});
    }
    if (step.outcome == MapOutcome::kBusy) Yield();
  }
  flush.Settle();
  return status;
}

// Room for what the step at `gfn` may make writable, where the CPU finds the writes.
absl::Status DirtyPush::MakeRoom(Gfn gfn) {
  if (!IsByHardware(engine_.dirty_tracking())) return absl::OkStatus();
  DirtyLog& log = *slot_.state->dirty_log();
  const Gfn first = gfn.AlignDown(kLevel2M.pages());
  const Gfn last = first + kLevel2M.pages() - PageCount(1);
  TDP_RETURN_IF_ERROR(log.Prepare(slot_.IndexOf(std::max(first, slot_.base))));
  return log.Prepare(slot_.IndexOf(std::min(last, slot_.end() - PageCount(1))));
}

}  // namespace tdp
