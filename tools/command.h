// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A subcommand of `tdp`.

#ifndef TDP_TOOLS_COMMAND_H_
#define TDP_TOOLS_COMMAND_H_

#include <string_view>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

// Exit statuses.
inline constexpr int kExitOk = 0;
inline constexpr int kExitMismatch = 1;  // the run ended and found an answer that is wrong
inline constexpr int kExitUsage = 2;     // bad input: options, files, traces

struct Command {
  const char* name;
  const char* summary;  // one line
  // Runs with the arguments after the name and returns the exit status. Prints its report on
  // standard output only when it has all of it. An error is printed by `tdp`, in one line, with
  // status 2.
  absl::StatusOr<int> (*run)(absl::Span<const std::string_view> arguments);
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_COMMAND_H_
