// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/dynamorio_trace.h"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <optional>
#include <system_error>

#include "tdp/tools/trace/text_trace.h"

namespace tdp::tools {
namespace {

std::string_view SkipBlanks(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of(' '), text.size()));
  return text;
}

// Takes a number of `base` off the front of `text`.
std::optional<uint64_t> TakeNumber(std::string_view& text, int base) {
  text = SkipBlanks(text);
  uint64_t number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number, base);
  if (error != std::errc()) return std::nullopt;
  text.remove_prefix(static_cast<size_t>(rest - text.data()));
  return number;
}

bool TakeWord(std::string_view& text, std::string_view word) {
  const std::string_view rest = SkipBlanks(text);
  if (!rest.starts_with(word)) return false;
  text = rest.substr(word.size());
  return true;
}

std::optional<AccessKind> TakeKind(std::string_view& text) {
  if (TakeWord(text, "ifetch ")) return AccessKind::kFetch;
  if (TakeWord(text, "read ")) return AccessKind::kLoad;
  if (TakeWord(text, "write ")) return AccessKind::kStore;
  return std::nullopt;
}

// Takes the thread's column: its number, "T123" with the workload's "W0." before it in newer texts.
bool TakeThread(std::string_view& text) {
  std::string_view rest = SkipBlanks(text);
  if (rest.starts_with('W')) {
    rest.remove_prefix(1);
    if (!TakeNumber(rest, 10) || !rest.starts_with('.')) return false;
    rest.remove_prefix(1);
  }
  if (rest.starts_with('T')) rest.remove_prefix(1);
  if (!TakeNumber(rest, 10)) return false;
  text = rest;
  return true;
}

// Returns what follows "RECORD INSTRUCTION: THREAD"; nothing if `line` has no such beginning. The
// oldest texts have no column of instructions.
std::optional<std::string_view> RecordDetails(std::string_view line) {
  if (!TakeNumber(line, 10)) return std::nullopt;
  TakeNumber(line, 10);
  if (!TakeWord(line, ":") || !TakeThread(line)) return std::nullopt;
  return SkipBlanks(line);
}

// Markers; and the rest of a long instruction's bytes, which gets a line of its own.
bool IsSilent(std::string_view details) {
  return details.empty() || details.front() == '<' ||
         details.find_first_not_of("0123456789abcdef ") == std::string_view::npos;
}

// Heading, rulers and summary.
bool IsProse(std::string_view line) {
  if (line.empty()) return true;
  for (std::string_view known :
       {kDynamorioHeading, std::string_view("<--record#->"), std::string_view("----"),
        std::string_view("===="), std::string_view("View tool results:"),
        std::string_view("Trace invariant checks passed")}) {
    if (line.starts_with(known)) return true;
  }
  return TakeNumber(line, 10).has_value() && TakeWord(line, ": total ");
}

}  // namespace

LineResult ParseDynamorioLine(std::string_view line, std::vector<TraceRecord>& records) {
  const std::optional<std::string_view> details = RecordDetails(line);
  if (!details.has_value()) return IsProse(line) ? LineResult::kTaken : LineResult::kForeign;
  if (IsSilent(*details)) return LineResult::kTaken;
  std::string_view rest = *details;
  const std::optional<AccessKind> kind = TakeKind(rest);
  if (!kind.has_value()) rest.remove_prefix(std::min(rest.find(' '), rest.size()));
  const std::optional<uint64_t> size = TakeNumber(rest, 10);
  if (!size.has_value() || !TakeWord(rest, "byte(s) @ 0x")) return LineResult::kForeign;
  const std::optional<uint64_t> address = TakeNumber(rest, 16);
  if (!address.has_value()) return LineResult::kForeign;
  // Prefetches, flushes, and instructions that were not fetched again.
  if (!kind.has_value()) return LineResult::kNoAccess;
  return AppendAccess(*kind, *address, *size, records);
}

}  // namespace tdp::tools
