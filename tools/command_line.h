// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A command line as text that a shell reads back, for reports that say how they were made.

#ifndef TDP_TOOLS_COMMAND_LINE_H_
#define TDP_TOOLS_COMMAND_LINE_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/types/span.h"
#include "tdp/tools/options.h"

namespace tdp::tools {

// "tdp COMMAND ARGUMENT...", each argument in quotes if a shell would not take it as it stands.
std::string CommandLine(std::string_view command, absl::Span<const std::string_view> arguments);

// "--name=value", or "--name" for a switch, for each option of `set` whose default is another text
// than in `defaults`. Both declare the same options, `set` with the values in question as their
// defaults.
std::vector<std::string> ChangedOptions(const OptionParser& set, const OptionParser& defaults);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_COMMAND_LINE_H_
