// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/trace/line_cursor.h"

#include <algorithm>
#include <charconv>
#include <system_error>

namespace tdp::tools {
namespace {

constexpr std::string_view kBlanks = " \t";

}  // namespace

void LineCursor::SkipBlanks() {
  rest_.remove_prefix(std::min(rest_.find_first_not_of(kBlanks), rest_.size()));
}

bool LineCursor::Take(std::string_view word) {
  if (!rest_.starts_with(word)) return false;
  rest_.remove_prefix(word.size());
  return true;
}

std::string_view LineCursor::Word() {
  SkipBlanks();
  const std::string_view word = rest_.substr(0, rest_.find_first_of(kBlanks));
  rest_.remove_prefix(word.size());
  SkipBlanks();
  return word;
}

bool ParseWholeNumber(std::string_view text, int base, uint64_t& number) {
  if (base == 16 && (text.starts_with("0x") || text.starts_with("0X"))) text.remove_prefix(2);
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number, base);
  if (error == std::errc::result_out_of_range) number = ~uint64_t{0} >> 1;
  return (error == std::errc() || error == std::errc::result_out_of_range) && rest == end;
}

}  // namespace tdp::tools
