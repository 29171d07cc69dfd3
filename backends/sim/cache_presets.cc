// SPDX-License-Identifier: Apache-2.0

#include "tdp/backends/sim/cache_presets.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"

namespace tdp::sim {
namespace {

// A second-level TLB of 1536 entries shared by 4K and 2M pages is modelled as one of each kind.
constexpr std::array<CacheGeometry, 4> kTlb = {{{}, {128, 12}, {16, 8}, {1, 16}}};
// Paging-structure caches, as measured on Intel parts: 32 PDEs, 4 PDPTEs, 2 PML4Es and PML5Es each.
constexpr std::array<CacheGeometry, 6> kStructures = {{{}, {}, {8, 4}, {1, 4}, {1, 2}, {1, 2}}};
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
       .tlb = {{{}, {128, 12}, {128, 12}, {4, 4}}},
       .guest_structures = kStructures,
       .ept = {.structures = kStructures, .translations = kNestedTlb}},
      {.name = "tiny",
       .description = "two to four entries of everything: every eviction shows",
       .tlb = {{{}, {2, 2}, {1, 2}, {1, 2}}},
       .guest_structures = {{{}, {}, {1, 2}, {1, 2}, {1, 2}, {1, 2}}},
       .ept = {.structures = {{{}, {}, {1, 2}, {1, 2}, {1, 2}, {1, 2}}},
               .translations = {{{}, {1, 2}, {1, 2}, {1, 2}}}}},
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
  return absl::NotFoundError(absl::StrCat("no cache preset \"", name, "\"; there are ", names));
}

}  // namespace tdp::sim
