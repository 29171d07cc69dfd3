// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/number_text.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {

absl::StatusOr<uint64_t> ParseWord(std::string_view text) {
  uint64_t value = 0;
  const bool hexadecimal = text.starts_with("0x") || text.starts_with("0X");
  const std::string_view digits = hexadecimal ? text.substr(2) : text;
  const char* const legal = hexadecimal ? "0123456789abcdefABCDEF" : "0123456789";
  const bool is_number =
      !digits.empty() && digits.find_first_not_of(legal) == std::string_view::npos;
  if (!is_number ||
      !(hexadecimal ? absl::SimpleHexAtoi(digits, &value) : absl::SimpleAtoi(digits, &value))) {
    return absl::InvalidArgumentError(
        "must be a number of up to 64 bits, hexadecimal with 0x in front or decimal");
  }
  return value;
}

void AddWord(OptionParser& parser, std::string name, std::string help,
             std::optional<uint64_t>* value) {
  parser.Add(std::move(name), "WORD", std::move(help), "",
             [value](std::string_view text) -> absl::Status {
               TDP_ASSIGN_OR_RETURN(*value, ParseWord(text));
               return absl::OkStatus();
             });
}

}  // namespace tdp::tools
