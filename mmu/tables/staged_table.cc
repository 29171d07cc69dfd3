// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/staged_table.h"

#include <algorithm>
#include <cstdint>

namespace tdp {
namespace {

// Returns what an entry must allow where `allowed` is staged: an access of no kind wants all of it.
Access NeededOf(Access needed, Access allowed) {
  return needed.is_empty() ? allowed & Access::ReadWrite() : needed;
}

}  // namespace

StagedTable::StagedTable(const DirectMmu& mmu, Gfn first, TableCache& cache)
    : mmu_(mmu),
      cache_(cache),
      first_(first),
      next_(first),
      table_(mmu.NewTable(first, kLevel4K, cache)) {}

StagedTable::~StagedTable() {
  if (table_ == nullptr) return;
  const uint64_t empty = mmu_.empty_entry().raw();
  std::fill_n(table_->entries() + kLevel4K.IndexOf(first_), (next_ - first_).raw(), empty);
  mmu_.DropTable(table_, cache_);
}

void StagedTable::Append(EptEntry leaf, PageCount pages) {
  uint64_t* to = table_->entries() + kLevel4K.IndexOf(next_);
  allowed_ = allowed_ | leaf.access();
  for (uint64_t i = 0; i < pages.raw(); ++i) to[i] = leaf.FollowedBy(PageCount(i)).raw();
  next_ += pages;
}

StagedTable::Published StagedTable::Publish(Access needed) {
  AssertInSection();
  Published published{.outcome = MapOutcome::kInstalled, .reached = first_, .installed = {}};
  const auto [at, old] = mmu_.Descend(mmu_.Root(), first_, kLevel4K);
  if (!at.above.Covers(NeededOf(needed, allowed_))) return published;
  if (at.level == kLevel4K) return Merge(at, needed);
  if (old.kind(at.level) == EntryKind::kLeaf) return published;
  TablePage* unused = nullptr;
  published.outcome = mmu_.Link(at, old, first_, mmu_.LinkTo(table_), kLevel2M, cache_, unused);
  if (published.outcome != MapOutcome::kInstalled) return published;
  table_ = nullptr;
  published.reached = next_;
  published.installed = next_ - first_;
  return published;
}

StagedTable::Published StagedTable::Merge(const EntryPosition& at, Access needed) {
  Published published{.outcome = MapOutcome::kInstalled, .reached = first_, .installed = {}};
  for (Gfn gfn = first_; gfn < next_; gfn += PageCount(1)) {
    const EptEntry staged(table_->entries()[kLevel4K.IndexOf(gfn)]);
    if (!MergeEntry(at.entry(gfn), staged, needed, published)) break;
    published.reached = gfn + PageCount(1);
  }
  return published;
}

// Returns whether the entry maps the staged frame with the rights of `needed` afterwards.
bool StagedTable::MergeEntry(EntryRef entry, EptEntry staged, Access needed,
                             Published& published) const {
  EptEntry old = entry.Load();
  while (old.kind(kLevel4K) != EntryKind::kLeaf) {
    DirectMmu::NoteLine(entry);
    if (!entry.CompareExchange(old, staged)) continue;
    published.installed += PageCount(1);
    return true;
  }
  return old.frame() == staged.frame() && old.access().Covers(NeededOf(needed, staged.access()));
}

}  // namespace tdp
