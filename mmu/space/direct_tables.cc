// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/space/direct_tables.h"

#include <cstddef>
#include <utility>

#include "tdp/base/status_macros.h"
#include "tdp/mmu/dirty/detached_dirt.h"
#include "tdp/mmu/tables/aging.h"

namespace tdp {

// Detaches in one view. The D bits of leaves on the edges go to the logs; those of whole tables do
// when they are reclaimed.
bool DirectTables::DetachIn(View& view, FrameRange range, TableCache& spare, TableList& detached) {
  AssertWriting(parts_.mmu_lock);
  if (!parts_.logging.are_harvested()) {
    return view.mmu().Detach(range.first, range.end, spare, detached);
  }
  DetachedDirt dirt(parts_.slots, space_);
  return view.mmu().Detach(range.first, range.end, spare, detached, &dirt);
}

bool DirectTables::Detach(FrameRange range, TableCache& spare, TableList& detached) {
  bool any = false;
  views_.ForEach([&](View& view) { any |= DirectTables::DetachIn(view, range, spare, detached); });
  return any;
}

// MMIO entries stand anywhere, and to look for them would be to visit every table. It is done once
// in half a million changes of slots or more, and costs the guest its faults again.
bool DirectTables::DetachMmio(TableList& detached) {
  if (!caches_mmio_) return false;
  TableCache none(parts_.pool);  // nothing has to be split
  return Detach({Gfn(0), views_.base().mmu().end()}, none, detached);
}

bool DirectTables::DetachRaising(FrameRange slot, TableList& detached) {
  AssertWriting(parts_.mmu_lock);
  bool any = false;
  TableList found;
  views_.ForEach([&](View& view) {
    const ViewRules* rules = view.policy().rules();
    if (rules == nullptr || !rules->has_marked()) return;
    TableCache none(parts_.pool);  // a large leaf over an edge goes as a whole
    any |= view.mmu().Detach(slot.first, slot.end, none, found);
  });
  // D bits in these tables are older than the log, or the log ends.
  for (TablePage* table = found.head(); table != nullptr; table = table->next) {
    table->may_be_dirty = false;
  }
  detached.Splice(std::move(found));
  return any;
}

bool DirectTables::WriteProtect(FrameRange range) {
  AssertWriting(parts_.mmu_lock);
  bool any = false;
  views_.ForEach([&](View& view) { any |= view.mmu().WriteProtect(range.first, range.end); });
  return any;
}

void DirectTables::NarrowPages(Gfn base, uint64_t mask, WriteNotice notice) {
  AssertInSection();
  views_.ForEach([&](View& view) { view.mmu().NarrowPages(base, mask, notice); });
}

void DirectTables::Age(FrameRange range, AgeMode mode, Aged& aged) {
  views_.ForEach([&](View& view) {
    Aging aging(view.mmu(), parts_.mmu_lock);
    if (mode == AgeMode::kTest) {
      aged.young = aged.young || aging.Test(range);
    } else {
      aged.young |= aging.Age(range);
      aged.took_rights |= aging.took_rights();
    }
  });
}

// The roots stay. A root in memory that has just come might be one that a CPU has translations of,
// left by a VM that is gone; and guests that change views by VMFUNC would go there before any
// flush.
PendingFlush DirectTables::ZapAll() {
  TableList detached;
  MmuWriteSection section(parts_.mmu_lock);
  ForgetLeaves();
  bool any = false;
  views_.ForEach([&](View& view) { any |= view.mmu().DetachAll(detached); });
  PendingFlush flush = parts_.clock.AdvanceIf(any);
  parts_.clock.Retire(std::move(detached), flush);
  if (any) parts_.zaps.Add();
  return flush;
}

absl::Status DirectTables::PushDown(absl::FunctionRef<absl::Status(DirectMmu& mmu)> push) {
  absl::Status status;
  views_.ForEach([&](View& view) {
    if (status.ok()) status = push(view.mmu());
  });
  return status;
}

}  // namespace tdp
