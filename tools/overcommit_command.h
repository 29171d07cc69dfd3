// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp overcommit`.

#ifndef TDP_TOOLS_OVERCOMMIT_COMMAND_H_
#define TDP_TOOLS_OVERCOMMIT_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

// Runs a guest whose host swaps. See `Command::run`.
absl::StatusOr<int> RunOvercommit(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_OVERCOMMIT_COMMAND_H_
