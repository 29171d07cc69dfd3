// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp wss`.

#ifndef TDP_TOOLS_WSS_COMMAND_H_
#define TDP_TOOLS_WSS_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

// Shows the working set by A bits beside the true one. See `Command::run`.
absl::StatusOr<int> RunWss(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_WSS_COMMAND_H_
