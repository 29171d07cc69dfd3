// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Options that shape the simulated CPU: its TLB, its walk caches and what a table reference costs.

#ifndef TDP_TOOLS_REPLAY_CACHE_OPTIONS_H_
#define TDP_TOOLS_REPLAY_CACHE_OPTIONS_H_

#include <array>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/backends/sim/assoc_cache.h"
#include "tdp/backends/sim/cache_presets.h"
#include "tdp/backends/sim/cost_model.h"
#include "tdp/backends/sim/mmu_config.h"
#include "tdp/tools/options.h"

namespace tdp::tools {

struct CacheOptions {
  std::string caches = "skylake";  // preset of TLB and walk caches
  std::string tlb;                 // as `ParseTlb` reads it; empty: the preset's
  std::string cost = "none";       // preset of the data caches that table references go through
  std::string machine;       // name or file of a real part's MMU; empty: none, the above is it
  bool program_data = true;  // under a machine, the program's data use its caches too
};

// Declares --caches, --tlb, --cost, --machine and --program-data; `options` outlives the parser.
void AddCacheOptions(OptionParser& parser, CacheOptions* options);

// TLB geometries by page size, [1] 4 KiB to [3] 1 GiB, from "SETSxWAYS" for all of them or three of
// those with + between. InvalidArgument unless sets and ways are from 1 to 65536 each, and a TLB
// has at most 2^20 entries.
absl::StatusOr<std::array<sim::CacheGeometry, 4>> ParseTlb(std::string_view text);

// Returns `traces` and the machine file, if there is one: the files that a run reads.
std::vector<std::string> InputFiles(std::vector<std::string> traces, const CacheOptions& options);

// Returns what the options say, for the CPU. InvalidArgument or NotFound for what they do not know.
absl::StatusOr<sim::CacheConfig> MakeCacheConfig(const CacheOptions& options);
// Nothing without --machine. Errors are those of `LoadMachine`.
absl::StatusOr<std::optional<sim::MmuConfig>> MakeMmuConfig(const CacheOptions& options);
// Nothing for "none": references cost nothing.
absl::StatusOr<std::optional<sim::DataCacheConfig>> MakeCostModel(const CacheOptions& options);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_CACHE_OPTIONS_H_
