// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_journal.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/output_file.h"
#include "tdp/tools/sweep/sweep_identity.h"
#include "tdp/tools/trace/byte_source.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;

absl::Status WriteError(const std::string& path) {
  const std::string error = std::strerror(errno);
  return absl::UnavailableError(
      absl::StrCat("cannot write ", path == "-" ? "standard output" : path, ": ", error));
}

absl::Status WriteTo(std::FILE* file, const std::string& path, std::string_view text) {
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  return written && std::fflush(file) == 0 ? absl::OkStatus() : WriteError(path);
}

// Opens, writes and closes: whatever happens afterwards, the text has reached the system.
absl::Status AppendNow(const std::string& path, std::string_view text) {
  std::FILE* const file = std::fopen(path.c_str(), "a");
  if (file == nullptr) return WriteError(path);
  const absl::Status written = WriteTo(file, path, text);
  if (std::fclose(file) != 0 && written.ok()) return WriteError(path);
  return written;
}

// All that there is becomes `text`, or stays.
absl::Status WriteWhole(const std::string& path, std::string_view text) {
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<OutputFile> file, OutputFile::Create(path));
  TDP_RETURN_IF_ERROR(file->Write(text));
  return file->Commit();
}

// `difference` says in what the sweeps differ, if that is known.
absl::Status OtherSweep(const std::string& path, std::string_view difference = "") {
  return absl::InvalidArgumentError(absl::StrCat(path,
                                                 ": --resume: it holds another sweep than this one",
                                                 difference.empty() ? "" : ": ", difference));
}

// Returns whether `line` is the beginning of an object for a cell, and no whole one.
bool IsCutShort(std::string_view line) {
  constexpr std::string_view kBegin = "{\"cell\":";
  return (line.starts_with(kBegin) || kBegin.starts_with(line)) && !Json::accept(line);
}

// Returns what `cell` would be like before it has run: the same inputs in every column.
SweepResult Unrun(const SweepCell& cell) {
  SweepResult result{cell, ReplayReport()};
  result.report.options = cell.options;
  result.report.trace = cell.trace;
  result.report.command = cell.command;
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
  for (const char* key : {"trace", "command", "options"}) {
    if (before.value(key, Json()) != unrun[key]) return false;
  }
  return true;
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
  for (File* const file : {&journal.csv_, &journal.json_}) {
    TDP_RETURN_IF_ERROR(journal.Open(*file));
  }
  if (resume) TDP_RETURN_IF_ERROR(journal.Resume(cells));
  return journal;
}

absl::Status SweepJournal::Open(File& file) const {
  if (file.path == "-") file.stream.reset(stdout);
  if (file.path.empty() || file.path == "-") return absl::OkStatus();
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(file.path, error);
  if (!std::filesystem::exists(status) || std::filesystem::is_regular_file(status)) {
    // A file that cannot be written is told of before hours are spent.
    return OutputFile::Create(file.path).status();
  }
  file.stream.reset(std::fopen(file.path.c_str(), "w"));
  return file.stream == nullptr ? WriteError(file.path) : absl::OkStatus();
}

absl::Status SweepJournal::Resume(const std::vector<SweepCell>& cells) {
  std::vector<File*> files;
  for (File* file : {&csv_, &json_}) {
    if (!file->path.empty() && file->stream == nullptr) files.push_back(file);
  }
  if (files.empty()) {
    return absl::InvalidArgumentError("--resume goes on with a file: name it with --csv or --json");
  }
  for (File* file : files) TDP_RETURN_IF_ERROR(ResumeFile(*file, cells));
  for (const auto& [cell, line] : files[0]->lines) {
    if (files.back()->lines.contains(cell)) done_.insert(cell);
  }
  return absl::OkStatus();
}

// A sweep that was interrupted leaves the beginning of what it would have written, so that what
// else is there belongs to somebody.
absl::Status SweepJournal::ResumeFile(File& file, const std::vector<SweepCell>& cells) const {
  const absl::StatusOr<std::unique_ptr<ByteSource>> source = OpenByteSource(file.path);
  if (absl::IsNotFound(source.status())) return absl::OkStatus();
  TDP_RETURN_IF_ERROR(source.status());
  TDP_ASSIGN_OR_RETURN(const std::string text, ReadAll(**source));
  if (!text.starts_with(file.heading)) {
    return file.heading.starts_with(text) ? absl::OkStatus() : OtherSweep(file.path);
  }
  const bool csv = &file == &csv_;
  const std::vector<std::string_view> lines = absl::StrSplit(text, '\n');
  if (lines[0] != absl::StripSuffix(file.heading, "\n")) return OtherSweep(file.path);
  for (size_t i = 1; i < lines.size(); ++i) {
    std::string_view line = lines[i];
    const bool is_last = i + 1 == lines.size();
    // The last line of CSV may be cut short in its last field. JSON begins a line with the comma
    // after the one before.
    if (is_last && csv) break;
    if (!csv && line.ends_with(',')) line.remove_suffix(1);
    if (line.empty() || (!csv && line == "]")) continue;
    if (is_last && IsCutShort(line)) continue;
    TDP_RETURN_IF_ERROR(ResumeLine(file, cells, line, i + 1));
  }
  return absl::OkStatus();
}

