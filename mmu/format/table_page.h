// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A table's metadata, and where it lies.
//
// Table memory comes in aligned blocks of 64 pages. The first page of a block holds 64 records of
// 64 bytes: one for the block, one for each of its 63 tables. A table's record is thus found from
// the table's address by masking, with no lookup, and costs 65 bytes a table.

#ifndef TDP_MMU_FORMAT_TABLE_PAGE_H_
#define TDP_MMU_FORMAT_TABLE_PAGE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/base/optimization.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/format/entry_ref.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/format/table_block.h"

namespace tdp {

struct ShadowPage;

// The record of one table. Written before the table is linked, constant while it is reachable; the
// list fields belong to whoever holds the table while it is not.
struct alignas(64) TablePage {
  TablePage* next = nullptr;  // in a free list, a cache or a list of detached tables
  uint64_t retired_at = 0;    // the flush generation after which no CPU can reach it, once detached
  Gfn base;                   // first frame that the table maps
  PageRole role;
  // True where the table stands in the tables of a `Vm`, for `Vm::CheckInvariants`; cleared on
  // return.
  bool in_use = false;
  // Says, of a table that was taken out of the tables, whether D bits in it stand for writes that a
  // dirty log has not heard of. Below an entry without W they do not.
  bool may_be_dirty = false;
  // Holds, of a table that shadows a guest's, what is known of it besides.
  ShadowPage* shadow = nullptr;
  // A harvest of D bits may go by these: bit i of `lines` is set where one of the entries 8 i to 8
  // i + 7 may be more than a hole. True of all of them only where `lines_learned` is the harvest's
  // own number; docs/locking.md ("Harvesting D bits") says why. Both begin at 0 when the table
  // comes back.
  Atomic<uint64_t> lines{0};
  Atomic<uint64_t> lines_learned{0};

  // Notes that the hole at `index` is about to be filled. Whoever fills a hole that a harvest may
  // ask for calls it before.
  void NoteLine(int index) {
    const uint64_t bit = uint64_t{1} << (index / kEntriesPerLine);
    if (ABSL_PREDICT_FALSE((lines.load(std::memory_order_relaxed) & bit) == 0)) {
      lines.fetch_or(bit, std::memory_order_acq_rel);
    }
  }
  static constexpr int kEntriesPerLine = 8;

  // Returns the table of this record.
  uint64_t* entries() const {
    const auto self = reinterpret_cast<uintptr_t>(this);
    const uintptr_t block = self & ~uintptr_t{kTableBlockBytes - 1};
    const uintptr_t index = (self - block) / sizeof(TablePage);
    return reinterpret_cast<uint64_t*>(block + index * kPageSize);
  }
  EntryRef entry(int index) const { return EntryRef(entries() + index); }
  // Returns the first record of this one's block, which stands for the block and for no table.
  TablePage* block() {
    return reinterpret_cast<TablePage*>(reinterpret_cast<uintptr_t>(this) &
                                        ~uintptr_t{kTableBlockBytes - 1});
  }
  Level level() const { return role.level(); }

  // Returns the record of the table at `entries`, 4 KiB aligned.
  static TablePage* Of(const uint64_t* entries) {
    const auto address = reinterpret_cast<uintptr_t>(entries);
    const uintptr_t block = address & ~uintptr_t{kTableBlockBytes - 1};
    return reinterpret_cast<TablePage*>(block +
                                        ((address - block) >> kPageShift) * sizeof(TablePage));
  }
};

static_assert(sizeof(TablePage) == 64, "metadata is one cache line a table");

inline constexpr int kTablesPerBlock = static_cast<int>(kTableBlockBytes / kPageSize) - 1;
static_assert((kTablesPerBlock + 1) * sizeof(TablePage) == kPageSize);

// A list of tables that nobody else holds, linked through `TablePage::next`.
class TableList {
 public:
  TableList() = default;
  TableList(TableList&& other) noexcept { Splice(std::move(other)); }
  // Only an empty list is assigned to: tables are not dropped.
  TableList& operator=(TableList&& other) noexcept {
    TDP_DCHECK(empty());
    Splice(std::move(other));
    return *this;
  }
  ~TableList() = default;

  bool empty() const { return head_ == nullptr; }
  size_t size() const { return size_; }
  TablePage* head() const { return head_; }

  void Push(TablePage* page) {
    page->next = head_;
    if (head_ == nullptr) tail_ = page;
    head_ = page;
    ++size_;
  }
  // Takes the first table out; nullptr if there is none.
  TablePage* Pop() {
    TablePage* page = head_;
    if (page == nullptr) return nullptr;
    head_ = page->next;
    if (head_ == nullptr) tail_ = nullptr;
    page->next = nullptr;
    --size_;
    return page;
  }
  // Moves all of `other` here, in O(1).
  void Splice(TableList&& other) {
    if (other.empty()) return;
    other.tail_->next = head_;
    if (head_ == nullptr) tail_ = other.tail_;
    head_ = other.head_;
    size_ += other.size_;
    other.head_ = other.tail_ = nullptr;
    other.size_ = 0;
  }

 private:
  TablePage* head_ = nullptr;
  TablePage* tail_ = nullptr;
  size_t size_ = 0;
};

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_TABLE_PAGE_H_
