// SPDX-License-Identifier: Apache-2.0

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

bool ParseLackeyLine(std::string_view line, std::vector<TraceRecord>& records) {
  if (line.empty() || line.starts_with("==") || line.starts_with("--")) return true;
  const std::optional<AccessKind> kind = KindOf(line.substr(0, 3));
  if (!kind.has_value()) return false;
  const char* const begin = line.data() + 3;
  const char* const end = line.data() + line.size();
  uint64_t address = 0;
  const auto [comma, address_error] = std::from_chars(begin, end, address, 16);
  if (address_error != std::errc() || comma == end || *comma != ',') return false;
  uint64_t size = 0;
  const auto [rest, size_error] = std::from_chars(comma + 1, end, size, 10);
  if (size_error != std::errc() || rest != end) return false;
  return AppendAccess(*kind, address, size, records);
}

}  // namespace tdp::tools