absl::Status SweepJournal::ResumeLine(File& file, const std::vector<SweepCell>& cells,
                                      std::string_view line, size_t number) const {
  const bool csv = &file == &csv_;
  const std::optional<CellKey> key =
      csv ? CsvCellKey(line) : JsonCellKey(Json::parse(line, nullptr, /*allow_exceptions=*/false));
  if (!key.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.path, ":", number, ": --resume: not a cell of a sweep"));
  }
  if (key->cells != all_cells_ || key->cell >= key->cells) return OtherSweep(file.path);
  const SweepCell& cell = cells[key->cell];
  if (const std::string difference = SweepDifference(key->sweep, cell.sweep); !difference.empty()) {
    return OtherSweep(file.path, difference);
  }
  if (!(csv ? IsCsvOf : IsJsonOf)(cell, all_cells_, line)) return OtherSweep(file.path);
  file.lines[key->cell] = line;
  return absl::OkStatus();
}

// Writes the heading and the cells from before. On a stream the heading comes with the first cell
// too: nothing, if that one fails.
absl::Status SweepJournal::Begin(File& file) {
  file.begun = true;
  if (file.stream != nullptr) return WriteTo(file.stream.get(), file.path, file.heading);
  std::string text = file.heading;
  file.any = false;
  file.ordered = true;
  for (const auto& [cell, line] : file.lines) {
    if (!done_.contains(cell)) continue;
    absl::StrAppend(&text, TextOf(file, line));
    file.any = true;
    file.last = cell;
  }
  return WriteWhole(file.path, text);
}

// In JSON a comma goes between two objects.
std::string SweepJournal::TextOf(const File& file, std::string_view line) {
  if (file.ending.empty()) return absl::StrCat(line, "\n");
  return absl::StrCat(file.any ? ",\n" : "\n", line);
}

absl::Status SweepJournal::Add(File& file, uint64_t cell) {
  if (!file.begun) TDP_RETURN_IF_ERROR(Begin(file));
  file.ordered &= !file.any || cell > file.last;
  const std::string text = TextOf(file, file.lines[cell]);
  file.any = true;
  file.last = cell;
  return file.stream != nullptr ? WriteTo(file.stream.get(), file.path, text)
                                : AppendNow(file.path, text);
}

void SweepJournal::Expect(std::vector<uint64_t> cells) { expected_ = std::move(cells); }

absl::Status SweepJournal::Append(const SweepResult& result) {
  const uint64_t cell = result.cell.number;
  TDP_RETURN_IF_ERROR(Append(csv_, cell, SweepCsvLine(result, all_cells_)));
  if (json_.path.empty()) return absl::OkStatus();
  return Append(json_, cell, SweepJsonObject(result, all_cells_));
}

absl::Status SweepJournal::Append(File& file, uint64_t cell, std::string line) {
  file.lines[cell] = std::move(line);
  if (file.path.empty()) return absl::OkStatus();
  if (file.stream == nullptr) return Add(file, cell);
  while (file.next < expected_.size() && file.lines.contains(expected_[file.next])) {
    TDP_RETURN_IF_ERROR(Add(file, expected_[file.next++]));
  }
  return absl::OkStatus();
}

absl::Status SweepJournal::End(File& file) {
  if (file.path.empty()) return absl::OkStatus();
  if (file.stream == nullptr && !file.ordered) {
    // Several jobs ended in another order than they began.
    for (const auto& [cell, line] : file.lines) done_.insert(cell);
    file.begun = false;
  }
  const bool silent = file.stream != nullptr && file.ending.empty();
  if (!file.begun && !silent) TDP_RETURN_IF_ERROR(Begin(file));
  return file.stream != nullptr ? WriteTo(file.stream.get(), file.path, file.ending)
                                : AppendNow(file.path, file.ending);
}

absl::Status SweepJournal::Finish() {
  TDP_RETURN_IF_ERROR(End(csv_));
  return End(json_);
}

std::string SweepJournal::Csv() const {
  std::string text = csv_.heading;
  for (const auto& [cell, line] : csv_.lines) absl::StrAppend(&text, line, "\n");
  return text;
}

}  // namespace tdp::tools
