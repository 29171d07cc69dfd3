// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Holds what is recorded of a replay beside its totals: time, pages, and the miss curve.

#ifndef TDP_TOOLS_REPLAY_OBSERVATIONS_H_
#define TDP_TOOLS_REPLAY_OBSERVATIONS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "tdp/tools/replay/distance_counts.h"
#include "tdp/tools/replay/totals.h"

namespace tdp::tools {

// One stretch of `ObserveOptions::interval` accesses; the last one may be shorter.
struct Interval {
  uint64_t accesses = 0;
  uint64_t tlb_misses = 0;
  uint64_t walks = 0;
  uint64_t guest_references = 0;
  uint64_t ept_references = 0;
  uint64_t walk_cycles = 0;
  uint64_t page_faults = 0;
  uint64_t exits = 0;
  // A machine alone counts these.
  uint64_t l1_tlb_hits = 0;
  uint64_t l2_tlb_hits = 0;
  uint64_t full_walks = 0;
  uint64_t translation_cycles = 0;
  uint64_t program_cycles = 0;
};

// Returns the counters up to a moment, as an interval from the beginning to it.
Interval IntervalOf(const Totals& totals, uint64_t accesses);
Interval operator-(const Interval& a, const Interval& b);

struct PageUse {
  uint64_t gva = 0;  // of the first byte of a 4 KiB page
  uint64_t accesses = 0;
  uint64_t walks = 0;  // of a machine's MMU
};

// Misses of a fully associative LRU TLB of each of some numbers of entries.
struct MissCurve {
  uint64_t page_bytes = 0;
  uint64_t pages = 0;             // touched; by several CPUs, one counts for each of them
  std::vector<uint64_t> entries;  // ascending, until all pages fit
  std::vector<uint64_t> misses;   // first touches included
  bool sampled = false;           // estimated from parts of the run (`MissSampler`)
};

struct Observations {
  uint64_t warmup = 0;    // accesses that were made and not counted
  uint64_t interval = 0;  // as asked for; 0: no intervals
  std::vector<Interval> intervals;
  uint64_t touched_pages = 0;  // of 4 KiB, if pages were asked for
  std::vector<PageUse> top_pages;
  std::vector<MissCurve> miss_curves;  // by page size, empty unless asked for
};

// Returns the `count` pages with the most accesses, those with the lower address first where equal.
std::vector<PageUse> TopPages(const absl::flat_hash_map<uint64_t, uint64_t>& accesses,
                              const absl::flat_hash_map<uint64_t, uint64_t>& walks, uint64_t count);

MissCurve MakeMissCurve(uint64_t page_bytes, const DistanceCounts& counts);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_OBSERVATIONS_H_
