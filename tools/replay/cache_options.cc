// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/cache_options.h"

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/types/span.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/mmu/machine_file.h"

namespace tdp::tools {
namespace {

constexpr std::string_view kNoCost = "none";
constexpr uint32_t kMaxSets = 65536;
constexpr uint32_t kMaxWays = 65536;
constexpr uint64_t kMaxEntries = uint64_t{1} << 20;

// Choices whose word is their meaning.
template <typename Preset>
std::vector<std::pair<std::string, std::string>> NamesOf(absl::Span<const Preset> presets) {
  std::vector<std::pair<std::string, std::string>> names;
  for (const Preset& preset : presets) names.emplace_back(preset.name, preset.name);
  return names;
}

absl::StatusOr<sim::CacheGeometry> ParseGeometry(std::string_view text) {
  const std::pair<std::string_view, std::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('x', 1));
  uint32_t sets = 0;
  uint32_t ways = 0;
  if (!absl::SimpleAtoi(parts.first, &sets) || !absl::SimpleAtoi(parts.second, &ways) || sets < 1 ||
      sets > kMaxSets || ways < 1 || ways > kMaxWays || uint64_t{sets} * ways > kMaxEntries) {
    return absl::InvalidArgumentError(
        "must be SETSxWAYS, as in 128x12 or 1x64: from 1 to 65536 each, 1048576 entries at most");
  }
  return sim::CacheGeometry{static_cast<int>(sets), static_cast<int>(ways)};
}

}  // namespace

absl::StatusOr<std::array<sim::CacheGeometry, 4>> ParseTlb(std::string_view text) {
  const std::vector<std::string_view> parts = absl::StrSplit(text, '+');
  if (parts.size() != 1 && parts.size() != 3) {
    return absl::InvalidArgumentError("must have one geometry, or three with + between");
  }
  std::array<sim::CacheGeometry, 4> tlb;
  for (size_t i = 0; i < 3; ++i) {
    TDP_ASSIGN_OR_RETURN(tlb[i + 1], ParseGeometry(parts[parts.size() == 1 ? 0 : i]));
  }
  return tlb;
}

void AddCacheOptions(OptionParser& parser, CacheOptions* options) {
  parser.AddChoice("caches", "TLB and walk caches", &options->caches, NamesOf(sim::CachePresets()));
  parser.Add("tlb", "SETSxWAYS", "in place of the preset's TLB; A+B+C for 4K, 2M and 1G pages",
             options->tlb, [options](std::string_view text) {
               options->tlb = std::string(text);
               return ParseTlb(text).status();
             });
  auto costs = NamesOf(sim::DataCachePresets());
  costs.emplace(costs.begin(), kNoCost, kNoCost);
  parser.AddChoice("cost", "data caches that table references go through, for cycles",
                   &options->cost, std::move(costs));
  parser.Add("machine", "NAME|FILE",
             absl::StrCat("time every access by the MMU of a real part: ",
                          absl::StrJoin(MachineNames(), ", "), ", or a machine file"),
             options->machine, [options](std::string_view text) {
               options->machine = std::string(text);
               return LoadMachine(options->machine).status();
             });
  parser.AddChoice("program-data", "whether the program's own data go through that part's caches",
                   &options->program_data, {{"off", false}, {"on", true}});
}

std::vector<std::string> InputFiles(std::vector<std::string> traces, const CacheOptions& options) {
  const std::vector<std::string> known = MachineNames();
  const bool is_file = std::find(known.begin(), known.end(), options.machine) == known.end();
  if (!options.machine.empty() && is_file) traces.push_back(options.machine);
  return traces;
}

absl::StatusOr<sim::CacheConfig> MakeCacheConfig(const CacheOptions& options) {
  TDP_ASSIGN_OR_RETURN(sim::CacheConfig config, sim::CachePreset(options.caches));
  if (!options.tlb.empty()) {
    TDP_ASSIGN_OR_RETURN(config.tlb, ParseTlb(options.tlb));
  }
  return config;
}

absl::StatusOr<std::optional<sim::MmuConfig>> MakeMmuConfig(const CacheOptions& options) {
  if (options.machine.empty()) return std::nullopt;
  TDP_ASSIGN_OR_RETURN(sim::MmuConfig config, LoadMachine(options.machine));
  config.program_data = options.program_data;
  return config;
}

absl::StatusOr<std::optional<sim::DataCacheConfig>> MakeCostModel(const CacheOptions& options) {
  if (options.cost == kNoCost) return std::nullopt;
  return sim::DataCachePreset(options.cost);
}

}  // namespace tdp::tools
