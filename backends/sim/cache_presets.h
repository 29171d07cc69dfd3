// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which translation caches a CPU has: TLBs, paging-structure caches of both dimensions, nested TLB.

#ifndef TDP_BACKENDS_SIM_CACHE_PRESETS_H_
#define TDP_BACKENDS_SIM_CACHE_PRESETS_H_

#include <array>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/assoc_cache.h"
#include "tdp/backends/sim/ept_walker.h"

namespace tdp::sim {

struct CacheConfig {
  const char* name = "none";
  const char* description = "no cache of any kind: every access walks";
  // Translations of linear pages by size: [1] 4 KiB, [2] 2 MiB, [3] 1 GiB.
  std::array<CacheGeometry, 4> tlb{};
  // Upper guest entries by level, [2] PDEs to [5] PML5Es.
  std::array<CacheGeometry, 6> guest_structures{};
  EptCacheConfig ept{};
};

// Returns, in this order: "none", "tlb" (a TLB alone), "psc" (and paging-structure caches),
// "nested" (and a nested TLB), "skylake" (sizes of that part), "tiny" (small enough for tests to
// see every eviction), "judge" (keeps what an operation touches; quick to empty).
absl::Span<const CacheConfig> CachePresets();
// Returns the preset of that name; NotFound, listing the names, if there is none.
absl::StatusOr<CacheConfig> CachePreset(std::string_view name);

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_CACHE_PRESETS_H_
