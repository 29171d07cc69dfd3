// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/cache_presets.h"

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp::sim {
namespace {

// 4K: as Skylake's second level. 2M and 1G: assumed, of the order of first-level TLBs.
constexpr std::array<CacheGeometry, 4> kTlb = {{{}, {128, 12}, {16, 8}, {1, 16}}};
// Assumed: Intel publishes no sizes of paging-structure caches (the SDM, vol. 3A 5.10.3, says only
// that they may be there).
constexpr std::array<CacheGeometry, 6> kStructures = {{{}, {}, {8, 4}, {1, 4}, {1, 2}, {1, 2}}};
// Assumed, as small as a first-level TLB: nothing is published of what holds guest-physical
// mappings.
constexpr std::array<CacheGeometry, 4> kNestedTlb = {{{}, {16, 4}, {8, 4}, {1, 4}}};

const std::vector<CacheConfig>& Presets() {
  static const auto* const presets = new std::vector<CacheConfig>{
      {},
      {.name = "tlb", .description = "a TLB, and full walks on a miss", .tlb = kTlb},
      {.name = "psc",
       .description = "a TLB and paging-structure caches in both dimensions",
       .tlb = kTlb,
       .guest_structures = kStructures,
       .ept = {.structures = kStructures}},
      {.name = "nested",
       .description = "a TLB, paging-structure caches and a nested TLB",
       .tlb = kTlb,
       .guest_structures = kStructures,
       .ept = {.structures = kStructures, .translations = kNestedTlb}},
      {.name = "skylake",
       .description = "sizes of a Skylake core: 1536-entry second-level TLB, 16 entries for 1G",
       // Intel 64 and IA-32 Architectures Optimization Reference Manual, "TLB Parameters of the
       // Skylake Client Microarchitecture": second level, 1536 entries in 12 ways for 4K and 2M
       // pages together (here: as many of each), 16 in 4 ways for 1G pages. The first level, which
       // costs no walk, is left out; the walk caches are assumed, as above.
       .tlb = {{{}, {128, 12}, {128, 12}, {4, 4}}},
       .guest_structures = kStructures,
       .ept = {.structures = kStructures, .translations = kNestedTlb}},
      {.name = "tiny",
       .description = "two to four entries of everything: every eviction shows",
       .tlb = {{{}, {2, 2}, {1, 2}, {1, 2}}},
       .guest_structures = {{{}, {}, {1, 2}, {1, 2}, {1, 2}, {1, 2}}},
       .ept = {.structures = {{{}, {}, {1, 2}, {1, 2}, {1, 2}, {1, 2}}},
               .translations = {{{}, {1, 2}, {1, 2}, {1, 2}}}}},
      {.name = "judge",
       .description = "enough to keep what one operation touches, and quick to empty",
       .tlb = {{{}, {4, 8}, {1, 8}, {1, 4}}},
       .guest_structures = {{{}, {}, {1, 8}, {1, 4}, {1, 2}, {1, 2}}},
       .ept = {.structures = {{{}, {}, {1, 8}, {1, 4}, {1, 2}, {1, 2}}},
               .translations = {{{}, {4, 8}, {1, 8}, {1, 4}}}}},
  };
  return *presets;
}

}  // namespace

absl::Span<const CacheConfig> CachePresets() { return Presets(); }

absl::StatusOr<CacheConfig> CachePreset(std::string_view name) {
  std::string names;
  for (const CacheConfig& preset : Presets()) {
    if (name == preset.name) return preset;
    absl::StrAppend(&names, names.empty() ? "" : ", ", preset.name);
  }
  return absl::NotFoundError(absl::StrFormat("no cache preset \"%s\"; there are %s", name, names));
}

}  // namespace tdp::sim
