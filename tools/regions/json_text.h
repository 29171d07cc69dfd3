// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// JSON that a person wrote: what is wrong with it is said by line and column.

#ifndef TDP_TOOLS_REGIONS_JSON_TEXT_H_
#define TDP_TOOLS_REGIONS_JSON_TEXT_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tdp::tools {

// More objects and lists than this inside each other are refused: what reads them is recursive.
inline constexpr int kMaxJsonDepth = 512;

// Comments are allowed. InvalidArgument, in one line that begins with "LINE:COLUMN: ", for text
// that is no JSON, a field that an object has twice, and lists and objects too deep inside each
// other.
absl::StatusOr<nlohmann::json> ParseJson(std::string_view text);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REGIONS_JSON_TEXT_H_
