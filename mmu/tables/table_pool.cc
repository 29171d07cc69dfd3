// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/table_pool.h"

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"

namespace tdp {

TablePool::TablePool(Backend& backend, size_t quota, EptEntry empty_entry)
    : backend_(backend),
      direct_map_(backend.capabilities().direct_map_offset),
      empty_entry_(empty_entry),
      quota_(quota) {}

TablePool::~TablePool() {
  TDP_CHECK_EQ(taken(), size_t{0});
  MutexLock lock(mutex_);
  while (block_list_ != nullptr) {
    TablePage* block = std::exchange(block_list_, block_list_->next);
    backend_.FreeTableBlock(HpaOf(reinterpret_cast<uint64_t*>(block)));
  }
}

// Returns whether `count` more may be taken; they count as taken then.
bool TablePool::FitsQuota(size_t count) {
  // A request that does not fit never counts, not even for a moment: another thread's might fit.
  const size_t limit = quota();
  size_t taken = taken_.load(std::memory_order_relaxed);
  do {
    if (count > limit || taken > limit - count) return false;
  } while (!taken_.compare_exchange_weak(taken, taken + count));
  return true;
}

absl::Status TablePool::Take(size_t count, TableList& out) {
  if (FitsQuota(count)) return TakeCounted(count, out);
  return absl::ResourceExhaustedError(
      absl::StrFormat("table quota %u reached: %u more asked for", quota(), count));
}

bool TablePool::TakeFree(size_t least, size_t most, TableList& out) {
  MutexLock lock(mutex_);
  const size_t count = std::min(most, free_.size());
  if (count < least || !FitsQuota(count)) return false;
  for (size_t i = 0; i < count; ++i) out.Push(free_.Pop());
  return true;
}

// Takes tables that `taken_` holds already; it no longer does if they cannot be had.
absl::Status TablePool::TakeCounted(size_t count, TableList& out) {
  TableList got;
  for (;;) {
    {
      MutexLock lock(mutex_);
      while (got.size() < count && !free_.empty()) got.Push(free_.Pop());
    }
    if (got.size() == count) break;
    if (absl::Status status = AddBlock(); !status.ok()) {
      taken_.fetch_sub(count - got.size());
      ReturnUnused(std::move(got));
      return status;
    }
  }
  out.Splice(std::move(got));
  return absl::OkStatus();
}

absl::Status TablePool::AddBlock() {
  absl::StatusOr<Hpa> block = backend_.AllocateTableBlock();
  if (!block.ok()) return block.status();
  TDP_CHECK(block->is_aligned(kTableBlockBytes));
  auto* records = reinterpret_cast<TablePage*>(EntriesOf(*block));
  TableList fresh;
  for (int i = kTablesPerBlock; i >= 1; --i) {
    TablePage* page = new (records + i) TablePage;
    Fill(page);
    fresh.Push(page);
  }
  TablePage* own = new (records) TablePage;
  blocks_.fetch_add(1, std::memory_order_relaxed);
  blocks_added_.fetch_add(1, std::memory_order_relaxed);
  MutexLock lock(mutex_);
  own->next = std::exchange(block_list_, own);
  free_.Splice(std::move(fresh));
  return absl::OkStatus();
}

absl::Status TablePool::Reserve(size_t tables, size_t spare) {
  // Each is loaded once: whoever takes tables meanwhile takes them from the reserve.
  const size_t limit = quota();
  const size_t in_use = taken();
  if (in_use > limit || tables > limit - in_use) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "table quota %u reached: %u in use, %u more asked for", limit, in_use, tables));
  }
  for (;;) {
    {
      MutexLock lock(mutex_);
      const size_t free = free_.size();
      if (free >= tables && free - tables >= spare) return absl::OkStatus();  // the sum may wrap
    }
    TDP_RETURN_IF_ERROR(AddBlock());
  }
}

ByteCount TablePool::ReleaseBlocks(absl::FunctionRef<void(Keep keep)> for_kept) {
  TablePage* released;
  {
    MutexLock lock(mutex_);
    released = TakeFreeBlocks(for_kept);
  }
  ByteCount bytes = 0;
  while (released != nullptr) {
    TablePage* block = std::exchange(released, released->next);
    blocks_.fetch_sub(1, std::memory_order_relaxed);
    backend_.FreeTableBlock(HpaOf(reinterpret_cast<uint64_t*>(block)));
    bytes += kTableBlockBytes;
  }
  return bytes;
}

// Takes the blocks without a table in use out of both lists. While it runs `retired_at` of a
// block's own record, which is no table's, counts the free tables of the block.
TablePage* TablePool::TakeFreeBlocks(absl::FunctionRef<void(Keep keep)> for_kept) {
  for (TablePage* block = block_list_; block != nullptr; block = block->next) block->retired_at = 0;
  for (TablePage* page = free_.head(); page != nullptr; page = page->next) {
    ++page->block()->retired_at;
  }
  // A block of a table that is kept is here: it was not free when the table came to be kept.
  for_kept([](const uint64_t* table) { TablePage::Of(table)->block()->retired_at = 0; });
  const auto is_free = [](const TablePage* block) { return block->retired_at == kTablesPerBlock; };
  TableList kept;
  while (TablePage* page = free_.Pop()) {
    if (!is_free(page->block())) kept.Push(page);
  }
  free_ = std::move(kept);
  TablePage* released = nullptr;
  for (TablePage** link = &block_list_; *link != nullptr;) {
    TablePage* block = *link;
    if (is_free(block)) {
      *link = block->next;
      block->next = std::exchange(released, block);
    } else {
      link = &block->next;
    }
  }
  return released;
}

void TablePool::Fill(TablePage* page) const {
  std::fill_n(page->entries(), Level::kEntries, empty_entry_.raw());
}

void TablePool::Return(TableList&& tables) {
  for (TablePage* page = tables.head(); page != nullptr; page = page->next) {
    Fill(page);
    page->in_use = false;
    page->may_be_dirty = false;
    page->lines.store(0, std::memory_order_relaxed);
    page->lines_learned.store(0, std::memory_order_relaxed);
  }
  ReturnUnused(std::move(tables));
}

void TablePool::ReturnUnused(TableList&& tables) {
  taken_.fetch_sub(tables.size());
  MutexLock lock(mutex_);
  free_.Splice(std::move(tables));
}

TableCache::~TableCache() {
  if (size_ == 0) return;
  TableList rest;
  while (size_ > 0) rest.Push(Pop());
  pool_.ReturnUnused(std::move(rest));
}

// Takes what is free first, even if that makes no full stock: as long as it does the backend is not
// asked (`TablePool::Reserve`).
// Under a small quota stocks must not keep from each other what their next faults need.
absl::Status TableCache::RefillSlow(int needed) {
  const auto least = static_cast<size_t>(needed - size_);
  const size_t share = std::max(least, pool_.room() / 4);
  const size_t most = std::min(share, static_cast<size_t>(kCapacity - size_));
  TableList got;
  absl::Status status;
  if (!pool_.TakeFree(least, most, got)) {
    status = pool_.Take(most, got);
    // Near the quota a full stock may not fit where what one fault needs does.
    if (!status.ok()) status = pool_.Take(least, got);
  }
  while (!got.empty()) PushUnused(got.Pop());
  return status;
}

}  // namespace tdp
