// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_table.h"

#include <algorithm>
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
#include "tdp/tools/sweep/sweep_identity.h"

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
                     {"sweep", result.cell.sweep},
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
  absl::Status Add(const std::string& piece, const CellKey& key, std::string text) {
    if (first_piece_.empty()) {
      first_piece_ = piece;
      first_ = key;
    }
    if (key.cells != first_.cells || key.cell >= key.cells) {
      return absl::InvalidArgumentError(absl::StrCat(piece, ": cell ", key.cell, " of ", key.cells,
                                                     " is of another sweep than the first, ",
                                                     "which has ", first_.cells, " cells"));
    }
    if (const std::string difference = SweepDifference(key.sweep, first_.sweep);
        !difference.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(piece, ": cell ", key.cell,
                                                     " is of another sweep than ", first_piece_,
                                                     ": ", difference));
    }
    if (!texts_.emplace(key.cell, std::move(text)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(piece, ": cell ", key.cell, " is there twice"));
    }
    return absl::OkStatus();
  }

  // Returns the texts in the order of the cells.
  absl::StatusOr<std::vector<std::string>> Finish() {
    if (texts_.empty()) return absl::InvalidArgumentError("there is no cell in the files");
    std::vector<std::string> all;
    for (auto& [cell, text] : texts_) {
      if (cell != all.size()) break;
      all.push_back(std::move(text));
    }
    if (all.size() == first_.cells) return all;
    return absl::InvalidArgumentError(
        absl::StrCat("cell ", all.size(), " of ", first_.cells, " is in none of the files"));
  }

 private:
  std::map<uint64_t, std::string> texts_;
  std::string first_piece_;
  CellKey first_;
};

absl::Status AddCsvPiece(const SweepPiece& piece, std::string& heading, Merger& merger) {
  const std::vector<std::string> lines = absl::StrSplit(piece.text, '\n', absl::SkipEmpty());
  if (lines.empty() || !absl::StartsWith(lines[0], "cell,cells,")) {
    return absl::InvalidArgumentError(absl::StrCat(piece.name, ": not the result of a sweep"));
  }
  if (!absl::StartsWith(lines[0], "cell,cells,sweep,")) {
    return absl::InvalidArgumentError(
        absl::StrCat(piece.name, ":1: no column \"sweep\": an older tdp made it"));
  }
  TDP_RETURN_IF_ERROR(CheckLastLine(piece.name, piece.text));
  if (heading.empty()) heading = lines[0];
  if (lines[0] != heading) {
    return absl::InvalidArgumentError(
        absl::StrCat(piece.name, ": its columns are not those of the first file"));
  }
  const size_t columns = CsvFields(heading).size();
  for (size_t i = 1; i < lines.size(); ++i) {
    const std::optional<CellKey> key = CsvCellKey(lines[i]);
    if (!key.has_value() || CsvFields(lines[i]).size() != columns) {
      return absl::InvalidArgumentError(
          absl::StrCat(piece.name, ":", i + 1, ": not a line of a sweep"));
    }
    TDP_RETURN_IF_ERROR(merger.Add(piece.name, *key, lines[i]));
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
    const std::optional<CellKey> key = JsonCellKey(object);
    if (!key.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat(piece.name, ": an object is no cell's"));
    }
    TDP_RETURN_IF_ERROR(merger.Add(piece.name, *key, object.dump()));
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
  Json object = {{"cell", result.cell.number}, {"cells", all_cells}, {"sweep", result.cell.sweep}};
  object.update(RunJson(result.report));
  return JsonText(object);
}

std::vector<std::string> CsvFields(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (const char c : line) {
    if (c == '"') quoted = !quoted;
    if (c == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  return fields;
}

absl::Status CheckLastLine(std::string_view name, std::string_view csv) {
  if (csv.empty() || csv.ends_with('\n')) return absl::OkStatus();
  const auto line = std::count(csv.begin(), csv.end(), '\n') + 1;
  return absl::InvalidArgumentError(absl::StrCat(name, ":", line, ": cut short"));
}

std::optional<CellKey> CsvCellKey(std::string_view line) {
  const std::vector<std::string_view> fields = absl::StrSplit(line, absl::MaxSplits(',', 3));
  CellKey key;
  if (fields.size() != 4 || !absl::SimpleAtoi(fields[0], &key.cell) ||
      !absl::SimpleAtoi(fields[1], &key.cells)) {
    return std::nullopt;
  }
  key.sweep = fields[2];
  return key;
}

std::optional<CellKey> JsonCellKey(const Json& object) {
  if (!IsCount(object, "cell") || !IsCount(object, "cells")) return std::nullopt;
  const Json sweep = object.value("sweep", Json());
  if (!sweep.is_string()) return std::nullopt;
  return CellKey{object["cell"].get<uint64_t>(), object["cells"].get<uint64_t>(),
                 sweep.get<std::string>()};
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
