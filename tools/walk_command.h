// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp walk`: walks page tables in an image of memory, and shows each reference.

#ifndef TDP_TOOLS_WALK_COMMAND_H_
#define TDP_TOOLS_WALK_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

absl::StatusOr<int> RunWalk(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_WALK_COMMAND_H_
