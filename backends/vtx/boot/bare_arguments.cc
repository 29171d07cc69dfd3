// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/boot/bare_arguments.h"

#include <charconv>
#include <cstdint>
#include <optional>
#include <string_view>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace tdp::vtx {
namespace {

// Reads `text` as a number; nothing if not all of it is one.
std::optional<uint64_t> Parse(std::string_view text, int base) {
  const char* const end = text.data() + text.size();
  uint64_t number = 0;
  const std::from_chars_result result = std::from_chars(text.data(), end, number, base);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return number;
}

}  // namespace

std::string_view Arguments::Find(std::string_view name, std::string_view otherwise) const {
  const char* next = words_;
  for (int i = 0; i < count_; ++i) {
    const std::string_view word = next;
    next += word.size() + 1;
    const bool is_it = i != 0 && word.size() > name.size() && word.substr(0, name.size()) == name &&
                       word[name.size()] == '=';
    if (is_it) return word.substr(name.size() + 1);
  }
  return otherwise;
}

absl::StatusOr<uint64_t> Arguments::FindNumber(std::string_view name, uint64_t otherwise) const {
  const std::string_view text = Find(name, {});
  if (text.data() == nullptr) return otherwise;
  if (const std::optional<uint64_t> number = Parse(text, 10)) return *number;
  return absl::InvalidArgumentError(absl::StrCat(name, ": '", text, "' is no number"));
}

absl::StatusOr<absl::Span<const uint8_t>> Arguments::FindFile(std::string_view name) const {
  constexpr std::string_view kPrefix = "0x";
  const std::string_view value = Find(name, {});
  const size_t comma = value.find(',');
  if (comma != std::string_view::npos && value.substr(0, kPrefix.size()) == kPrefix) {
    const auto address = Parse(value.substr(kPrefix.size(), comma - kPrefix.size()), 16);
    const auto bytes = Parse(value.substr(comma + 1), 10);
    if (address && bytes) {
      return absl::MakeConstSpan(reinterpret_cast<const uint8_t*>(*address), *bytes);
    }
  }
  return absl::NotFoundError(absl::StrCat(name, ": the runner gave no such file (--file)"));
}

}  // namespace tdp::vtx
