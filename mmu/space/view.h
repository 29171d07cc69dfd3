// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Views: several roots over the slots of one address space, each with its own rights (Xen's altp2m
// is the same).
//
// A view is one more set of direct tables, filled by the faults of the vCPUs that run on it. Slots,
// logs and host memory are the address space's: whatever takes something away there takes it away
// in every view.

#ifndef TDP_MMU_SPACE_VIEW_H_
#define TDP_MMU_SPACE_VIEW_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/policy/leaf_policy.h"
#include "tdp/mmu/policy/view_rules.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"

namespace tdp {

class View {
 public:
  View(ViewId id, const DirectMmuOptions& mmu, const LeafPolicyOptions& policy, TablePool& pool,
       TablePage* root)
      : mmu_(mmu, pool, root), policy_(policy), id_(id) {}

  View(const View&) = delete;
  View& operator=(const View&) = delete;

  ViewId id() const { return id_; }
  DirectMmu& mmu() { return mmu_; }
  const DirectMmu& mmu() const { return mmu_; }
  LeafPolicy& policy() { return policy_; }
  const LeafPolicy& policy() const { return policy_; }

  // Says that a vCPU begins or ends its use of the view. `Enter` is false if the view is closed.
  bool Enter() {
    if ((users_.fetch_add(1) & kClosed) == 0) return true;
    Leave();
    return false;
  }
  void Leave() { users_.fetch_sub(1); }
  uint32_t users() const { return users_.load() & ~kClosed; }
  bool is_open() const { return (users_.load() & kClosed) == 0; }

  // Lets vCPUs in, or keeps them out; `Close` is false and changes nothing while one is in. Under
  // the slots mutex.
  void Open() { users_.fetch_and(~kClosed); }
  bool Close() {
    uint32_t none = 0;
    return users_.compare_exchange_strong(none, kClosed);
  }

  // `policy()` goes by these. They change under the slots mutex.
  std::unique_ptr<const ViewRules> rules;
  std::unique_ptr<const ViewFrames> frames;

 private:
  static constexpr uint32_t kClosed = uint32_t{1} << 31;

  // These come first, since a fault reads them.
  DirectMmu mmu_;
  LeafPolicy policy_;
  const ViewId id_;
  Atomic<uint32_t> users_{kClosed};  // and, in the same word, whether it is closed
};

// Holds a table that is had before the slots mutex is taken: `Backend::AllocateTableBlock` is
// called under no lock.
class TableInHand {
 public:
  explicit TableInHand(TablePool& pool) : pool_(pool), status_(pool.Take(1, table_)) {}
  ~TableInHand() { pool_.ReturnUnused(std::move(table_)); }
  TableInHand(const TableInHand&) = delete;
  TableInHand& operator=(const TableInHand&) = delete;

  // Returns the table, once; ResourceExhausted if there was none.
  absl::StatusOr<TablePage*> Take() {
    TDP_RETURN_IF_ERROR(status_);
    return table_.Pop();
  }

 private:
  TablePool& pool_;
  TableList table_;
  const absl::Status status_;
};

// The views of one address space. A `View` object, once made, stays: a destroyed view's tables are
// empty and its number is given out again. So whoever goes over all of them needs no lock for it.
class ViewSet {
 public:
  // Every view's tables have `mmu` and every view's leaves `policy`.
  ViewSet(const DirectMmuOptions& mmu, const LeafPolicyOptions& policy, TablePool& pool)
      : mmu_(mmu), policy_(policy), pool_(pool) {}
  // By then the tables have been taken out.
  ~ViewSet() = default;
  ViewSet(const ViewSet&) = delete;
  ViewSet& operator=(const ViewSet&) = delete;

  // --- Any thread ---

  View& base() const { return *views_[kBaseView]; }
  // Returns the view, closed ones included; null if there never was such a view.
  View* Find(ViewId id) const { return id < size() ? views_[id].get() : nullptr; }
  // Returns how many views there are or were, the base first. One that comes meanwhile may be
  // missing; it is empty as it comes.
  size_t size() const { return size_.load(std::memory_order_acquire); }
  View& operator[](size_t index) const { return *views_[index]; }
  // Calls `visit(View&)` for each of them.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (size_t i = 0; i < size(); ++i) visit(*views_[i]);
  }

  // --- Under the slots mutex ---

  // Makes a closed view without tables but a root, for which it takes `table` if it has none yet.
  // ResourceExhausted without a number or a table.
  absl::StatusOr<View*> Make(TableInHand& table);
  // Returns the page that tells VMFUNC which EPTPs the guest may take, by `ViewId`; the first call
  // makes it of `table`. ResourceExhausted without a table for it. Takes the writer's side of
  // `lock`.
  absl::StatusOr<Hpa> EptpList(MmuLock& lock, TableInHand& table);
  bool has_list() const { return list_.load(std::memory_order_relaxed) != nullptr; }
  // Returns the EPTP that stands in the list for `id`.
  Eptp ListedEptp(ViewId id) const;

  // --- Inside a writer's section ---

  // Makes the list, if there is one, true of `view`.
  void UpdateList(const View& view);

  // --- Nobody else is there ---

  // Ends the use of the set and hands its tables out.
  void TakeTables(TableList& out);

 private:
  const DirectMmuOptions mmu_;
  const LeafPolicyOptions policy_;
  TablePool& pool_;
  std::array<std::unique_ptr<View>, kMaxViews> views_;
  Atomic<size_t> size_{0};
  Atomic<TablePage*> list_{nullptr};
};

}  // namespace tdp

#endif  // TDP_MMU_SPACE_VIEW_H_
