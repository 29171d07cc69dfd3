// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp compare`.

#ifndef TDP_TOOLS_COMPARE_COMMAND_H_
#define TDP_TOOLS_COMPARE_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

// Native, EPT and shadow, with good and bad locality. See `Command::run`.
absl::StatusOr<int> RunCompare(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_COMPARE_COMMAND_H_
