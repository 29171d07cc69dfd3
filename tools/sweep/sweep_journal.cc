// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_journal.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::json;

absl::Status WriteError(const std::string& path) {
  return absl::UnavailableError(absl::StrCat("cannot write ", path, ": ", std::strerror(errno)));
}

// Opens, writes and closes: whatever happens afterwards, the text has reached the system.
absl::Status WriteNow(const std::string& path, const char* mode, std::string_view text) {
  if (path == "-") {
    const bool written = std::fwrite(text.data(), 1, text.size(), stdout) == text.size();
    return written && std::fflush(stdout) == 0 ? absl::OkStatus() : WriteError("standard output");
  }
  std::FILE* const file = std::fopen(path.c_str(), mode);
  if (file == nullptr) return WriteError(path);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if (std::fclose(file) != 0 || !written) return WriteError(path);
  return absl::OkStatus();
}

// Returns the lines of a file; none if there is no such file. With `ended`, without a last one that
// was cut short.
absl::StatusOr<std::vector<std::string>> LinesOf(const std::string& path, bool ended) {
  absl::StatusOr<std::unique_ptr<ByteSource>> source = OpenByteSource(path);
  if (absl::IsNotFound(source.status())) return std::vector<std::string>();
  if (!source.ok()) return source.status();
  std::string text;
  for (size_t got = 1; got != 0;) {
    constexpr size_t kChunk = size_t{1} << 16;
    const size_t had = text.size();
    text.resize(had + kChunk);
    TDP_ASSIGN_OR_RETURN(got, (*source)->Read(absl::MakeSpan(text).subspan(had)));
    text.resize(had + got);
  }
  if (ended) text.resize(text.find('\n') == std::string::npos ? 0 : text.rfind('\n'));
  return std::vector<std::string>(absl::StrSplit(text, '\n', absl::SkipEmpty()));
}

absl::Status OtherSweep(const std::string& path) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": --resume: it holds another sweep than this one"));
}

// Cell number and count of a line of CSV; false if it is none.
bool ReadCsvLine(std::string_view line, uint64_t& cell, uint64_t& cells) {
  const std::vector<std::string_view> fields = absl::StrSplit(line, absl::MaxSplits(',', 2));
  return fields.size() == 3 && absl::SimpleAtoi(fields[0], &cell) &&
         absl::SimpleAtoi(fields[1], &cells);
}

bool ReadJsonLine(std::string_view line, uint64_t& cell, uint64_t& cells) {
  const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || !object.contains("cell") || !object.contains("cells")) return false;
  cell = object["cell"].get<uint64_t>();
  cells = object["cells"].get<uint64_t>();
  return true;
}

// Returns what `cell` would be like before it has run: the same inputs in every column.
SweepResult Unrun(const SweepCell& cell) {
  SweepResult result{cell, ReplayReport()};
  result.report.options = cell.options;
  result.report.trace = cell.trace;
  return result;
}

// Returns whether a line from before is of `cell`, and not of one of the same number in another
// sweep.
bool IsCsvOf(const SweepCell& cell, uint64_t all_cells, std::string_view line) {
  const std::string unrun = SweepCsvLine(Unrun(cell), all_cells);
  // The inputs are the columns up to the first that counts something.
  const std::string heading = SweepCsvHeading(cell);
  const auto columns = std::count(
      heading.begin(), heading.begin() + static_cast<ptrdiff_t>(heading.find(",accesses,")), ',');
  size_t end = 0;
  for (ptrdiff_t i = 0; i <= columns; ++i) end = unrun.find(',', end) + 1;
  return line.starts_with(std::string_view(unrun).substr(0, end));
}

bool IsJsonOf(const SweepCell& cell, uint64_t all_cells, std::string_view line) {
  const Json before = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  const Json unrun = Json::parse(SweepJsonObject(Unrun(cell), all_cells));
  return before.value("trace", "") == unrun["trace"] && before.contains("options") &&
         before["options"] == unrun["options"];
}

}  // namespace

absl::StatusOr<SweepJournal> SweepJournal::Create(const std::string& csv, const std::string& json,
                                                  const std::vector<SweepCell>& cells,
                                                  bool resume) {
  SweepJournal journal(cells.size());
  if (csv == "-" && json == "-") {
    return absl::InvalidArgumentError("--csv and --json cannot both go to standard output");
  }
  journal.csv_.path = csv.empty() && json.empty() ? "-" : csv;
  journal.csv_.heading = SweepCsvHeading(cells.front());
  journal.json_.path = json;
  journal.json_.heading = "[";
  journal.json_.ending = "\n]\n";
  if (resume) TDP_RETURN_IF_ERROR(journal.Resume(cells));
  TDP_RETURN_IF_ERROR(journal.Begin(journal.csv_));
  TDP_RETURN_IF_ERROR(journal.Begin(journal.json_));
  return journal;
}

