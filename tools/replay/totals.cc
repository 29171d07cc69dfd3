// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/totals.h"

#include <cstddef>

namespace tdp::tools {

sim::CpuCounters PlainCounters(const sim::MmuCounters& mmu) {
  sim::CpuCounters plain;
  for (size_t use = 0; use < sim::MmuCounters::kUses; ++use) {
    plain.tlb_hits += mmu.l1_hits[use] + mmu.l2_hits[use];
  }
  plain.walks = mmu.total_walks();
  plain.assists = mmu.assists;
  plain.nested_tlb_hits = mmu.nested_tlb_hits;
  plain.guest_cache_hits = mmu.guest_cache_hits;
  plain.ept_cache_hits = mmu.ept_cache_hits;
  plain.walk_cycles = mmu.translation_cycles() - mmu.l2_hit_cycles;
  for (size_t g = 0; g < sim::MmuCounters::kLevels; ++g) {
    for (size_t e = 0; e < sim::MmuCounters::kLevels; ++e) {
      uint64_t sum = 0;
      for (uint64_t served : mmu.references[g][e]) sum += served;
      (e == 0 ? plain.references.guest[g] : plain.references.ept[g][e]) += sum;
    }
  }
  return plain;
}

}  // namespace tdp::tools
