// SPDX-License-Identifier: Apache-2.0
//
// Memory references of page walks, by dimension and level.

#ifndef TDP_BACKENDS_SIM_REFERENCE_COUNTS_H_
#define TDP_BACKENDS_SIM_REFERENCE_COUNTS_H_

#include <array>
#include <cstdint>

namespace tdp::sim {

// Each array is indexed by level, 1 to 5. A reference is a load of one paging-structure entry;
// writing an A or D bit back is not counted.
struct ReferenceCounts {
  static constexpr int kLevels = 6;

  // Entries of the guest's tables.
  std::array<uint64_t, kLevels> guest{};
  // EPT entries: [g][e] counts loads at EPT level e for the address of the guest table of level g,
  // or for the final address where g is 0. (PAE's four PDPTEs in memory count as g = 3.)
  std::array<std::array<uint64_t, kLevels>, kLevels> ept{};

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

// What a CPU did since its counters were last cleared.
struct CpuCounters {
  // Pieces of an access that crosses a page count one each.
  uint64_t tlb_hits = 0;
  uint64_t walks = 0;             // accesses that were not hits, whether they ended well or not
  uint64_t nested_tlb_hits = 0;   // guest-physical addresses found without an EPT walk
  uint64_t guest_cache_hits = 0;  // guest walks that began below the root
  uint64_t ept_cache_hits = 0;    // EPT walks that began below the root
  uint64_t events = 0;            // exits and guest exceptions
  uint64_t walk_cycles = 0;       // by the cost model, if there is one
  ReferenceCounts references;

  uint64_t accesses() const { return tlb_hits + walks; }

  CpuCounters& operator+=(const CpuCounters& other) {
    tlb_hits += other.tlb_hits;
    walks += other.walks;
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
