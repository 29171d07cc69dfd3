// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What the vCPUs of one `Vm` share: the parts of its MMU, in the order of docs/locking.md.
// Embedders see `Vm` and `Vcpu`; this is how those two reach the same state.

#ifndef TDP_MMU_ENGINE_ENGINE_H_
#define TDP_MMU_ENGINE_ENGINE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/optimization.h"
#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/host_range.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/engine/cold_tables.h"
#include "tdp/mmu/engine/vcpu_set.h"
#include "tdp/mmu/paging_kind.h"
#include "tdp/mmu/policy/memory_quotas.h"
#include "tdp/mmu/shadow/shadow_faults.h"
#include "tdp/mmu/space/address_space.h"
#include "tdp/mmu/space/logging_slots.h"
#include "tdp/mmu/space/view.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/change_sequence.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"
#include "tdp/mmu/tables/table_recycler.h"
#include "tdp/mmu/vm_options.h"

namespace tdp {

class Engine : public TableReclaimer, public TableRecycler {
 public:
  // Options are checked. ResourceExhausted if the roots can not be had.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Backend& backend, const VmOptions& options);
  ~Engine() override;

  Backend& backend() { return backend_; }
  const VmOptions& options() const { return options_; }
  bool accessed_dirty() const { return accessed_dirty_; }
  DirtyTracking dirty_tracking() const { return logging_.tracking(); }
  Level max_leaf_level() const { return max_leaf_level_; }
  Gpa guest_end() const { return guest_end_; }
  ViewSet& views(AddressSpaceId space) { return spaces_[space]->views(); }
  const ViewSet& views(AddressSpaceId space) const { return spaces_[space]->views(); }
  // The tables of an address space, where those of its base view will do.
  DirectMmu& mmu(AddressSpaceId space) { return views(space).base().mmu(); }
  const DirectMmu& mmu(AddressSpaceId space) const { return views(space).base().mmu(); }
  size_t address_spaces() const { return spaces_.size(); }
  AddressSpace& space(AddressSpaceId space) { return *spaces_[space]; }
  // Calls `visit(AddressSpace&)` for each of them.
  template <typename Visit>
  void ForEachSpace(Visit visit) {
    for (const std::unique_ptr<AddressSpace>& space : spaces_) visit(*space);
  }
  // Calls `visit(MappedTables&)` for each kind of tables in each of them.
  template <typename Visit>
  void ForEachKind(Visit visit) {
    for (const std::unique_ptr<AddressSpace>& space : spaces_) space->ForEachKind(visit);
  }
  PagingKind paging_kind() const { return paging_kind_; }
  // Null where the VM keeps no reverse map.
  ReverseMappedMmu* reverse_mapped(AddressSpaceId space) const {
    return spaces_[space]->reverse_mapped();
  }
  // For vCPUs whose guests' tables are shadowed.
  PagingParts shadow_parts();
  NestedParts nested_parts();

  // Which rule of the SDM a present entry at `level` breaks.
  EntryDefect CheckEntry(EptEntry entry, Level level) const;

  // Readers' side, with a section of its own: `AddressSpace::NarrowPages`. Under a
  // `FlushClock::Narrowing`.
  void NarrowPages(MmuLock::Reader& reader, AddressSpaceId space, Gfn base, uint64_t mask,
                   WriteNotice notice);

  // Sees to it that zaps have tables to split large leaves by that reach over an end of their
  // range. Without one such a leaf goes as a whole, which is as correct and only costs a fault
  // more. Calls the backend where there are too few, so hold no lock: whoever zaps a range that may
  // end within a leaf calls this before it takes one.
  void StockSpare() {
    if (ABSL_PREDICT_FALSE(!has_spare_.load(std::memory_order_relaxed))) RefillSpare();
  }

  // `detach_all(spare, detached)` takes mappings away in one writer's section and says whether
  // there were any. The flush as below.
  PendingFlush ZapWith(absl::FunctionRef<bool(TableCache& spare, TableList& detached)> detach_all);
  // Takes every mapping of `range` away, which ends where the tables do, or before. Returns the
  // flush that is owed for that: its own, or if nothing was there what others owe by now. Stocks
  // tables itself, so hold no lock; the slots mutex may be held for those that follow.
  PendingFlush Zap(AddressSpaceId space, FrameRange range);
  // The same in every address space; `before()` is called first in the same writer's section.
  PendingFlush ZapEverywhere(Gfn first, Gfn end, absl::FunctionRef<void()> before);
  // The same in one view.
  PendingFlush ZapIn(AddressSpaceId space, View& view, Gfn first, Gfn end,
                     absl::FunctionRef<void()> before);
  // The same of a slot that readers see as invalid, for good: no fault that saw it valid installs
  // anything after this. `after()` is called in the same writer's section, when it is empty.
  PendingFlush ZapSlot(const MemorySlot& slot, absl::FunctionRef<void()> after);

  // The same of what `range` backs, whose invalidation begins in the same writer's section. It is
  // over at the end of that, and `ended` is set, if it may be and no vCPU has to be waited for;
  // else `ChangeSequence::End` ends it.
  PendingFlush BeginInvalidation(HostRange range, bool may_end, bool& ended)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_);

  // Cold tables of views or the oldest shadow pages: of whichever have more than half of all
  // tables, or of the others if those have none to give.
  size_t RecycleTables(size_t wanted) override;

