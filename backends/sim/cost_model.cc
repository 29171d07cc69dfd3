// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/cost_model.h"

#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tdp::sim {
namespace {

constexpr int kLineShift = 6;

const std::vector<DataCacheConfig>& KnownDataCaches() {
  // Sets x ways x 64 bytes. Latencies are load-to-use cycles of an L1/L2/L3 hit: the fastest ones
  // that the manual's table "Cache Parameters" of each part gives. The 8 MiB of L3 are those of a
  // part with four cores; the 200 cycles of memory, which depend on the board, are assumed.
  static const auto* const presets = new std::vector<DataCacheConfig>{
      {.name = "flat",
       .source = "every reference costs one cycle",
       .levels = {},
       .memory_latency = 1},
      {.name = "nehalem",
       .source = "Intel 64 and IA-32 Optimization Reference Manual, Nehalem: 32K/4, 256K/10, 8M/38",
       .levels = {{{64, 8}, 4}, {{512, 8}, 10}, {{8192, 16}, 38}},
       .memory_latency = 200},
      {.name = "skylake",
       .source = "Intel 64 and IA-32 Optimization Reference Manual, Skylake: 32K/4, 256K/12, 8M/44",
       .levels = {{{64, 8}, 4}, {{1024, 4}, 12}, {{8192, 16}, 44}},
       .memory_latency = 200},
  };
  return *presets;
}

}  // namespace

absl::Span<const DataCacheConfig> DataCachePresets() { return KnownDataCaches(); }

absl::StatusOr<DataCacheConfig> DataCachePreset(std::string_view name) {
  std::string names;
  for (const DataCacheConfig& preset : KnownDataCaches()) {
    if (name == preset.name) return preset;
    absl::StrAppend(&names, names.empty() ? "" : ", ", preset.name);
  }
  return absl::NotFoundError(absl::StrFormat("no cost preset \"%s\"; there are %s", name, names));
}

DataCacheModel::DataCacheModel(const DataCacheConfig& config)
    : memory_latency_(config.memory_latency) {
  for (const DataCacheLevel& level : config.levels) {
    levels_.push_back({{}, level.latency});
    levels_.back().lines.Configure(level.geometry);
  }
}

int DataCacheModel::Access(uint64_t hpa) {
  const uint64_t tag = (hpa >> kLineShift) + 1;  // tags are not 0
  for (size_t hit = 0; hit < levels_.size(); ++hit) {
    if (levels_[hit].lines.Find(tag) == nullptr) continue;
    for (size_t i = 0; i < hit; ++i) levels_[i].lines.Insert(tag, {});
    return levels_[hit].latency;
  }
  for (LevelState& level : levels_) level.lines.Insert(tag, {});
  return memory_latency_;
}

}  // namespace tdp::sim
