// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Memory references of page walks, by dimension and level.

#ifndef TDP_BACKENDS_SIM_REFERENCE_COUNTS_H_
#define TDP_BACKENDS_SIM_REFERENCE_COUNTS_H_

#include <array>
#include <cstdint>

#include "tdp/backends/sim/level_array.h"

namespace tdp::sim {

// Each array is indexed by level, 1 to 5. A reference is a load of one paging-structure entry;
// writing an A or D bit back is not counted.
struct ReferenceCounts {
  static constexpr int kLevels = int{kLevelCount};

  // Entries of the guest's tables.
  LevelArray<uint64_t> guest{};
  // EPT entries: [g][e] counts loads at EPT level e for the address of the guest table of level g,
  // or for the final address where g is 0. (PAE's four PDPTEs in memory count as g = 3.)
  LevelArray<LevelArray<uint64_t>> ept{};

  uint64_t guest_total() const {
    uint64_t sum = 0;
    for (uint64_t n : guest) sum += n;
    return sum;
  }
  uint64_t ept_total() const {
    uint64_t sum = 0;
    for (const auto& row : ept) {
      for (uint64_t n : row) sum += n;
    }
    return sum;
  }
  uint64_t total() const { return guest_total() + ept_total(); }

  ReferenceCounts& operator+=(const ReferenceCounts& other) {
    for (int g = 0; g < kLevels; ++g) {
      guest[g] += other.guest[g];
      for (int e = 0; e < kLevels; ++e) ept[g][e] += other.ept[g][e];
    }
    return *this;
  }
};

// Walks counted whole: one increment for the references of a walk from level `top` down to `leaf`.
class WalkTally {
 public:
  // Names a kind of walk. 0 stands for one that was spared altogether.
  static constexpr unsigned Kind(int top, int leaf) {
    return static_cast<unsigned>(top * ReferenceCounts::kLevels + leaf);
  }
  // Returns the levels above the leaf of such a walk, as bits.
  static constexpr unsigned UpperLevels(int top, int leaf) { return (2u << top) - (2u << leaf); }
  void Count(unsigned kind) { ++walks_[kind]; }

  // Calls `visit(top, leaf, walks)` for each kind that was counted; `top` is 0 for the spared ones.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (unsigned kind = 0; kind < walks_.size(); ++kind) {
      if (walks_[kind] == 0) continue;
      visit(static_cast<int>(kind / ReferenceCounts::kLevels),
            static_cast<int>(kind % ReferenceCounts::kLevels), walks_[kind]);
    }
  }
  // Adds the references of every walk to `counts`, by level.
  void AddTo(LevelArray<uint64_t>& counts) const {
    ForEach([&counts](int top, int leaf, uint64_t walks) {
      if (top == 0) return;
      for (int level = leaf; level <= top; ++level) counts[level] += walks;
    });
  }

 private:
  std::array<uint64_t, ReferenceCounts::kLevels * ReferenceCounts::kLevels> walks_{};
};

// Counts what a CPU did since its counters were last cleared.
struct CpuCounters {
  // Pieces of an access that crosses a page count one each.
  uint64_t tlb_hits = 0;
  uint64_t walks = 0;            // accesses that were not hits, whether they ended well or not
  uint64_t restarts = 0;         // of these, by an access again that an event had interrupted
  uint64_t assists = 0;          // of these, for a right or a dirty bit that the TLB's entry lacked
  uint64_t nested_tlb_hits = 0;  // guest-physical addresses found without an EPT walk
  uint64_t guest_cache_hits = 0;  // guest walks that began below the root
  uint64_t ept_cache_hits = 0;    // EPT walks that began below the root
  uint64_t events = 0;            // exits and guest exceptions
  uint64_t walk_cycles = 0;       // by the cost model, if there is one
  ReferenceCounts references;

  uint64_t accesses() const { return tlb_hits + walks; }
  // Returns how many accesses found no entry in the TLB, each counted once however often it was
  // interrupted.
  uint64_t tlb_misses() const { return walks - restarts - assists; }

  CpuCounters& operator+=(const CpuCounters& other) {
    tlb_hits += other.tlb_hits;
    walks += other.walks;
    restarts += other.restarts;
    assists += other.assists;
    nested_tlb_hits += other.nested_tlb_hits;
    guest_cache_hits += other.guest_cache_hits;
    ept_cache_hits += other.ept_cache_hits;
    events += other.events;
    walk_cycles += other.walk_cycles;
    references += other.references;
    return *this;
  }
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_REFERENCE_COUNTS_H_
