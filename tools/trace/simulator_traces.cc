// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/simulator_traces.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "tdp/tools/trace/line_cursor.h"

namespace tdp::tools {
namespace {

constexpr uint64_t kLineBytes = 64;

// Appends the first access, and the second if there is one, or neither.
LineResult AppendBoth(AccessKind kind, uint64_t address, uint64_t size, AccessKind kind2,
                      uint64_t address2, uint64_t size2, std::vector<TraceRecord>& records) {
  const size_t before = records.size();
  LineResult result = AppendAccess(kind, address, size, records);
  if (result == LineResult::kTaken) result = AppendAccess(kind2, address2, size2, records);
  if (result != LineResult::kTaken) records.resize(before);
  return result;
}

std::optional<AccessKind> ReadOrWrite(std::string_view word) {
  if (word == "R") return AccessKind::kLoad;
  if (word == "W") return AccessKind::kStore;
  return std::nullopt;
}

std::optional<AccessKind> DineroKind(char label) {
  switch (label) {
    case '0':
    case 'r':
      return AccessKind::kLoad;
    case '1':
    case 'w':
      return AccessKind::kStore;
    case '2':
    case 'i':
      return AccessKind::kFetch;
    default:
      return std::nullopt;
  }
}

// After ", load, " or ", store, ": the address, and the rest of the line behind it.
LineResult AppendExeclogAccess(AccessKind kind, std::string_view text,
                               std::vector<TraceRecord>& records) {
  uint64_t address = 0;
  if (!text.starts_with("0x") || !ParseWholeNumber(text.substr(0, text.find(',')), 16, address)) {
    return LineResult::kForeign;
  }
  return AppendAccess(kind, address, 1, records);
}

}  // namespace

LineResult ParsePinatraceLine(std::string_view line, std::vector<TraceRecord>& records) {
  if (line.empty() || line.front() == '#') return LineResult::kTaken;
  LineCursor cursor(line);
  std::string_view place = cursor.Word();
  if (!place.starts_with("0x") || !place.ends_with(':')) return LineResult::kForeign;
  place.remove_suffix(1);
  const std::optional<AccessKind> kind = ReadOrWrite(cursor.Word());
  uint64_t instruction = 0;
  uint64_t address = 0;
  uint64_t size = 1;
  if (!kind.has_value() || !ParseWholeNumber(place, 16, instruction) ||
      !ParseWholeNumber(cursor.Word(), 16, address)) {
    return LineResult::kForeign;
  }
  if (!cursor.at_end() && !ParseWholeNumber(cursor.Word(), 10, size)) return LineResult::kForeign;
  return AppendBoth(AccessKind::kFetch, instruction, 1, *kind, address, size, records);
}

LineResult ParseDineroLine(std::string_view line, std::vector<TraceRecord>& records) {
  LineCursor cursor(line);
  cursor.SkipBlanks();
  if (cursor.at_end()) return LineResult::kTaken;
  const std::string_view label = cursor.Word();
  uint64_t address = 0;
  uint64_t size = 4;
  if (label.size() != 1 || !ParseWholeNumber(cursor.Word(), 16, address)) {
    return LineResult::kForeign;
  }
  if (label == "3" || label == "4") return LineResult::kNoAccess;
  const std::optional<AccessKind> kind = DineroKind(label.front());
  if (!kind.has_value()) return LineResult::kForeign;
  if (!cursor.at_end() && !ParseWholeNumber(cursor.Word(), 16, size)) return LineResult::kForeign;
  if (!cursor.at_end()) return LineResult::kForeign;
  return AppendAccess(*kind, address, size, records);
}

LineResult ParseRamulatorLine(std::string_view line, std::vector<TraceRecord>& records) {
  LineCursor cursor(line);
  cursor.SkipBlanks();
  if (cursor.at_end()) return LineResult::kTaken;
  const std::string_view first = cursor.Word();
  const std::string_view second = cursor.Word();
  uint64_t address = 0;
  if (first.starts_with("0x")) {
    const std::optional<AccessKind> kind = ReadOrWrite(second);
    if (!kind.has_value() || !ParseWholeNumber(first, 16, address) || !cursor.at_end()) {
      return LineResult::kForeign;
    }
    return AppendAccess(*kind, address / kLineBytes * kLineBytes, kLineBytes, records);
  }
  uint64_t instructions = 0;
  if (!ParseWholeNumber(first, 10, instructions) || !ParseWholeNumber(second, 10, address)) {
    return LineResult::kForeign;
  }
  address = address / kLineBytes * kLineBytes;
  if (cursor.at_end()) return AppendAccess(AccessKind::kLoad, address, kLineBytes, records);
  uint64_t written = 0;
  if (!ParseWholeNumber(cursor.Word(), 10, written) || !cursor.at_end()) {
    return LineResult::kForeign;
  }
  written = written / kLineBytes * kLineBytes;
  return AppendBoth(AccessKind::kLoad, address, kLineBytes, AccessKind::kStore, written, kLineBytes,
                    records);
}

LineResult ParseExeclogLine(std::string_view line, std::vector<TraceRecord>& records) {
  if (line.empty()) return LineResult::kTaken;
  const size_t comma = line.find(", 0x");
  uint64_t cpu = 0;
  if (comma == std::string_view::npos || !ParseWholeNumber(line.substr(0, comma), 10, cpu)) {
    return LineResult::kForeign;
  }
  std::string_view rest = line.substr(comma + 2);
  uint64_t instruction = 0;
  if (!ParseWholeNumber(rest.substr(0, rest.find(',')), 16, instruction)) {
    return LineResult::kForeign;
  }
  // The instruction's text is in quotes and may have commas.
  const size_t open = rest.find(", \"");
  const size_t close = rest.rfind('"');
  if (open == std::string_view::npos || close <= open + 2) return LineResult::kForeign;
  rest.remove_prefix(close + 1);
  const size_t before = records.size();
  LineResult result = AppendAccess(AccessKind::kFetch, instruction, 1, records);
  constexpr std::string_view kLoad = ", load, ";
  constexpr std::string_view kStore = ", store, ";
  while (result == LineResult::kTaken) {
    const size_t load = rest.find(kLoad);
    const size_t store = rest.find(kStore);
    const size_t next = std::min(load, store);
    if (next == std::string_view::npos) return result;
    const bool is_load = next == load;
    rest.remove_prefix(next + (is_load ? kLoad : kStore).size());
    result = AppendExeclogAccess(is_load ? AccessKind::kLoad : AccessKind::kStore, rest, records);
  }
  records.resize(before);
  return result;
}

}  // namespace tdp::tools
