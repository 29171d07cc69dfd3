// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Words of 64 bits on the command line: hexadecimal with 0x, or decimal.

#ifndef TDP_TOOLS_NUMBER_TEXT_H_
#define TDP_TOOLS_NUMBER_TEXT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "tdp/tools/options.h"

namespace tdp::tools {

// InvalidArgument, which says what is wanted, for other text and for more than 64 bits.
absl::StatusOr<uint64_t> ParseWord(std::string_view text);

// Declares an option whose value is such a word; without it the variable stays as it is.
void AddWord(OptionParser& parser, std::string name, std::string help,
             std::optional<uint64_t>* value);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_NUMBER_TEXT_H_
