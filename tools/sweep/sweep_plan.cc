// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_plan.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/replay/option_use.h"

namespace tdp::tools {
namespace {

OptionParser ReplayParser(ReplayOptions* options) {
  OptionParser parser;
  AddReplayOptions(parser, options);
  return parser;
}

// Sets `cell.options` from its values.
absl::Status ReadValues(SweepCell& cell) {
  std::vector<std::string> arguments;
  for (const auto& [name, value] : cell.values) {
    // An empty value is a default that has no text, such as the TLB of a preset.
    if (!value.empty()) arguments.push_back(absl::StrCat("--", name, "=", value));
  }
  const std::vector<std::string_view> views(arguments.begin(), arguments.end());
  const absl::Status parsed = ReplayParser(&cell.options).Parse(views).status();
  return parsed.ok() ? CheckReplayOptions(cell.options) : parsed;
}

// Takes away the values that mean nothing beside the others, so that cells which differ in nothing
// else are one.
absl::Status BlankUnused(SweepCell& cell) {
  const std::vector<UnusedOption> unused = UnusedOptions(cell.options);
  for (auto& [name, value] : cell.values) {
    for (const UnusedOption& option : unused) {
      if (name == option.name) value.clear();
    }
  }
  cell.options = ReplayOptions();
  return ReadValues(cell);
}

// Two cells with the same one are the same replay.
std::string KeyOf(const SweepCell& cell) {
  std::string key = cell.trace;
  for (const auto& [name, value] : cell.values) absl::StrAppend(&key, std::string(1, '\0'), value);
  return key;
}

// An empty value would stand for a default that nobody asked for, and a second one of a kind makes
// the same cells again.
absl::Status CheckValues(const std::vector<std::string>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (values[i].empty()) return absl::InvalidArgumentError("a value is empty");
    if (std::find(values.begin(), values.begin() + static_cast<ptrdiff_t>(i), values[i]) !=
        values.begin() + static_cast<ptrdiff_t>(i)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", values[i], "\" is there twice"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Shard> ParseShard(std::string_view text) {
  const std::pair<std::string_view, std::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('/', 1));
  uint64_t number = 0;
  Shard shard;
  if (!absl::SimpleAtoi(parts.first, &number) || !absl::SimpleAtoi(parts.second, &shard.count) ||
      number < 1 || number > shard.count) {
    return absl::InvalidArgumentError("must be i/n with i from 1 to n");
  }
  shard.index = number - 1;
  return shard;
}

SweepPlan::SweepPlan() {
  ReplayOptions defaults;
  const OptionParser replay = ReplayParser(&defaults);
  for (const OptionParser::Option& option : replay.options()) {
    dimensions_.push_back({option.name, {option.default_text}});
  }
}

void SweepPlan::AddOptions(OptionParser& parser) {
  ReplayOptions defaults;
  const OptionParser replay = ReplayParser(&defaults);
  for (size_t i = 0; i < dimensions_.size(); ++i) {
    const OptionParser::Option& option = replay.options()[i];
    std::vector<std::string>* values = &dimensions_[i].values;
    parser.Add(option.name, option.form + ",...", option.help, option.default_text,
               [values](std::string_view text) -> absl::Status {
                 *values = absl::StrSplit(text, ',');
                 return CheckValues(*values);
               });
  }
}

uint64_t SweepPlan::Combinations(const std::vector<std::string>& traces) const {
  uint64_t count = traces.size();
  for (const Dimension& dimension : dimensions_) {
    count *= dimension.values.size();
    if (count > kMaxCells) break;
  }
  return count;
}

absl::Status SweepPlan::SetSeeds(uint64_t count) {
  const SweepPlan defaults;
  for (size_t i = 0; i < dimensions_.size(); ++i) {
    if (dimensions_[i].name != "seed") continue;
    if (dimensions_[i].values != defaults.dimensions_[i].values) {
      return absl::InvalidArgumentError("--seeds and --seed exclude each other");
    }
    dimensions_[i].values.clear();
    for (uint64_t seed = 1; seed <= count; ++seed) {
      dimensions_[i].values.push_back(absl::StrCat(seed));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SweepCell>> SweepPlan::Cells(
    const std::vector<std::string>& traces) const {
  const uint64_t count = Combinations(traces);
  if (count > kMaxCells) {
    return absl::InvalidArgumentError(
        absl::StrCat("the options make more than ", kMaxCells, " combinations"));
  }
  std::vector<SweepCell> cells;
  absl::flat_hash_set<std::string> seen;
  for (uint64_t number = 0; number < count; ++number) {
    SweepCell cell;
    // The digits of the number, the last dimension's first.
    uint64_t rest = number;
    cell.values.resize(dimensions_.size());
    for (size_t i = dimensions_.size(); i-- > 0;) {
      const Dimension& dimension = dimensions_[i];
      cell.values[i] = {dimension.name, dimension.values[rest % dimension.values.size()]};
      rest /= dimension.values.size();
    }
    cell.trace = traces[rest];
    TDP_RETURN_IF_ERROR(ReadValues(cell));
    TDP_RETURN_IF_ERROR(BlankUnused(cell));
    if (!seen.insert(KeyOf(cell)).second) continue;
    cell.number = cells.size();
    cells.push_back(std::move(cell));
  }
  return cells;
}

}  // namespace tdp::tools
