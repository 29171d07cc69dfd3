// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The text that `valgrind --tool=lackey --trace-mem=yes` writes: "I  ADDRESS,SIZE" for a fetch,
// " L", " S" and " M" for a load, a store and a modify; the address is hexadecimal, the size
// decimal. Valgrind's own "==PID==" lines stand between them.

#ifndef TDP_TOOLS_TRACE_LACKEY_TRACE_H_
#define TDP_TOOLS_TRACE_LACKEY_TRACE_H_

#include <string_view>
#include <vector>

#include "tdp/tools/trace/text_trace.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// A `LineParser`.
LineResult ParseLackeyLine(std::string_view line, std::vector<TraceRecord>& records);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_LACKEY_TRACE_H_
