// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What `Vm` does to ranges besides taking them away: aging, splitting, collapsing.

#include <algorithm>
#include <atomic>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/slot_reader.h"
#include "tdp/mmu/engine/range_collapse.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/tables/aging.h"
#include "tdp/mmu/tables/range_split.h"
#include "tdp/mmu/vm.h"

namespace tdp {

// Calls `visit(mmu, range)` for each range of frames that the host range backs, in every view.
template <typename Visit>
void Vm::ForEachBackedRange(HostRange host, Visit visit) {
  SlotReader(engine_->slots)
      .ForEachInHostRange(host, [&](const MemorySlot& slot, Gfn first, PageCount pages) {
        engine_->ForEachView(slot.address_space, [&](View& view) {
          visit(view.mmu(), {first, first + pages});
        });
      });
}

// By the reverse map.
bool Vm::AgeShadow(HostRange range, bool test) {
  bool young = false;
  MmuLock::Reader reader(engine_->mmu_lock);
  SlotReader(engine_->slots)
      .ForEachInHostRange(range, [&](const MemorySlot& slot, Gfn first, PageCount pages) {
        PagingShadow* shadow = engine_->shadow(slot.address_space);
        MmuReadSection section(reader);
        const SpinLockHolder hold(shadow->lock());
        young |= shadow->Age(first, first + pages, test);
      });
  return young;
}

// What L2 uses has no flags to tell its age: it is taken away, and young if it was there.
bool Vm::AgeNested(HostRange range, bool test, PendingFlush& flush) {
  bool young = false;
  SlotReader(engine_->slots)
      .ForEachInHostRange(range, [&](const MemorySlot& slot, Gfn first, PageCount pages) {
        MmuWriteSection section(engine_->mmu_lock);
        NestedShadow* nested = engine_->nested(slot.address_space);
        const bool maps = nested->Maps(first, first + pages);
        young |= maps;
        if (!maps || test) return;
        ShadowZap zap;
        nested->Detach(first, first + pages, zap);
        PendingFlush part = engine_->clock.Advance();
        engine_->clock.Retire(std::move(zap.tables), part);
        flush.Merge(std::move(part));
      });
  return young;
}

absl::StatusOr<AgeResult> Vm::AgeHostRange(Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckHostRange(start, size));
  const HostRange host(start, size);
  AgeResult result;
  if (engine_->options().paging == Paging::kShadow) {
    result.young = AgeShadow(host, false);
    return result;
  }
  bool took_rights = false;
  const FlushClock::Narrowing narrowing(engine_->clock);
  // Before the first right is taken: the fault that misses it is to see this.
  if (!engine_->accessed_dirty()) engine_->tracks_access.store(true, std::memory_order_relaxed);
  ForEachBackedRange(host, [&](const DirectMmu& mmu, FrameRange range) {
    Aging aging(mmu, engine_->mmu_lock);
    result.young |= aging.Age(range);
    took_rights |= aging.took_rights();
  });
  if (took_rights) result.flush = engine_->clock.Advance();
  if (engine_->options().nested) result.young |= AgeNested(host, false, result.flush);
  return result;
}

absl::StatusOr<bool> Vm::TestAge(Hva start, ByteCount size) {
  TDP_RETURN_IF_ERROR(CheckHostRange(start, size));
  const HostRange host(start, size);
  if (engine_->options().paging == Paging::kShadow) return AgeShadow(host, true);
  bool young = false;
  ForEachBackedRange(host, [&](const DirectMmu& mmu, FrameRange range) {
    young = young || Aging(mmu, engine_->mmu_lock).Test(range);
  });
  PendingFlush none;
  if (engine_->options().nested) young |= AgeNested(host, true, none);
  return young;
}

absl::StatusOr<FrameRange> Vm::CheckFrames(Gfn first, PageCount count, AddressSpaceId space) const {
  TDP_RETURN_IF_ERROR(CheckSpace(space));
  const Gfn limit = engine_->mmu(space).end();
  if (first >= limit) return FrameRange{limit, limit};
  return FrameRange{first, count > limit - first ? limit : first + count};
}

absl::StatusOr<PendingFlush> Vm::SplitRange(Gfn first, PageCount count, Level to,
                                            AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kSplitAndCollapse));
  TDP_ASSIGN_OR_RETURN(const FrameRange range, CheckFrames(first, count, space));
  if (to != kLevel4K && to != kLevel2M) {
    return absl::InvalidArgumentError(absl::StrFormat("level %d: must be 1 or 2", to.raw()));
  }
  TableCache tables(engine_->pool);
  absl::Status status;
  bool any = false;
  engine_->ForEachView(space, [&](const View& view) {
    if (status.ok()) status = SplitIn(view.mmu(), {space, range}, to, tables, any);
  });
  PendingFlush flush;
  if (any) flush = engine_->clock.Advance();
  if (status.ok()) return flush;
  flush.Settle();
  return status;
}

// Sets `any` if a leaf became a table.
absl::Status Vm::SplitIn(const DirectMmu& mmu, const SpaceRange& where, Level to,
                         TableCache& tables, bool& any) {
  RangeSplit split(mmu, engine_->mmu_lock);
  absl::Status status;
  FrameRange range = where.frames;
  // Without tables at first: where nothing is large none is needed.
  for (;;) {
    range.first = split.Run(range, to, tables);
    if (range.is_empty()) break;
    status = engine_->table_reclaim.Stock(tables, where);
    if (!status.ok()) break;
  }
  any |= split.any();
  return status;
}

absl::StatusOr<uint64_t> Vm::CollapseRange(Gfn first, PageCount count, AddressSpaceId space) {
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kSplitAndCollapse));
  TDP_ASSIGN_OR_RETURN(const FrameRange range, CheckFrames(first, count, space));
  uint64_t collapsed = 0;
  for (Level level = kLevel2M; level <= engine_->max_leaf_level(); level = level.above()) {
    engine_->ForEachView(space, [&](View& view) {
      collapsed += RangeCollapse(*engine_, space, view).Run(range, level);
    });
  }
  return collapsed;
}

}  // namespace tdp
