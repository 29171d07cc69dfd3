// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp map`: what page tables in an image of memory map, or where two images differ.

#ifndef TDP_TOOLS_MAP_COMMAND_H_
#define TDP_TOOLS_MAP_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

absl::StatusOr<int> RunMap(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_MAP_COMMAND_H_
