// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Counters of a `Vm`.

#ifndef TDP_MMU_STATS_H_
#define TDP_MMU_STATS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/attributes.h"
#include "tdp/base/address.h"

namespace tdp {

// Holds what one vCPU has counted since the VM was made, or the sum over all.
struct FaultStats {
  uint64_t fixed = 0;
  uint64_t spurious = 0;
  uint64_t retry = 0;
  uint64_t mmio = 0;
  uint64_t blocked = 0;
  uint64_t view_denied = 0;
  uint64_t memory_faults = 0;
  uint64_t errors = 0;
  uint64_t fast = 0;     // of `fixed` and `spurious`: answered without asking the host
  uint64_t splits = 0;   // large leaves split: a flush each
  uint64_t flushes = 0;  // made as the guest was entered
  // These two count where tables of the guest's are shadowed only.
  uint64_t guest_faults = 0;     // its own; of a nested hypervisor, what it gets of its guest's
  uint64_t emulated_writes = 0;  // writes to page tables that were given back to be emulated
  std::array<uint64_t, 3> leaves_installed = {};  // 4K, 2M, 1G; given more rights in place included

  FaultStats& operator+=(const FaultStats& other);
};

// Counts what the shadow of a guest's paging does, all address spaces together, by the names of
// KVM's statistics.
struct ShadowStats {
  uint64_t mmu_shadow_zapped = 0;  // pages zapped, whatever the reason
  uint64_t mmu_pte_write = 0;      // writes to tables that are shadowed
  uint64_t mmu_pde_zapped = 0;     // entries above level 1 that such a write dropped
  uint64_t mmu_flooded = 0;        // pages zapped for being written too often
  uint64_t mmu_recycled = 0;       // pages zapped for the quota
  uint64_t mmu_cache_miss = 0;     // pages made, since the hash had none
  uint64_t mmu_unsync = 0;         // pages out of sync now
  uint64_t pages = 0;              // pages now
};

// Holds the counters of a `Vm`. Its parts are read one after the other while vCPUs run, so that
// they are not of one moment.
struct VmStats {
  FaultStats faults;                   // vCPUs that are gone included
  uint64_t zaps = 0;                   // structural operations that took mappings away
  uint64_t tables_freed = 0;           // after their flush
  uint64_t table_reclaims = 0;         // times that tables were taken back for want of others
  size_t tables_in_use = 0;            // linked, detached and not freed yet, or in a vCPU's cache
  ByteCount table_bytes_reserved = 0;  // held from the backend, metadata and free tables included
  uint64_t flush_generation = 0;
  ShadowStats shadow;
  uint64_t writer_section_ns = 0;  // by `VmOptions::section_clock`; 0 without one
};

// A counter that its one writer increments without a locked instruction and others may read.
// Nothing is decided by it, so it goes past the seam of base/sync.h.
class Counter {
 public:
  ABSL_ATTRIBUTE_ALWAYS_INLINE void Add(uint64_t n = 1) {
    value_.store(value_.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
  uint64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<uint64_t> value_{0};
};

}  // namespace tdp

#endif  // TDP_MMU_STATS_H_
