// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says in words what a reader has left out.

#ifndef TDP_TOOLS_TRACE_SKIP_TEXT_H_
#define TDP_TOOLS_TRACE_SKIP_TEXT_H_

#include <string>

#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {

// "3 foreign lines, 1 kernel address"; empty for nothing.
std::string SkipText(const SkipCounts& skipped);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_SKIP_TEXT_H_
