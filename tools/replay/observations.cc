// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/observations.h"

#include <algorithm>

#include "tdp/base/address.h"

namespace tdp::tools {

Interval IntervalOf(const Totals& totals, uint64_t accesses) {
  const sim::CpuCounters& cpu = totals.cpu;
  const sim::MmuCounters& mmu = totals.mmu;
  return {.accesses = accesses,
          .tlb_misses = cpu.tlb_misses(),
          .walks = cpu.walks,
          .guest_references = cpu.references.guest_total(),
          .ept_references = cpu.references.ept_total(),
          .walk_cycles = cpu.walk_cycles,
          .page_faults = totals.page_faults,
          .exits = totals.exits(),
          .l1_tlb_hits = mmu.l1_hits[0] + mmu.l1_hits[1] + mmu.l1_hits[2],
          .l2_tlb_hits = mmu.l2_hits[0] + mmu.l2_hits[1] + mmu.l2_hits[2],
          .full_walks = mmu.full_walks,
          .translation_cycles = mmu.translation_cycles(),
          .program_cycles = mmu.program_cycles};
}

Interval operator-(const Interval& a, const Interval& b) {
  return {.accesses = a.accesses - b.accesses,
          .tlb_misses = a.tlb_misses - b.tlb_misses,
          .walks = a.walks - b.walks,
          .guest_references = a.guest_references - b.guest_references,
          .ept_references = a.ept_references - b.ept_references,
          .walk_cycles = a.walk_cycles - b.walk_cycles,
          .page_faults = a.page_faults - b.page_faults,
          .exits = a.exits - b.exits,
          .l1_tlb_hits = a.l1_tlb_hits - b.l1_tlb_hits,
          .l2_tlb_hits = a.l2_tlb_hits - b.l2_tlb_hits,
          .full_walks = a.full_walks - b.full_walks,
          .translation_cycles = a.translation_cycles - b.translation_cycles,
          .program_cycles = a.program_cycles - b.program_cycles};
}

std::vector<PageUse> TopPages(const absl::flat_hash_map<uint64_t, uint64_t>& accesses,
                              const absl::flat_hash_map<uint64_t, uint64_t>& walks,
                              uint64_t count) {
  std::vector<PageUse> pages;
  pages.reserve(accesses.size());
  for (const auto& [page, uses] : accesses) {
    const auto walked = walks.find(page);
    pages.push_back({page << kPageShift, uses, walked == walks.end() ? 0 : walked->second});
  }
  std::sort(pages.begin(), pages.end(), [](const PageUse& a, const PageUse& b) {
    return a.accesses != b.accesses ? a.accesses > b.accesses : a.gva < b.gva;
  });
  pages.resize(std::min<size_t>(pages.size(), count));
  return pages;
}

MissCurve MakeMissCurve(uint64_t page_bytes, const DistanceCounts& counts) {
  const std::vector<uint64_t>& histogram = counts.uses;
  MissCurve curve;
  curve.page_bytes = page_bytes;
  curve.pages = counts.pages;
  uint64_t misses = counts.cold;
  for (uint64_t uses : histogram) misses += uses;
  size_t counted = 0;  // distances whose uses are hits
  // 1, 2, 3, 4, 6, 8, 12, …: two sizes for each doubling.
  for (uint64_t entries = 1;; entries = entries == 1                     ? 2
                                        : (entries & (entries - 1)) == 0 ? entries / 2 * 3
                                                                         : entries / 3 * 4) {
    for (; counted < histogram.size() && counted < entries; ++counted) misses -= histogram[counted];
    curve.entries.push_back(entries);
    curve.misses.push_back(misses);
    if (counted == histogram.size()) return curve;
  }
}

}  // namespace tdp::tools
