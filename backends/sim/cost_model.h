// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what a reference of a page walk costs: a data-cache hierarchy for paging-structure entries.

#ifndef TDP_BACKENDS_SIM_COST_MODEL_H_
#define TDP_BACKENDS_SIM_COST_MODEL_H_

#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/assoc_cache.h"

namespace tdp::sim {

// One level of the hierarchy. A line has 64 bytes: eight entries.
struct DataCacheLevel {
  CacheGeometry geometry;
  int latency = 0;  // cycles, load to use, of a hit here
};

struct DataCacheConfig {
  const char* name = "";
  const char* source = "";             // where the parameters come from
  std::vector<DataCacheLevel> levels;  // the nearest first
  int memory_latency = 200;            // cycles of a miss everywhere
};

// Returns the presets that the documentation names: "flat" (every reference one cycle), "nehalem",
// "skylake".
absl::Span<const DataCacheConfig> DataCachePresets();
// Returns the preset of that name; NotFound, listing the names, if there is none.
absl::StatusOr<DataCacheConfig> DataCachePreset(std::string_view name);

// Models data caches with LRU and without prefetching, used by walks alone: the program's own data
// does not push entries out, so that the figures are a lower bound. Not thread-safe: each CPU has
// one.
class DataCacheModel {
 public:
  explicit DataCacheModel(const DataCacheConfig& config);

  // Returns the cycles of a load at `hpa`; its line is then in every level.
  int Access(uint64_t hpa);

 private:
  struct Nothing {};
  struct LevelState {
    AssocCache<Nothing, Nothing> lines;
    int latency;
  };
  std::vector<LevelState> levels_;
  int memory_latency_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_COST_MODEL_H_
