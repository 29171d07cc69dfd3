// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The vCPUs of a `Vm`: their ids, their dirty rings, and what those that are gone have left.

#ifndef TDP_MMU_ENGINE_VCPU_SET_H_
#define TDP_MMU_ENGINE_VCPU_SET_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/dirty_ring.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/stats.h"

namespace tdp {

class VcpuImpl;

// Knows the vCPUs. Thread-safe. Its mutex is held for no longer than a look: `Stats` takes it,
// perhaps in a thread that others wait for.
class VcpuSet {
 public:
  VcpuSet() = default;
  VcpuSet(const VcpuSet&) = delete;
  VcpuSet& operator=(const VcpuSet&) = delete;

  // Gives an id to a vCPU that is being made; `Remove` takes it back whether or not `Add` was
  // called. ResourceExhausted for the 2^20th that is in use.
  absl::StatusOr<VcpuId> TakeId() ABSL_LOCKS_EXCLUDED(mutex_);
  // Says that the vCPU is complete: `ForEach` shows it from here on.
  void Add(VcpuId id, VcpuImpl* vcpu) ABSL_LOCKS_EXCLUDED(mutex_);
  // Takes the vCPU out. What nobody has harvested of its ring stays for the collector, and what it
  // has counted stays in `retired_stats_`.
  void Remove(VcpuId id, std::unique_ptr<DirtyRing> ring, const FaultStats& stats)
      ABSL_LOCKS_EXCLUDED(mutex_);
  bool is_empty() const ABSL_LOCKS_EXCLUDED(mutex_);

  // Returns what `stats_of` says of every vCPU that is complete, and what those that are gone have
  // counted. It is called under the mutex.
  FaultStats SumStats(absl::FunctionRef<FaultStats(const VcpuImpl* vcpu)> stats_of) const
      ABSL_LOCKS_EXCLUDED(mutex_);

  // Calls `visit(vcpu)` for every vCPU that is complete, under the mutex.
  void ForEach(absl::FunctionRef<void(const VcpuImpl* vcpu)> visit) const
      ABSL_LOCKS_EXCLUDED(mutex_);

  // --- Dirty rings ---

  // Gives vCPUs that are made from here on rings of `entries`. InvalidArgument if that was said
  // before, or a vCPU has been made.
  absl::Status EnableRings(uint32_t entries) ABSL_LOCKS_EXCLUDED(mutex_);
  // Returns the ring for the vCPU `id` that is being made: one that another has left, entries and
  // all, or a new one; null without rings. The collector finds it at any time: what it holds does
  // not wait for the vCPU to be complete. ResourceExhausted without memory.
  absl::StatusOr<std::unique_ptr<DirtyRing>> TakeRing(VcpuId id) ABSL_LOCKS_EXCLUDED(mutex_);
  // Harvests the rings that vCPUs have left, then those of vCPUs, until `entries` is full. Returns
  // how many came: none once no ring has any.
  size_t HarvestRings(absl::Span<DirtyRingEntry> entries) ABSL_LOCKS_EXCLUDED(mutex_);
  // Calls `visit(ring)` for those rings that vCPUs have left, then for those of vCPUs, under the
  // mutex.
  void ForEachRing(absl::FunctionRef<void(DirtyRing& ring)> visit) ABSL_LOCKS_EXCLUDED(mutex_);
  // Destroys those rings that vCPUs have left and that have nothing to show.
  void DropEmptyRings() ABSL_LOCKS_EXCLUDED(mutex_);

 private:
  struct Place {
    bool is_taken = false;
    VcpuImpl* vcpu = nullptr;   // null: none, or being made
    DirtyRing* ring = nullptr;  // of a vCPU that is being made, too
  };

  mutable Mutex mutex_;
  std::vector<Place> places_ ABSL_GUARDED_BY(mutex_);  // by id
  uint32_t ring_entries_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: slots log into bitmaps
  // Rings that vCPUs have left. The next vCPU takes one over, so there are never more rings than
  // there were vCPUs at once. Room for all is reserved as vCPUs are made.
  std::vector<std::unique_ptr<DirtyRing>> left_rings_ ABSL_GUARDED_BY(mutex_);
  FaultStats retired_stats_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tdp

#endif  // TDP_MMU_ENGINE_VCPU_SET_H_
