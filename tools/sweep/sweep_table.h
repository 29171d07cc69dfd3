// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The results of a sweep as CSV and as JSON, and several such files as one.

#ifndef TDP_TOOLS_SWEEP_SWEEP_TABLE_H_
#define TDP_TOOLS_SWEEP_SWEEP_TABLE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/sweep/sweep_plan.h"

namespace tdp::tools {

struct SweepResult {
  SweepCell cell;
  ReplayReport report;
};

// Returns the names of the columns of every result, with the newline. The first three are the
// cell's number, how many cells the whole sweep has, and the sweep's identity.
std::string SweepCsvHeading(const SweepCell& cell);
// Returns a result as one line of CSV, and as one line that is a JSON object: "cell", "cells",
// "sweep", and what `ReportJson` says. Without a newline.
std::string SweepCsvLine(const SweepResult& result, uint64_t all_cells);
std::string SweepJsonObject(const SweepResult& result, uint64_t all_cells);

// Returns the fields of a line of CSV, as they stand there: a quoted one with its quotes.
std::vector<std::string> CsvFields(std::string_view line);
// InvalidArgument, naming the line, if `csv` ends inside one: its writer was interrupted. `name` is
// for the message.
absl::Status CheckLastLine(std::string_view name, std::string_view csv);

// Holds what stands before the other columns of a line: which cell it is, and of which sweep.
struct CellKey {
  uint64_t cell = 0;
  uint64_t cells = 0;
  std::string sweep;
};
// Reads it from a line of CSV, and from the JSON object of a cell; nothing if there is none.
std::optional<CellKey> CsvCellKey(std::string_view line);
std::optional<CellKey> JsonCellKey(const nlohmann::ordered_json& object);

// One piece of a sweep, as its file has it.
struct SweepPiece {
  std::string name;  // for messages
  std::string text;
};

// The whole sweep that `pieces`, all CSV or all JSON, are parts of, in the order of the cells.
// InvalidArgument, naming the piece and what is wrong with it, if they are not pieces of one sweep,
// or a cell is missing or there twice.
absl::StatusOr<std::string> MergeSweep(const std::vector<SweepPiece>& pieces);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_SWEEP_SWEEP_TABLE_H_
