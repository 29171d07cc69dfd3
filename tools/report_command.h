// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `tdp report`: runs and sweeps as one page of HTML.

#ifndef TDP_TOOLS_REPORT_COMMAND_H_
#define TDP_TOOLS_REPORT_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

absl::StatusOr<int> RunReport(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPORT_COMMAND_H_
