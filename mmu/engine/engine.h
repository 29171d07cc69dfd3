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

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/engine/table_reclaim.h"
#include "tdp/mmu/engine/view.h"
#include "tdp/mmu/policy/memory_quotas.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/shadow/reverse_mapped_mmu.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/stats.h"
#include "tdp/mmu/sync/change_sequence.h"
#include "tdp/mmu/sync/flush_clock.h"
#include "tdp/mmu/sync/mmu_lock.h"
#include "tdp/mmu/tables/direct_mmu.h"
#include "tdp/mmu/tables/table_pool.h"
#include "tdp/mmu/tables/table_recycler.h"
#include "tdp/mmu/vm_options.h"

namespace tdp {

class Vcpu;

class Engine : public TableReclaimer, public TableRecycler {
 public:
  // Options are checked. ResourceExhausted if the roots can not be had.
  static absl::StatusOr<std::unique_ptr<Engine>> Create(Backend& backend, const VmOptions& options);
  ~Engine() override;

  Backend& backend() { return backend_; }
  const VmOptions& options() const { return options_; }
  bool accessed_dirty() const { return accessed_dirty_; }
  DirtyTracking dirty_tracking() const { return dirty_tracking_; }
  Level max_leaf_level() const { return max_leaf_level_; }
  Gpa guest_end() const { return guest_end_; }
  ViewSet& views(AddressSpaceId space) { return *views_[space]; }
  const ViewSet& views(AddressSpaceId space) const { return *views_[space]; }
  // The tables of an address space, where those of its base view will do.
  DirectMmu& mmu(AddressSpaceId space) { return views(space).base().mmu(); }
  const DirectMmu& mmu(AddressSpaceId space) const { return views(space).base().mmu(); }
  size_t address_spaces() const { return views_.size(); }
  // Calls `visit(view)` for every view of the address space, the base first.
  template <typename Visit>
  void ForEachView(AddressSpaceId space, Visit visit) {
    ViewSet& set = views(space);
    for (size_t i = 0; i < set.size(); ++i) visit(set[i]);
  }
  // Null where the VM keeps no reverse map.
  ReverseMappedMmu* reverse_mapped(AddressSpaceId space) const {
    return options_.reverse_map ? reverse_mapped_[space].get() : nullptr;
  }

  // Null where the guest's paging is not shadowed.
  PagingShadow* shadow(AddressSpaceId space) const {
    return options_.paging == Paging::kShadow ? shadows_[space].get() : nullptr;
  }
  PagingParts shadow_parts();
  // Null unless guests may be hypervisors.
  NestedShadow* nested(AddressSpaceId space) const {
    return options_.nested ? nested_[space].get() : nullptr;
  }
  NestedParts nested_parts();

  // Which rule of the SDM a present entry at `level` breaks.
  EntryDefect CheckEntry(EptEntry entry, Level level) const;

  // Inside a writer's section: `DirectMmu::Detach` in every view of the space, with the D bits of
  // the edges going to the logs. `spare` is for all views: where it has run out, a large leaf on an
  // edge goes as a whole.
  bool Detach(AddressSpaceId space, Gfn first, Gfn end, TableCache& spare, TableList& detached);
  // The same in one view.
  bool DetachIn(AddressSpaceId space, View& view, Gfn first, Gfn end, TableCache& spare,
                TableList& detached);

  // Inside a writer's section: takes the mappings of a slot away in those views that let the guest
  // hear of violations, since only those of a slot that does not log may raise #VE. Returns whether
  // anything was there.
  bool DetachRaising(const MemorySlot& slot, TableList& detached);

  // Inside a writer's section: takes every MMIO entry of the address space away, and all other
  // mappings with them, in a time that does not depend on their number. Returns whether anything
  // was there.
  bool DetachMmio(AddressSpaceId space, TableList& detached);

  // Inside a writer's section: takes W from [first, end) in every view. Returns whether anything
  // had it.
  bool WriteProtect(AddressSpaceId space, Gfn first, Gfn end);

  // Readers' side, with a section of its own: takes `bits` (`ept::kWrite`, `ept::kDirty`) from the
  // leaves that map `base` + i for every bit i of `mask`. Under a `FlushClock::Narrowing`.
  void NarrowPages(MmuLock::Reader& reader, AddressSpaceId space, Gfn base, uint64_t mask,
                   uint64_t bits);

  // Takes every mapping of [first, end) away. Returns the flush that is owed for that: its own, or
  // if nothing was there what others owe by now.
  PendingFlush Zap(AddressSpaceId space, Gfn first, Gfn end);
  // The same in every address space; `before()` is called first in the same writer's section.
  PendingFlush ZapEverywhere(Gfn first, Gfn end, absl::FunctionRef<void()> before);
  // The same in one view.
  PendingFlush ZapIn(AddressSpaceId space, View& view, Gfn first, Gfn end,
                     absl::FunctionRef<void()> before);
  // The same for everything at once, in O(1): the root is replaced.
  absl::StatusOr<PendingFlush> ZapAll(AddressSpaceId space);

