// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The text that DynamoRIO's `drrun -t drmemtrace -tool view` writes of a drmemtrace trace: record
// and instruction numbers, a colon, the thread, then "ifetch", "read" or "write", a size and an
// address. Markers, its heading and its summary stand between and around the records.

#ifndef TDP_TOOLS_TRACE_DYNAMORIO_TRACE_H_
#define TDP_TOOLS_TRACE_DYNAMORIO_TRACE_H_

#include <string_view>
#include <vector>

#include "tdp/tools/trace/text_trace.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Every such text begins so.
inline constexpr std::string_view kDynamorioHeading = "Output format:";

// A `LineParser`. All threads go into one stream, as they stand. Prefetches, cache flushes and
// instructions that were executed without a new fetch are no accesses.
LineResult ParseDynamorioLine(std::string_view line, std::vector<TraceRecord>& records);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_DYNAMORIO_TRACE_H_