absl::Status SweepJournal::Resume(const std::vector<SweepCell>& cells) {
  std::vector<File*> files;
  for (File* file : {&csv_, &json_}) {
    if (!file->path.empty() && file->path != "-") files.push_back(file);
  }
  if (files.empty()) {
    return absl::InvalidArgumentError("--resume goes on with a file: name it with --csv or --json");
  }
  for (File* file : files) {
    TDP_ASSIGN_OR_RETURN(const std::vector<std::string> lines, LinesOf(file->path, file == &csv_));
    if (!lines.empty() && absl::StrCat(lines[0], "\n") != file->heading && file == &csv_) {
      return OtherSweep(file->path);
    }
    for (std::string_view line : lines) {
      uint64_t cell = 0;
      uint64_t count = 0;
      const bool csv = file == &csv_;
      if (!csv && line.ends_with(',')) line.remove_suffix(1);
      if (!(csv ? ReadCsvLine : ReadJsonLine)(line, cell, count)) continue;
      if (count != all_cells_ || cell >= count ||
          !(csv ? IsCsvOf : IsJsonOf)(cells[cell], all_cells_, line)) {
        return OtherSweep(file->path);
      }
      file->lines[cell] = line;
    }
  }
  for (const auto& [cell, line] : files[0]->lines) {
    if (files.back()->lines.contains(cell)) done_.insert(cell);
  }
  return absl::OkStatus();
}

absl::Status SweepJournal::Begin(File& file) {
  // On standard output the heading comes with the first cell: nothing, if that one fails.
  if (file.path.empty() || file.path == "-") return absl::OkStatus();
  TDP_RETURN_IF_ERROR(WriteNow(file.path, "w", file.heading));
  for (const auto& [cell, line] : file.lines) {
    if (done_.contains(cell)) TDP_RETURN_IF_ERROR(Add(file, cell, line));
  }
  return absl::OkStatus();
}

absl::Status SweepJournal::Add(File& file, uint64_t cell, const std::string& line) {
  if (file.path.empty()) return absl::OkStatus();
  file.ordered &= !file.any || cell > file.last;
  file.last = cell;
  // In JSON a comma goes between two objects.
  const bool json = !file.ending.empty();
  if (file.path == "-" && !file.any) TDP_RETURN_IF_ERROR(WriteNow(file.path, "a", file.heading));
  const std::string text =
      json ? absl::StrCat(file.any ? ",\n" : "\n", line) : absl::StrCat(line, "\n");
  file.any = true;
  return WriteNow(file.path, "a", text);
}

void SweepJournal::Expect(std::vector<uint64_t> cells) {
  expected_.assign(cells.rbegin(), cells.rend());
}

absl::Status SweepJournal::AddPending() {
  while (!expected_.empty() && pending_.contains(expected_.back())) {
    const uint64_t cell = expected_.back();
    expected_.pop_back();
    TDP_RETURN_IF_ERROR(Add(csv_.path == "-" ? csv_ : json_, cell, pending_[cell]));
    pending_.erase(cell);
  }
  return absl::OkStatus();
}

absl::Status SweepJournal::Append(const SweepResult& result) {
  const uint64_t cell = result.cell.number;
  TDP_RETURN_IF_ERROR(Append(csv_, cell, SweepCsvLine(result, all_cells_)));
  if (json_.path.empty()) return absl::OkStatus();
  return Append(json_, cell, SweepJsonObject(result, all_cells_));
}

absl::Status SweepJournal::Append(File& file, uint64_t cell, const std::string& line) {
  file.lines[cell] = line;
  if (file.path != "-" || expected_.empty()) return Add(file, cell, line);
  pending_[cell] = line;
  return AddPending();
}

absl::Status SweepJournal::Finish() {
  for (File* const file : {&csv_, &json_}) {
    if (file->path.empty() || file->path == "-" || file->ordered) continue;
    // Several jobs ended in another order than they began.
    for (const auto& [cell, line] : file->lines) done_.insert(cell);
    file->any = false;
    TDP_RETURN_IF_ERROR(Begin(*file));
  }
  if (json_.path.empty()) return absl::OkStatus();
  if (json_.path == "-" && !json_.any) TDP_RETURN_IF_ERROR(WriteNow("-", "a", json_.heading));
  return WriteNow(json_.path, "a", json_.ending);
}

std::string SweepJournal::Csv() const {
  std::string text = csv_.heading;
  for (const auto& [cell, line] : csv_.lines) absl::StrAppend(&text, line, "\n");
  return text;
}

}  // namespace tdp::tools