  // Cold tables of views or the oldest shadow pages: of whichever have more than half of all
  // tables, or of the others if those have none to give.
  size_t RecycleTables(size_t wanted) override;

  // `change` says what has changed of what the quotas follow from; they follow.
  void ChangeQuotas(absl::FunctionRef<void(MemoryQuotas&)> change);
  // Shadow pages beyond a quota that has become smaller go. Settles the flush; hold no lock.
  void TrimShadows();
  // The embedder decides from here on.
  void FixTableQuota(size_t tables);

  // Called with detached subtrees that no CPU can reach: takes the D bits that slots log, frees
  // every table.
  void Reclaim(TableList&& subtrees) override;

  // The parts. Each is thread-safe by its own rules.
  Mutex slots_mutex;  // slot changes
  SlotSet slots;
  // Whether reading a dirty log leaves it as it is (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2).
  bool manual_dirty_log_protect ABSL_GUARDED_BY(slots_mutex) = false;
  // What leaf policies go by; null: the guest's types do not count.
  std::unique_ptr<const MemoryTypeMap> memory_types ABSL_GUARDED_BY(slots_mutex);
  // The same; null without `VmOptions::private_memory`.
  std::unique_ptr<const PrivateFrames> private_frames ABSL_GUARDED_BY(slots_mutex);
  MmuLock mmu_lock;
  ChangeSequence sequence;
  TablePool pool;
  FlushClock clock;
  TableReclaim table_reclaim;

  // How many slots log dirty pages. Moves before the first such slot is published, and after the
  // last one is gone.
  Atomic<int> logging_slots{0};
  // Leaves without rights may stand for pages that were aged: a fault that found nothing present
  // looks at its leaf before it asks the host. Set by the first aging without A bits.
  Atomic<bool> tracks_access{false};

  Counter zaps;  // counted inside a writer's section
  Atomic<uint64_t> tables_freed{0};
  Atomic<uint64_t> table_reclaims{0};

  // The vCPUs there are, by id, and what those that are gone had counted. Held for no longer than a
  // look: `Vm::Stats` takes it, perhaps in a thread that others wait for.
  mutable Mutex vcpus_mutex;
  std::vector<Vcpu*> vcpus ABSL_GUARDED_BY(vcpus_mutex);          // null: none, or being made
  std::vector<bool> vcpu_ids_taken ABSL_GUARDED_BY(vcpus_mutex);  // as long as `vcpus`
  // Of the dirty ring of each vCPU; 0: slots log into bitmaps.
  uint32_t dirty_ring_entries ABSL_GUARDED_BY(vcpus_mutex) = 0;
  // Of vCPUs that are gone, with what nobody has harvested or reset. The next vCPU takes one over,
  // so there are never more rings than there were vCPUs at once. Room for all is reserved as vCPUs
  // are made.
  std::vector<std::unique_ptr<DirtyRing>> left_dirty_rings ABSL_GUARDED_BY(vcpus_mutex);
  FaultStats retired_stats ABSL_GUARDED_BY(vcpus_mutex);

 private:
  Engine(Backend& backend, const VmOptions& options);
  absl::StatusOr<TablePage*> NewRoot();
  absl::Status AddAddressSpace();
  template <typename DetachAll>
  PendingFlush ZapBy(DetachAll detach_all);
  template <typename Shadow>
  PendingFlush ZapShadow(Shadow& shadow);
  template <typename Visit>
  void ForEachShadow(Visit visit);
  size_t RecycleShadows(size_t count);
  // Of EPT02. Whether CPUs may hold something of it.
  bool DetachNested(AddressSpaceId space, Gfn first, Gfn end, TableList& detached);
  bool WriteProtectDirect(AddressSpaceId space, Gfn first, Gfn end);
  // Whether D bits in what is detached are writes that only the tables know of.
  bool HarvestsDetached() const {
    return dirty_tracking_ == DirtyTracking::kDirtyBits &&
           logging_slots.load(std::memory_order_relaxed) != 0;
  }

  Mutex quota_mutex_;
  MemoryQuotas quotas_ ABSL_GUARDED_BY(quota_mutex_);
  bool table_quota_by_memory_ ABSL_GUARDED_BY(quota_mutex_);

  // Tables for zaps that have to split, kept from one to the next. Changed in the writer's section;
  // whether there are enough is looked at before it.
  TableCache spare_;
  Atomic<bool> has_spare_{false};

  Backend& backend_;
  const VmOptions options_;
  const bool accessed_dirty_;
  const DirtyTracking dirty_tracking_;
  const Level max_leaf_level_;
  const Gpa guest_end_;
  std::vector<std::unique_ptr<ViewSet>> views_;                    // by address space
  std::vector<std::unique_ptr<ReverseMappedMmu>> reverse_mapped_;  // of base views; may be empty
  ShadowPools shadow_pools_;
  std::vector<std::unique_ptr<PagingShadow>> shadows_;  // by address space; may be empty
  std::vector<std::unique_ptr<NestedShadow>> nested_;   // the same
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_ENGINE_H_
