// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_table.h"

#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/json_column.h"
#include "tdp/tools/replay/run_json.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;
// Names and values of the columns of a line.
using Columns = std::vector<std::pair<std::string, std::string>>;

std::string CsvField(const std::string& text) {
  if (text.find_first_of(",\"\n") == std::string::npos) return text;
  return absl::StrCat("\"", absl::StrReplaceAll(text, {{"\"", "\"\""}}), "\"");
}

Columns ColumnsOf(const SweepResult& result, uint64_t all_cells) {
  Columns columns = {{"cell", absl::StrCat(result.cell.number)},
                     {"cells", absl::StrCat(all_cells)},
                     {"trace", CsvField(result.cell.trace)}};
  for (const auto& [name, value] : result.cell.values) columns.emplace_back(name, CsvField(value));
  for (const auto& [name, value] : RunFigures(result.report)) {
    columns.emplace_back(name, CsvField(value));
  }
  return columns;
}

// Collects the cells of all pieces, whatever their form.
class Merger {
 public:
  absl::Status Add(const std::string& piece, uint64_t cell, uint64_t cells, std::string text) {
    if (all_cells_ == 0) all_cells_ = cells;
    if (cells != all_cells_ || cell >= cells) {
      return absl::InvalidArgumentError(absl::StrCat(piece, ": cell ", cell, " of ", cells,
                                                     " is of another sweep than the first, ",
                                                     "which has ", all_cells_, " cells"));
    }
    if (!texts_.emplace(cell, std::move(text)).second) {
      return absl::InvalidArgumentError(absl::StrCat(piece, ": cell ", cell, " is there twice"));
    }
    return absl::OkStatus();
  }

  // Returns the texts in the order of the cells.
  absl::StatusOr<std::vector<std::string>> Finish() {
    std::vector<std::string> all;
    for (auto& [cell, text] : texts_) {
      if (cell != all.size()) break;
      all.push_back(std::move(text));
    }
    if (all.size() == all_cells_) return all;
    return absl::InvalidArgumentError(
        absl::StrCat("cell ", all.size(), " of ", all_cells_, " is in none of the files"));
  }

 private:
  std::map<uint64_t, std::string> texts_;
  uint64_t all_cells_ = 0;
};

absl::Status AddCsvPiece(const SweepPiece& piece, std::string& heading, Merger& merger) {
  const std::vector<std::string> lines = absl::StrSplit(piece.text, '\n', absl::SkipEmpty());
  if (lines.empty() || !absl::StrContains(lines[0], "cell,cells,")) {
    return absl::InvalidArgumentError(absl::StrCat(piece.name, ": not the result of a sweep"));
  }
  if (heading.empty()) heading = lines[0];
  if (lines[0] != heading) {
    return absl::InvalidArgumentError(
        absl::StrCat(piece.name, ": its columns are not those of the first file"));
  }
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::vector<std::string_view> fields = absl::StrSplit(lines[i], absl::MaxSplits(',', 2));
    uint64_t cell = 0;
    uint64_t cells = 0;
    if (fields.size() != 3 || !absl::SimpleAtoi(fields[0], &cell) ||
        !absl::SimpleAtoi(fields[1], &cells)) {
      return absl::InvalidArgumentError(
          absl::StrCat(piece.name, ":", i + 1, ": not a line of a sweep"));
    }
    TDP_RETURN_IF_ERROR(merger.Add(piece.name, cell, cells, lines[i]));
  }
  return absl::OkStatus();
}

bool IsCount(const Json& object, const char* key) {
  return object.is_object() && object.contains(key) && object[key].is_number_unsigned();
}

absl::Status AddJsonPiece(const SweepPiece& piece, Merger& merger) {
  const Json array = Json::parse(piece.text, nullptr, /*allow_exceptions=*/false);
  if (!array.is_array()) {
    return absl::InvalidArgumentError(absl::StrCat(piece.name, ": not the result of a sweep"));
  }
  for (const Json& object : array) {
    if (!IsCount(object, "cell") || !IsCount(object, "cells")) {
      return absl::InvalidArgumentError(absl::StrCat(piece.name, ": an object has no cell number"));
    }
    TDP_RETURN_IF_ERROR(merger.Add(piece.name, object["cell"].get<uint64_t>(),
                                   object["cells"].get<uint64_t>(), object.dump()));
  }
  return absl::OkStatus();
}

std::string JsonArray(const std::vector<std::string>& objects) {
  return absl::StrCat("[\n", absl::StrJoin(objects, ",\n"), "\n]\n");
}

}  // namespace

std::string SweepCsvHeading(const SweepCell& cell) {
  const auto name = [](std::string* out, const auto& column) { out->append(column.first); };
  return absl::StrJoin(ColumnsOf({cell, ReplayReport()}, 0), ",", name) + "\n";
}

std::string SweepCsvLine(const SweepResult& result, uint64_t all_cells) {
  const auto value = [](std::string* out, const auto& column) { out->append(column.second); };
  return absl::StrJoin(ColumnsOf(result, all_cells), ",", value);
}

std::string SweepJsonObject(const SweepResult& result, uint64_t all_cells) {
  Json object = {{"cell", result.cell.number}, {"cells", all_cells}};
  object.update(RunJson(result.report));
  return JsonText(object);
}

absl::StatusOr<std::string> MergeSweep(const std::vector<SweepPiece>& pieces) {
  Merger merger;
  std::string heading;
  const bool json = pieces[0].text.starts_with('[');
  for (const SweepPiece& piece : pieces) {
    TDP_RETURN_IF_ERROR(json ? AddJsonPiece(piece, merger) : AddCsvPiece(piece, heading, merger));
  }
  TDP_ASSIGN_OR_RETURN(std::vector<std::string> cells, merger.Finish());
  if (json) return JsonArray(cells);
  return absl::StrCat(heading, "\n", absl::StrJoin(cells, "\n"), "\n");
}

}  // namespace tdp::tools
