// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The memory of a `Vm`'s tables: blocks from the backend, a list of free tables, and a small cache
// of them for each vCPU so that a fault never allocates.

#ifndef TDP_MMU_TABLES_TABLE_POOL_H_
#define TDP_MMU_TABLES_TABLE_POOL_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/base/index.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/format/table_page.h"

namespace tdp {

// Tells where tables are reached. It is a copy for loops, which could not keep the pool's own
// across their loads.
class DirectMap {
 public:
  explicit DirectMap(uintptr_t offset) : offset_(offset) {}
  uint64_t* EntriesOf(Hpa table) const {
    return reinterpret_cast<uint64_t*>(table.raw() + offset_);
  }
  Hpa HpaOf(const uint64_t* table) const {
    return Hpa(reinterpret_cast<uintptr_t>(table) - offset_);
  }

 private:
  uintptr_t offset_;
};

// Thread-safe. A free table always holds `empty_entry` in every entry: clearing happens when tables
// come back, in batches and outside every other lock.
class TablePool {
 public:
  // `quota` limits the tables in use or in caches; `empty_entry` fills fresh tables.
  TablePool(Backend& backend, size_t quota, EptEntry empty_entry);
  // By then every table has come back.
  ~TablePool();

  TablePool(const TablePool&) = delete;
  TablePool& operator=(const TablePool&) = delete;

  // Moves `count` tables to `out`. ResourceExhausted, with nothing moved, if the quota or the
  // backend has no room. May call the backend; hold no lock.
  absl::Status Take(size_t count, TableList& out) ABSL_LOCKS_EXCLUDED(mutex_);
  // Moves tables that are free already, as many as there are up to `most`. False, with nothing
  // moved, if they are fewer than `least` or the quota has no room for them. Hold no lock.
  bool TakeFree(size_t least, size_t most, TableList& out) ABSL_LOCKS_EXCLUDED(mutex_);

  // Takes tables back, whatever they hold, and makes them empty again. No CPU can reach them.
  void Return(TableList&& tables) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes tables back that were never linked and are still empty.
  void ReturnUnused(TableList&& tables) ABSL_LOCKS_EXCLUDED(mutex_);

  // Sees to it that `tables` tables are free, and `spare` more of which the quota says nothing:
  // that many can be taken without a call of the backend. ResourceExhausted if the quota would not
  // let them be taken, or if the backend has no room; what it gave stays here then. May call the
  // backend; hold no lock.
  absl::Status Reserve(size_t tables, size_t spare = 0) ABSL_LOCKS_EXCLUDED(mutex_);
  // Gives the backend each block back of which no table is taken, nor kept: `for_kept(keep)` calls
  // `keep(table)` for each table that someone may still read, under the pool's lock. Returns the
  // bytes of these blocks. Takes a time in the number of free tables and of blocks, part of it
  // under that lock, and calls the backend; hold no lock.
  using Keep = absl::FunctionRef<void(const uint64_t* table)>;
  ByteCount ReleaseBlocks(absl::FunctionRef<void(Keep keep)> for_kept = [](Keep) {})
      ABSL_LOCKS_EXCLUDED(mutex_);

  size_t quota() const { return quota_.load(std::memory_order_relaxed); }
  // Sets the quota. One below the number in use stops further allocation and takes nothing away.
  void set_quota(size_t tables) { quota_.store(tables, std::memory_order_relaxed); }
  // Returns how many more tables the quota leaves.
  size_t room() const {
    const size_t taken = this->taken();
    return taken < quota() ? quota() - taken : 0;
  }
  // Returns how many tables are taken and not returned: linked, detached or in a cache.
  size_t taken() const { return taken_.load(std::memory_order_relaxed); }
  // Returns the bytes held from the backend, free tables and metadata included.
  ByteCount reserved_bytes() const {
    return blocks_.load(std::memory_order_relaxed) * kTableBlockBytes;
  }

  // Returns how many blocks have ever come.
  uint64_t blocks_added() const { return blocks_added_.load(std::memory_order_relaxed); }

  DirectMap direct_map() const { return direct_map_; }
  Hpa HpaOf(const uint64_t* table) const { return direct_map_.HpaOf(table); }
  uint64_t* EntriesOf(Hpa table) const { return direct_map_.EntriesOf(table); }
  EptEntry empty_entry() const { return empty_entry_; }

 private:
  void Fill(TablePage* page) const;
  bool FitsQuota(size_t count);
  absl::Status TakeCounted(size_t count, TableList& out) ABSL_LOCKS_EXCLUDED(mutex_);
  absl::Status AddBlock() ABSL_LOCKS_EXCLUDED(mutex_);
  TablePage* TakeFreeBlocks(absl::FunctionRef<void(Keep keep)> for_kept)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  Backend& backend_;
  const DirectMap direct_map_;
  const EptEntry empty_entry_;
  // Every fault reads what stands above; refills and frees write what follows, in lines of its own.
  alignas(64) Atomic<size_t> quota_;
  Atomic<size_t> taken_ = 0;
  Atomic<size_t> blocks_ = 0;
  Mutex mutex_;
  TableList free_ ABSL_GUARDED_BY(mutex_);
  TablePage* block_list_ ABSL_GUARDED_BY(mutex_) = nullptr;  // the blocks' own records
  // It stands behind, so that all of what a refill writes stays in one line.
  Atomic<uint64_t> blocks_added_ = 0;
};

// A vCPU's stock of free tables, which belongs to one thread at a time.
class TableCache {
 public:
  // The most tables that one fault can need: a whole path below the root, and one to split a leaf.
  static constexpr int kFaultMaximum = 5;
  // A refill brings the stock to this many, or near the quota to fewer.
  static constexpr int kCapacity = 32;

  explicit TableCache(TablePool& pool) : pool_(pool) {}
  ~TableCache();

  TableCache(const TableCache&) = delete;
  TableCache& operator=(const TableCache&) = delete;

  // Returns whether `kFaultMaximum` tables are here.
  bool IsStocked() const { return size_ >= kFaultMaximum; }
  // Sees to it that `needed` tables, at most `kCapacity`, are here: one compare where they are.
  // ResourceExhausted if they can not be had; what was here stays. Hold no lock.
  absl::Status Refill(int needed = kFaultMaximum) {
    if (size_ >= needed) return absl::OkStatus();
    return RefillSlow(needed);
  }

  // Moves tables from `other` here until `wanted`, at most `kCapacity`, are here, as far as they
  // go.
  void TakeFrom(TableCache& other, int wanted) {
    while (size_ < wanted && other.size_ > 0) PushUnused(other.Pop());
  }

  int size() const { return size_; }
  // Takes a table out of the stock, which is not empty.
  TablePage* Pop() { return stock_[AsIndex(--size_)]; }
  // Gives back a table that was popped and not linked, still empty.
  void PushUnused(TablePage* page) { stock_[AsIndex(size_++)] = page; }

 private:
  absl::Status RefillSlow(int needed);

  TablePool& pool_;
  int size_ = 0;
  std::array<TablePage*, kCapacity> stock_;
};

}  // namespace tdp

#endif  // TDP_MMU_TABLES_TABLE_POOL_H_
