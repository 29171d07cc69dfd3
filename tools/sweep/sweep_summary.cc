// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_summary.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <iterator>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/sweep/sweep_identity.h"
#include "tdp/tools/sweep/sweep_table.h"

namespace tdp::tools {
namespace {

using Fields = std::vector<std::string>;

// Two-sided 95 % quantile of Student's t by degrees of freedom.
double StudentT(size_t degrees) {
  static constexpr double kQuantiles[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                                          2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                                          2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                                          2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
  // Beyond the table the series in 1 / n, good to four digits.
  const auto n = static_cast<double>(degrees);
  return degrees <= std::size(kQuantiles) ? kQuantiles[degrees - 1] : 1.95996 + 2.3722 / n;
}

struct Columns {
  size_t seed = 0;
  size_t sweep = 0;
  size_t first_figure = 0;  // "accesses"
  Fields names;
};

absl::StatusOr<Columns> ReadHeading(std::string_view name, std::string_view line) {
  Columns columns;
  columns.names = CsvFields(line);
  const auto find = [&columns](std::string_view wanted) {
    return static_cast<size_t>(std::find(columns.names.begin(), columns.names.end(), wanted) -
                               columns.names.begin());
  };
  columns.seed = find("seed");
  columns.sweep = find("sweep");
  columns.first_figure = find("accesses");
  const bool whole = columns.names.size() > 2 && columns.names[0] == "cell" &&
                     columns.first_figure < columns.names.size() &&
                     columns.seed < columns.first_figure && columns.sweep < columns.first_figure;
  if (!whole) return absl::InvalidArgumentError(absl::StrCat(name, ":1: not the CSV of a sweep"));
  return columns;
}

// Mean and half the interval, as two fields; empty ones for what is no number.
std::string Statistics(const std::vector<std::string>& texts) {
  std::vector<double> values;
  for (const std::string& text : texts) {
    double value = 0;
    if (!absl::SimpleAtod(text, &value)) return ",";
    values.push_back(value);
  }
  double mean = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  if (values.size() == 1) return absl::StrFormat("%.12g,", mean);
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  const auto n = static_cast<double>(values.size());
  const double half = StudentT(values.size() - 1) * std::sqrt(squares / (n - 1) / n);
  return absl::StrFormat("%.12g,%.4g", mean, half);
}

// The lines of one combination.
struct Group {
  std::string inputs;
  std::vector<Fields> lines;
};

std::string InputsOf(const Columns& columns, const Fields& fields) {
  Fields inputs;
  // The cell's number depends on the seed, and the sweep is the same everywhere.
  for (size_t i = 2; i < columns.first_figure; ++i) {
    if (i != columns.seed && i != columns.sweep) inputs.push_back(fields[i]);
  }
  return absl::StrJoin(inputs, ",");
}

std::string Heading(const Columns& columns) {
  std::string heading = InputsOf(columns, columns.names) + ",seeds";
  for (size_t i = columns.first_figure; i < columns.names.size(); ++i) {
    absl::StrAppend(&heading, ",", columns.names[i], "_mean,", columns.names[i], "_ci95");
  }
  return heading + "\n";
}

std::string LineOf(const Columns& columns, const Group& group) {
  std::string line = absl::StrCat(group.inputs, ",", group.lines.size());
  for (size_t i = columns.first_figure; i < columns.names.size(); ++i) {
    std::vector<std::string> texts;
    for (const Fields& fields : group.lines) texts.push_back(fields[i]);
    absl::StrAppend(&line, ",", Statistics(texts));
  }
  return line + "\n";
}

}  // namespace

absl::StatusOr<std::string> SummarizeSweep(std::string_view name, std::string_view csv) {
  const std::vector<std::string_view> lines = absl::StrSplit(csv, '\n', absl::SkipEmpty());
  if (lines.empty()) return absl::InvalidArgumentError(absl::StrCat(name, ": empty"));
  TDP_ASSIGN_OR_RETURN(const Columns columns, ReadHeading(name, lines[0]));
  TDP_RETURN_IF_ERROR(CheckLastLine(name, csv));
  std::vector<Group> groups;
  std::string first_sweep;
  std::set<std::string> cells;
  std::map<std::string, size_t> numbers;
  for (size_t i = 1; i < lines.size(); ++i) {
    Fields fields = CsvFields(lines[i]);
    if (fields.size() != columns.names.size()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ":", i + 1, ": ", fields.size(),
                                                     " fields, not ", columns.names.size(),
                                                     " as in the heading"));
    }
    if (i == 1) first_sweep = fields[columns.sweep];
    if (const std::string difference = SweepDifference(fields[columns.sweep], first_sweep);
        !difference.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", i + 1, ": a cell of another sweep than the first: ", difference));
    }
    if (!cells.insert(fields[0]).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ":", i + 1, ": cell ", fields[0], " is there twice"));
    }
    std::string inputs = InputsOf(columns, fields);
    const auto [place, added] = numbers.emplace(inputs, groups.size());
    if (added) groups.push_back({std::move(inputs), {}});
    groups[place->second].lines.push_back(std::move(fields));
  }
  std::string text = Heading(columns);
  for (const Group& group : groups) text += LineOf(columns, group);
  return text;
}

}  // namespace tdp::tools
