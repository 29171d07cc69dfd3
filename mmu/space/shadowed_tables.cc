// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/space/shadowed_tables.h"

#include <algorithm>
#include <utility>

#ifndef TDP_NO_SHADOW  // else nobody makes such tables, and what they call is not there

namespace tdp {
namespace {

// How many pages one writer's section zaps for the quota.
constexpr size_t kPagesPerSection = 64;
// How many frames one writer's section ages: vCPUs wait for no more.
constexpr PageCount kFramesPerSection(uint64_t{1} << 15);

}  // namespace

template <typename Entry>
bool ShadowedTables<Entry>::Detach(FrameRange range, TableCache&, TableList& detached) {
  AssertWriting(parts_.mmu_lock);
  ShadowZap zap;
  tables_.Detach(range.first, range.end, zap);
  const bool any = !zap.is_empty();
  detached.Splice(std::move(zap.tables));
  return any;
}

template <typename Entry>
bool ShadowedTables<Entry>::WriteProtect(FrameRange range) {
  AssertWriting(parts_.mmu_lock);
  return tables_.WriteProtect(range.first, range.end);
}

template <typename Entry>
void ShadowedTables<Entry>::SetRmap(uint32_t slot, const std::shared_ptr<SlotRmap>& rmap) {
  AssertWriting(parts_.mmu_lock);
  tables_.SetRmap(slot, rmap);
}

template <typename Entry>
absl::Status ShadowedTables<Entry>::CheckInvariants() const {
  AssertWriting(parts_.mmu_lock);
  return tables_.CheckInvariants();
}

// Writes are always found by their faults here, so W goes whatever the notice.
template <typename Entry>
void ShadowedTables<Entry>::NarrowPages(Gfn base, uint64_t mask, WriteNotice) {
  AssertInSection();
  tables_.WriteProtectPages(base, mask);
}

template <typename Entry>
PendingFlush ShadowedTables<Entry>::ZapAll() {
  {
    const MmuWriteSection section(parts_.mmu_lock);
    parts_.zaps.Add();  // other writers count there, too
  }
  return tables_.ZapAll();
}

template <typename Entry>
size_t ShadowedTables<Entry>::ZapOldest(size_t count) {
  size_t zapped = 0;
  PendingFlush flush;
  {
    MmuWriteSection section(parts_.mmu_lock);
    ShadowZap zap;
    zapped = tables_.ZapOldest(count, zap);
    flush = tables_.Commit(std::move(zap));
  }
  flush.Settle();
  return zapped;
}

// Faults go on meanwhile, but above the quota they make no page without zapping others first.
template <typename Entry>
void ShadowedTables<Entry>::TrimToQuota() {
  while (const size_t excess = Excess()) {
    if (ZapOldest(std::min(excess, kPagesPerSection)) == 0) break;  // the rest are roots
  }
}

template <typename Entry>
size_t ShadowedTables<Entry>::Excess() {
  MmuLock::Reader reader(parts_.mmu_lock);
  const MmuReadSection section(reader);
  return tables_.excess();
}

template <typename Entry>
void ShadowedTables<Entry>::SetQuota(const MemoryQuotas& quotas) {
  tables_.set_page_quota(quotas.ShadowPages(tables_.options().address_space));
}

template <typename Entry>
size_t ShadowedTables<Entry>::shadow_table_count() const {
  return tables_.table_count();
}

template <typename Entry>
void ShadowedTables<Entry>::AddTo(ShadowStats& stats) const {
  tables_.AddTo(stats);
}

template class ShadowedTables<PagingEntry>;
template class ShadowedTables<EptEntry>;

void GuestShadowTables::Age(FrameRange range, AgeMode mode, Aged& aged) {
  for (Gfn first = range.first; first < range.end;) {
    const Gfn end = std::min(range.end, first.AlignDown(kFramesPerSection) + kFramesPerSection);
    const MmuWriteSection section(parts_.mmu_lock);
    aged.young |= tables().Age(first, end, mode == AgeMode::kTest);
    first = end;
  }
}

void NestedTables::Age(FrameRange range, AgeMode mode, Aged& aged) {
  const MmuWriteSection section(parts_.mmu_lock);
  const bool maps = tables().Maps(range.first, range.end);
  aged.young |= maps;
  if (!maps || mode == AgeMode::kTest) return;
  ShadowZap zap;
  tables().Detach(range.first, range.end, zap);
  PendingFlush flush = parts_.clock.Advance();
  parts_.clock.Retire(std::move(zap.tables), flush);
  aged.flush.Merge(std::move(flush));
}

}  // namespace tdp

#endif  // TDP_NO_SHADOW
