// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/lackey_trace.h"

#include <charconv>
#include <cstdint>
#include <optional>
#include <system_error>

#include "tdp/tools/trace/text_trace.h"

namespace tdp::tools {
namespace {

// The three characters before the address.
std::optional<AccessKind> KindOf(std::string_view prefix) {
  if (prefix == "I  ") return AccessKind::kFetch;
  if (prefix == " L ") return AccessKind::kLoad;
  if (prefix == " S ") return AccessKind::kStore;
  if (prefix == " M ") return AccessKind::kModify;
  return std::nullopt;
}

}  // namespace

LineResult ParseLackeyLine(std::string_view line, std::vector<TraceRecord>& records) {
  if (line.empty() || line.starts_with("==") || line.starts_with("--")) return LineResult::kTaken;
  const std::optional<AccessKind> kind = KindOf(line.substr(0, 3));
  if (!kind.has_value()) return LineResult::kForeign;
  const char* const begin = line.data() + 3;
  const char* const end = line.data() + line.size();
  uint64_t address = 0;
  const auto [comma, address_error] = std::from_chars(begin, end, address, 16);
  // Digits that are too many for 64 bits are an address all the same, and no canonical one.
  const bool too_long = address_error == std::errc::result_out_of_range;
  if ((address_error != std::errc() && !too_long) || comma == end || *comma != ',') {
    return LineResult::kForeign;
  }
  uint64_t size = 0;
  const auto [rest, size_error] = std::from_chars(comma + 1, end, size, 10);
  if (size_error != std::errc() || rest != end) return LineResult::kForeign;
  if (too_long) return LineResult::kBadAddress;
  return AppendAccess(*kind, address, size, records);
}

}  // namespace tdp::tools
