// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The cells of a sweep: every combination of the values given for each option.

#ifndef TDP_TOOLS_SWEEP_SWEEP_PLAN_H_
#define TDP_TOOLS_SWEEP_SWEEP_PLAN_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/tools/options.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

// Says which cells of a sweep one process runs: those whose number is `index` modulo `count`.
// Parsed from "i/n" with i from 1 to n.
struct Shard {
  uint64_t index = 0;
  uint64_t count = 1;

  bool Has(uint64_t cell) const { return cell % count == index; }
};
absl::StatusOr<Shard> ParseShard(std::string_view text);

// One replay. Independent of every other, so that a sweep can be run in any order and in pieces.
struct SweepCell {
  uint64_t number = 0;  // from 0
  std::string trace;
  // The value of every replay option as text, in the order of their declaration; empty where the
  // option means nothing beside the others (`UnusedOptions`) or is a default without a text.
  std::vector<std::pair<std::string, std::string>> values;
  ReplayOptions options;
  // The other two are set by whoever knows the options that are no replay's.
  std::string command;  // makes this run alone
  std::string sweep;    // `SweepIdentity` of all cells
};

class SweepPlan {
 public:
  // More cells than this are taken for a mistake.
  static constexpr uint64_t kMaxCells = 1'000'000;

  // Knows every option of a replay, each with its default as the only value.
  SweepPlan();

  // Declares them in `parser`, which takes a list with commas for each. The plan outlives the
  // parser.
  void AddOptions(OptionParser& parser);

  // The seeds are 1 to `count`. InvalidArgument if seeds were given.
  absl::Status SetSeeds(uint64_t count);

  // All combinations, the last option changing fastest, those that come to the same replay once.
  // InvalidArgument if a value is not one for
  // its option, or too many cells.
  absl::StatusOr<std::vector<SweepCell>> Cells(const std::vector<std::string>& traces) const;
  // Returns how many combinations `Cells` looks at; more than kMaxCells stands for any such number.
  uint64_t Combinations(const std::vector<std::string>& traces) const;

 private:
  struct Dimension {
    std::string name;
    std::vector<std::string> values;
  };

  std::vector<Dimension> dimensions_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_SWEEP_SWEEP_PLAN_H_
