// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/perf_trace.h"

#include <charconv>
#include <cstdint>
#include <optional>
#include <system_error>

#include "tdp/tools/trace/text_trace.h"

namespace tdp::tools {
namespace {

std::optional<AccessKind> KindOf(std::string_view event) {
  if (event.find("loads") != std::string_view::npos) return AccessKind::kLoad;
  if (event.find("stores") != std::string_view::npos) return AccessKind::kStore;
  return std::nullopt;
}

}  // namespace

LineResult ParsePerfLine(std::string_view line, std::vector<TraceRecord>& records) {
  if (line.empty() || line.front() == '#') return LineResult::kTaken;
  // An event's name may have colons of its own: the last one ends it.
  const size_t colon = line.rfind(": ");
  if (colon == std::string_view::npos) return LineResult::kForeign;
  const std::optional<AccessKind> kind = KindOf(line.substr(0, colon));
  const size_t digits = line.find_first_not_of(' ', colon + 1);
  if (!kind.has_value() || digits == std::string_view::npos) return LineResult::kForeign;
  const char* const end = line.data() + line.size();
  uint64_t address = 0;
  const auto [rest, error] = std::from_chars(line.data() + digits, end, address, 16);
  if (error != std::errc() || rest != end) return LineResult::kForeign;
  return address == 0 ? LineResult::kNoAccess : AppendAccess(*kind, address, 1, records);
}

}  // namespace tdp::tools
