// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The results of a sweep as CSV and as JSON, and several such files as one.

#ifndef TDP_TOOLS_SWEEP_SWEEP_TABLE_H_
#define TDP_TOOLS_SWEEP_SWEEP_TABLE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/sweep/sweep_plan.h"

namespace tdp::tools {

struct SweepResult {
  SweepCell cell;
  ReplayReport report;
};

// Returns the names of the columns of every result, with the newline. The first two are the cell's
// number and how many cells the whole sweep has.
std::string SweepCsvHeading(const SweepCell& cell);
// Returns a result as one line of CSV, and as one line that is a JSON object: "cell", "cells", and
// what `ReportJson` says. Without a newline.
std::string SweepCsvLine(const SweepResult& result, uint64_t all_cells);
std::string SweepJsonObject(const SweepResult& result, uint64_t all_cells);

// One piece of a sweep, as its file has it.
struct SweepPiece {
  std::string name;  // for messages
  std::string text;
};

// The whole sweep that `pieces`, all CSV or all JSON, are parts of, in the order of the cells.
// InvalidArgument if they are not pieces of one sweep, or a cell is missing or there twice.
absl::StatusOr<std::string> MergeSweep(const std::vector<SweepPiece>& pieces);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_SWEEP_SWEEP_TABLE_H_
