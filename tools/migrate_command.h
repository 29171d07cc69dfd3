// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#ifndef TDP_TOOLS_MIGRATE_COMMAND_H_
#define TDP_TOOLS_MIGRATE_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

// `tdp migrate`: see `Command::run`.
absl::StatusOr<int> RunMigrate(absl::Span<const std::string_view> arguments);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_MIGRATE_COMMAND_H_
