// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Does what `Vm` does to ranges besides taking them away: mapping, aging, splitting, collapsing.

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/engine/range_collapse.h"
#include "tdp/mmu/fault/fault_handler.h"
#include "tdp/mmu/fault/prefault.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/tables/range_split.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/checks.h"

namespace tdp {
namespace {

// Ages in sections of its own: a structural operation waits for a part of the range at most.
void Age(Engine& engine, HostRange host, AgeMode mode, Aged& aged) {
  SlotReader(engine.slots())
      .ForEachInHostRange(host, [&](const MemorySlot& slot, Gfn first, PageCount pages) {
        engine.space(slot.address_space).Age({first, first + pages}, mode, aged);
      });
}

// Sets `any` if a leaf became a table.
absl::Status SplitIn(Engine& engine, const DirectMmu& mmu, const SpaceRange& where, Level to,
                     TableCache& tables, bool& any) {
  RangeSplit split(mmu, engine.mmu_lock());
  absl::Status status;
  FrameRange range = where.frames;
  // The first try is without tables: where nothing is large none is needed.
  for (;;) {
    range.first = split.Run(range, to, tables);
    if (range.is_empty()) break;
    status = engine.cold_tables().Stock(tables, where);
    if (!status.ok()) break;
  }
  any |= split.any();
  return status;
}

}  // namespace

absl::StatusOr<AgeResult> Vm::AgeHostRange(Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckHostRange(start, size));
  Aged aged;
  const FlushClock::Narrowing narrowing(engine_->clock());
  if (!engine_->accessed_dirty()) engine_->TrackAccess();
  Age(*engine_, HostRange(start, size), AgeMode::kMakeOld, aged);
  if (aged.took_rights) aged.flush.Merge(engine_->clock().Advance());
  return AgeResult{aged.young, std::move(aged.flush)};
}

absl::StatusOr<bool> Vm::TestAge(Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckHostRange(start, size));
  Aged aged;
  Age(*engine_, HostRange(start, size), AgeMode::kTest, aged);
  return aged.young;
}

absl::StatusOr<PendingFlush> Vm::SplitRange(Gfn first, PageCount count, Level to,
                                            AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kSplitAndCollapse));
  TDP_ASSIGN_OR_RETURN(const FrameRange range, CheckFrames(*engine_, first, count, space));
  if (to != kLevel4K && to != kLevel2M) {
    return absl::InvalidArgumentError(absl::StrFormat("level %d: must be 1 or 2", to.raw()));
  }
  TableCache tables(engine_->pool());
  absl::Status status;
  bool any = false;
  engine_->views(space).ForEach([&](const View& view) {
    if (status.ok()) status = SplitIn(*engine_, view.mmu(), {space, range}, to, tables, any);
  });
  PendingFlush flush;
  if (any) flush = engine_->clock().Advance();
  if (status.ok()) return flush;
  flush.Settle();
  return status;
}

absl::StatusOr<uint64_t> Vm::CollapseRange(Gfn first, PageCount count, AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kSplitAndCollapse));
  TDP_ASSIGN_OR_RETURN(const FrameRange range, CheckFrames(*engine_, first, count, space));
  uint64_t collapsed = 0;
  for (Level level = kLevel2M; level <= engine_->max_leaf_level(); level = level.above()) {
    engine_->views(space).ForEach(
        [&](View& view) { collapsed += RangeCollapse(*engine_, space, view).Run(range, level); });
  }
  return collapsed;
}

// Maps by faults of no kind of access: those map all that slot, host and view allow, and mark
// nothing as written.
absl::StatusOr<ByteCount> Vm::Populate(Gpa gpa, ByteCount size, AddressSpaceId space, ViewId id) {
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kPopulate));
  TDP_RETURN_IF_ERROR(Prefaulter::CheckRange(gpa, size));
  if (gpa + (size - 1) >= engine_->guest_end()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("gpa 0x%x, size 0x%x: beyond the guest's width (0x%x)", gpa.raw(), size,
                        engine_->guest_end().raw()));
  }
  TDP_ASSIGN_OR_RETURN(View * view, FindView(*engine_, id, space));
  const auto faults = std::make_unique<FaultHandler>(*engine_);
  if (!view->Enter()) {
    return absl::NotFoundError(absl::StrFormat("view %u: it is being destroyed", id));
  }
  faults->Adopt(space, *view);
  return Prefaulter(*faults).Prefault(gpa, size, Access::None());
}

}  // namespace tdp
