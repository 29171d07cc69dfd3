// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp hugepages`.

#ifndef TDP_TOOLS_HUGEPAGES_COMMAND_H_
#define TDP_TOOLS_HUGEPAGES_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

// Policies of large pages, interval by interval. See `Command::run`.
absl::StatusOr<int> RunHugepages(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_HUGEPAGES_COMMAND_H_