  // `change` says what has changed of what the quotas follow from; they follow.
  void ChangeQuotas(absl::FunctionRef<void(MemoryQuotas&)> change);
  // Shadow pages beyond a quota that has become smaller go. Settles the flush; hold no lock.
  void TrimShadows();
  // The embedder decides from here on.
  void FixTableQuota(size_t tables);

  // Waits for the faults that are inside a section. Each has then marked the page that it made
  // writable, which other CPUs may have written since: a log that is read afterwards has every
  // write that was over before. Hold no section.
  void WaitForFaults() { const MmuWriteSection section(mmu_lock_); }

  // Called with detached subtrees that no CPU can reach: takes the D bits that slots log, frees
  // every table.
  void Reclaim(TableList&& subtrees) override;

  // Of the counters of a `VmStats` all but the vCPUs'. Any thread.
  void AddTo(VmStats& stats) const;
  uint64_t tables_freed() const { return tables_freed_.load(std::memory_order_relaxed); }
  // A fault, or a split, has taken cold tables.
  void CountRecycle() { recycles_.fetch_add(1, std::memory_order_relaxed); }

  // --- The parts. Each is thread-safe by its own rules ---

  // Slot changes, one at a time, and what is said to be under the slots mutex.
  Mutex& slots_mutex() ABSL_LOCK_RETURNED(slots_mutex_) { return slots_mutex_; }
  SlotSet& slots() { return slots_; }
  const SlotSet& slots() const { return slots_; }
  MmuLock& mmu_lock() { return mmu_lock_; }
  ChangeSequence& sequence() { return sequence_; }
  TablePool& pool() { return pool_; }
  FlushClock& clock() { return clock_; }
  ColdTables& cold_tables() { return cold_tables_; }
  LoggingSlots& logging() { return logging_; }
  VcpuSet& vcpus() { return vcpus_; }
  const VcpuSet& vcpus() const { return vcpus_; }

  // Leaves without rights may stand for pages that were aged: a fault that found nothing present
  // looks at its leaf then before it asks the host. Before the first right is taken by aging: the
  // fault that misses it is to see this. Hold no section.
  void TrackAccess();

  // --- Under the slots mutex ---

  // Whether reading a dirty log leaves it as it is (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
  bool manual_dirty_log_protect() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    return manual_dirty_log_protect_;
  }
  void set_manual_dirty_log_protect(bool manual) ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    manual_dirty_log_protect_ = manual;
  }
  // Keeps what leaf policies go by from now on, and gives back what they went by before: it goes
  // when nobody can be reading it. Null: the guest's types do not count.
  void SwapMemoryTypes(std::unique_ptr<const MemoryTypeMap>& types)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    memory_types_.swap(types);
  }
  // The same of private frames. There are some with `VmOptions::private_memory` alone.
  void SwapPrivateFrames(std::unique_ptr<const PrivateFrames>& frames)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    private_frames_.swap(frames);
  }
  // Inside a writer's section: every view goes by `frames` from here on.
  void ShowPrivateFrames(const PrivateFrames* frames);
  const PrivateFrames& private_frames() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    return *private_frames_;
  }

 private:
  Engine(Backend& backend, const VmOptions& options);
  absl::Status AddAddressSpace();
  template <typename DetachAll>
  PendingFlush ZapBy(DetachAll detach_all);
  template <typename DetachAll, typename Then>
  PendingFlush ZapBy(DetachAll detach_all, Then then);
  void RefillSpare();
  size_t RecycleShadows(size_t count);
  MmuParts parts();

  Mutex slots_mutex_;
  SlotSet slots_;
  bool manual_dirty_log_protect_ ABSL_GUARDED_BY(slots_mutex_) = false;
  std::unique_ptr<const MemoryTypeMap> memory_types_ ABSL_GUARDED_BY(slots_mutex_);
  std::unique_ptr<const PrivateFrames> private_frames_ ABSL_GUARDED_BY(slots_mutex_);
  MmuLock mmu_lock_;
  ChangeSequence sequence_;
  TablePool pool_;
  FlushClock clock_;
  ColdTables cold_tables_;
  // Faults read what stands from here on, and few write it; what writers and vCPUs that come and go
  // change has lines of its own.
  alignas(64) LoggingSlots logging_;
  alignas(64) Counter zaps_;  // counted inside a writer's section
  Atomic<uint64_t> tables_freed_{0};
  Atomic<uint64_t> recycles_{0};
  VcpuSet vcpus_;

  Mutex quota_mutex_;
  MemoryQuotas quotas_ ABSL_GUARDED_BY(quota_mutex_);
  bool table_quota_by_memory_ ABSL_GUARDED_BY(quota_mutex_);

  // Tables for zaps that have to split, kept from one to the next. Changed in the writer's section;
  // whether there are enough is looked at before it.
  TableCache spare_;
  Atomic<bool> has_spare_{false};

  alignas(64) Backend& backend_;
  const VmOptions options_;
  const bool accessed_dirty_;
  const Level max_leaf_level_;
  const Gpa guest_end_;
  const PagingKind paging_kind_;
  const ShadowOwner<ShadowPools> shadow_pools_;
  std::vector<std::unique_ptr<AddressSpace>> spaces_;
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_ENGINE_H_
