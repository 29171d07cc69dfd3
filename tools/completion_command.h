// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp completion`: completion of commands, options and their values, for a shell.

#ifndef TDP_TOOLS_COMPLETION_COMMAND_H_
#define TDP_TOOLS_COMPLETION_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

absl::StatusOr<int> RunCompletion(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_COMPLETION_COMMAND_H_
