// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Counts what the accesses of a program cost a model of a real core's memory-management unit.

#ifndef TDP_BACKENDS_SIM_MMU_COUNTERS_H_
#define TDP_BACKENDS_SIM_MMU_COUNTERS_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace tdp::sim {

struct MmuCounters {
  static constexpr size_t kUses = 3;     // fetches, loads, stores (with modifies)
  static constexpr size_t kLevels = 6;   // of tables, 1 to 5
  static constexpr size_t kServers = 4;  // the data caches of level 1 to 3, and memory

  // These are by use. Pieces of an access that crosses a page count one each. Each access is an L1
  // hit, an L2 hit or a walk.
  std::array<uint64_t, kUses> accesses{};
  std::array<uint64_t, kUses> l1_hits{};
  std::array<uint64_t, kUses> l2_hits{};
  std::array<uint64_t, kUses> walks{};

  uint64_t assists = 0;     // of the walks: the TLB had the page, but for a first store
  uint64_t full_walks = 0;  // of the walks: from the root of the guest's tables
  uint64_t guest_cache_hits = 0;
  uint64_t nested_tlb_lookups = 0;
  uint64_t nested_tlb_hits = 0;
  uint64_t ept_walks = 0;
  uint64_t ept_cache_hits = 0;

  // [g][e][s]: loads of EPT entries of level e, for the table of guest level g or, where g is 0,
  // the final address; where e is 0, of the guest's own entries of level g. Served by s.
  std::array<std::array<std::array<uint64_t, kServers>, kLevels>, kLevels> references{};
  std::array<std::array<uint64_t, kLevels>, kLevels> reference_cycles{};  // [g][e] alike

  // Cycles of translation by cause, beside the references.
  uint64_t l2_hit_cycles = 0;       // looking up the second level, with success
  uint64_t l2_miss_cycles = 0;      // and without
  uint64_t guest_cache_cycles = 0;  // looking up guest entries in the walk caches
  uint64_t ept_cache_cycles = 0;
  uint64_t nested_tlb_cycles = 0;

  // The program's own loads, stores and fetches: by who served them, and their cycles.
  std::array<uint64_t, kServers> program_served{};
  uint64_t program_cycles = 0;

  uint64_t total_accesses() const { return accesses[0] + accesses[1] + accesses[2]; }
  uint64_t total_walks() const { return walks[0] + walks[1] + walks[2]; }
  // Returns the references of walks that `s` served, to guest tables or to the EPT, and their
  // cycles.
  uint64_t ReferencesServed(bool ept, size_t s) const {
    uint64_t sum = 0;
    for (size_t g = 0; g < kLevels; ++g) {
      for (size_t e = ept ? 1 : 0; e < (ept ? kLevels : 1); ++e) sum += references[g][e][s];
    }
    return sum;
  }
  uint64_t ReferenceCycles(bool ept) const {
    uint64_t sum = 0;
    for (size_t g = 0; g < kLevels; ++g) {
      for (size_t e = ept ? 1 : 0; e < (ept ? kLevels : 1); ++e) sum += reference_cycles[g][e];
    }
    return sum;
  }
  // Returns all cycles of translation.
  uint64_t translation_cycles() const {
    return l2_hit_cycles + l2_miss_cycles + guest_cache_cycles + ept_cache_cycles +
           nested_tlb_cycles + ReferenceCycles(false) + ReferenceCycles(true);
  }

  MmuCounters& operator+=(const MmuCounters& other) { return Combine(other, 1); }
  MmuCounters& operator-=(const MmuCounters& other) { return Combine(other, ~uint64_t{0}); }

 private:
  // Adds `factor` times the other's; -1 is modulo 2^64.
  MmuCounters& Combine(const MmuCounters& other, uint64_t factor);
};

inline MmuCounters& MmuCounters::Combine(const MmuCounters& other, uint64_t factor) {
  using Words = std::array<uint64_t, sizeof(MmuCounters) / sizeof(uint64_t)>;
  static_assert(sizeof(Words) == sizeof(MmuCounters), "every member is made of 64-bit counters");
  auto mine = std::bit_cast<Words>(*this);
  const auto theirs = std::bit_cast<Words>(other);
  for (size_t i = 0; i < mine.size(); ++i) mine[i] += factor * theirs[i];
  return *this = std::bit_cast<MmuCounters>(mine);
}

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_MMU_COUNTERS_H_
