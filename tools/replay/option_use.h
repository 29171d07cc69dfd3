// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Options that mean nothing beside the others: they are said, not echoed as if they had been used.

#ifndef TDP_TOOLS_REPLAY_OPTION_USE_H_
#define TDP_TOOLS_REPLAY_OPTION_USE_H_

#include <string>
#include <vector>

#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

struct UnusedOption {
  std::string name;    // without dashes
  std::string why;     // what there is in its place: "--paging native has no EPT"
  bool given = false;  // its value is not the default
};

// Returns the options whose value changes nothing that `options` do, in the order of their
// declaration.
std::vector<UnusedOption> UnusedOptions(const ReplayOptions& options);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_OPTION_USE_H_
