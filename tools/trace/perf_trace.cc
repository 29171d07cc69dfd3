// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/perf_trace.h"

#include <cstdint>
#include <optional>

#include "tdp/tools/trace/line_cursor.h"
#include "tdp/tools/trace/text_trace.h"

namespace tdp::tools {
namespace {

bool Has(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

// Returns what the sample's data source says, which AMD's IBS has too, or else what the event
// counts.
std::optional<AccessKind> KindOf(std::string_view event, std::string_view behind) {
  const bool load = Has(behind, "OP LOAD");
  const bool store = Has(behind, "OP STORE");
  if (load != store) return load ? AccessKind::kLoad : AccessKind::kStore;
  if (Has(event, "loads")) return AccessKind::kLoad;
  if (Has(event, "stores")) return AccessKind::kStore;
  return std::nullopt;
}

// "12345.678901:".
bool IsTime(std::string_view word) {
  return word.find_first_not_of("0123456789.:[]") == std::string_view::npos;
}

}  // namespace

// "event: address", or that somewhere in a default layout: the program's name, numbers and the time
// before it, the data source and where the instruction is behind it.
LineResult ParsePerfLine(std::string_view line, std::vector<TraceRecord>& records) {
  if (line.empty() || line.front() == '#') return LineResult::kTaken;
  LineCursor cursor(line);
  cursor.SkipBlanks();
  while (!cursor.at_end()) {
    const std::string_view word = cursor.Word();
    if (!word.ends_with(':') || IsTime(word)) continue;
    const std::string_view digits = cursor.rest().substr(0, cursor.rest().find(' '));
    uint64_t address = 0;
    if (!ParseWholeNumber(digits, 16, address)) continue;
    const std::optional<AccessKind> kind = KindOf(word, cursor.rest());
    const bool sourced = Has(cursor.rest(), "|OP ");
    if (kind.has_value()) {
      return address == 0 ? LineResult::kNoAccess : AppendAccess(*kind, address, 1, records);
    }
    // A sample of an instruction that accesses nothing.
    if (sourced || word.starts_with("ibs_")) return LineResult::kNoAccess;
  }
  return LineResult::kForeign;
}

}  // namespace tdp::tools
