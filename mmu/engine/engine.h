// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds what the vCPUs of one `Vm` share: the parts of its MMU, in the order of docs/locking.md.
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
  // Makes the parts of a `Vm` whose options are checked. ResourceExhausted if the roots can not be
  // had.
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
  // Return the tables of an address space, where those of its base view will do.
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
  // Returns null where the VM keeps no reverse map.
  ReverseMappedMmu* reverse_mapped(AddressSpaceId space) const {
    return spaces_[space]->reverse_mapped();
  }
  // Return what vCPUs whose guests' tables are shadowed use of it.
  PagingParts shadow_parts();
  NestedParts nested_parts();

  // Returns which rule of the SDM a present entry at `level` breaks.
  EntryDefect CheckEntry(EptEntry entry, Level level) const;

  // Does `AddressSpace::NarrowPages` in a section of its own on the readers' side, under a
  // `FlushClock::Narrowing`.
  void NarrowPages(MmuLock::Reader& reader, AddressSpaceId space, Gfn base, uint64_t mask,
                   WriteNotice notice);

  // Sees to it that a zap of `ranges` ranges has tables to split large leaves by that reach over
  // their ends, in every view: 32 tables at most. Without one such a leaf goes as a whole, which is
  // as correct and only costs a fault more. Calls the backend where there are too few, so hold no
  // lock: whoever zaps a range that may end within a leaf calls this before it takes one.
  void StockSpare(size_t ranges = 1) {
    if (ABSL_PREDICT_FALSE(ranges > 1 || spare_noted_.load(std::memory_order_relaxed) == 0)) {
      RefillSpare(ranges);
    }
  }
  // Lets the next zap look for more tables, after a view has come.
  void StockSpareForMoreViews() { spare_noted_.store(0, std::memory_order_relaxed); }

  // Takes mappings away by `detach_all(spare, detached)`, which says whether there were any, in one
  // writer's section. Returns the flush that is owed, as `Zap` does.
  PendingFlush ZapWith(absl::FunctionRef<bool(TableCache& spare, TableList& detached)> detach_all);
  // Takes every mapping of `range` away, which ends where the tables do, or before. Returns the
  // flush that is owed for that: its own, or if nothing was there what others owe by now. Stocks
  // tables itself, so hold no lock; the slots mutex may be held for those that follow.
  PendingFlush Zap(AddressSpaceId space, FrameRange range);
  // Zaps frames [first, end) of every address space; `before()` is called first in the same
  // writer's section.
  PendingFlush ZapEverywhere(Gfn first, Gfn end, absl::FunctionRef<void()> before);
  // Zaps them in one view; `before()` as above.
  PendingFlush ZapIn(AddressSpaceId space, View& view, Gfn first, Gfn end,
                     absl::FunctionRef<void()> before);
  // Zaps a slot that readers see as invalid, for good: no fault that saw it valid installs anything
  // after this. `after()` is called in the same writer's section, when it is empty.
  PendingFlush ZapSlot(const MemorySlot& slot, absl::FunctionRef<void()> after);

  // Zaps what `range` backs, and begins its invalidation in the same writer's section. The
  // invalidation is over at the end of that, and `ended` is set, if it may be and no vCPU has to be
  // waited for; else `ChangeSequence::End` ends it.
  PendingFlush BeginInvalidation(HostRange range, bool may_end, bool& ended)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_);

  // Gives the tables that are kept for zaps back to the pool, for who is short of tables: a zap
  // does without. Returns how many there were. Hold no lock.
  size_t GiveSpareBack();

  // Takes cold tables of views or the oldest shadow pages back: of whichever have more than half of
  // all tables, or of the others if those have none to give.
  size_t RecycleTables(size_t wanted) override;

  // Lets `change` say what has changed of the numbers that the quotas follow from; then they
  // follow.
  void ChangeQuotas(absl::FunctionRef<void(MemoryQuotas&)> change);
  // Zaps shadow pages beyond a quota that has become smaller. Settles the flush; hold no lock.
  void TrimShadows();
  // Sets the quota of tables: the embedder decides from here on, or memory again
  // (`kQuotaByMemory`).
  void SetTableQuota(size_t tables);

  // Waits for the faults that are inside a section. Each has then marked the page that it made
  // writable, which other CPUs may have written since: a log that is read afterwards has every
  // write that was over before. Hold no section.
  void WaitForFaults() { const MmuWriteSection section(mmu_lock_); }

  // Takes the D bits that slots log out of detached subtrees that no CPU can reach, and frees every
  // table. The flush clock calls it.
  void Reclaim(TableList&& subtrees) override;

  // Adds the counters of a `VmStats`, but not the vCPUs'. Any thread may call it.
  void AddTo(VmStats& stats) const;
  uint64_t tables_freed() const { return tables_freed_.load(std::memory_order_relaxed); }
  // Counts that a fault, or a split, has taken cold tables.
  void CountRecycle() { recycles_.fetch_add(1, std::memory_order_relaxed); }

  // --- The parts. Each is thread-safe by its own rules ---

  // Guards slot changes, one at a time, and what is said below to be under the slots mutex.
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

  // Says that leaves without rights may stand for pages that were aged: a fault that found nothing
  // present looks at its leaf then before it asks the host. Call it before the first right is taken
  // by aging: the fault that misses it is to see this. Hold no section.
  void TrackAccess();

  // --- Under the slots mutex ---

  // Returns whether reading a dirty log leaves it as it is (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
  bool manual_dirty_log_protect() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    return manual_dirty_log_protect_;
  }
  void set_manual_dirty_log_protect(bool manual) ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    manual_dirty_log_protect_ = manual;
  }
  // Keeps the types that leaf policies go by from now on, and gives back those that they went by
  // before: they go when nobody can be reading them. Null says that the guest's types do not count.
  void SwapMemoryTypes(std::unique_ptr<const MemoryTypeMap>& types)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    memory_types_.swap(types);
  }
  // Does the same with private frames. There are some with `VmOptions::private_memory` alone.
  void SwapPrivateFrames(std::unique_ptr<const PrivateFrames>& frames)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(slots_mutex_) {
    private_frames_.swap(frames);
  }
  // Lets every view go by `frames` from here on, inside a writer's section.
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
  void RefillSpare(size_t ranges);
  int SpareFor(size_t ranges) const;
  void NoteSpare();
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

  // Tables for zaps that have to split, kept from one to the next. They change in the writer's
  // section; how many there are is looked at before it: 0 also says that they do not do for one
  // range.
  TableCache spare_;
  Atomic<int> spare_noted_{0};

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
