// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The text that `perf script -F event,addr` writes of what `perf mem record --all-user` sampled: a
// line for each sample, "EVENT: ADDRESS", where EVENT has "loads" or "stores" in its name
// (cpu/mem-loads,ldlat=30/P) and ADDRESS is hexadecimal.

#ifndef TDP_TOOLS_TRACE_PERF_TRACE_H_
#define TDP_TOOLS_TRACE_PERF_TRACE_H_

#include <string_view>
#include <vector>

#include "tdp/tools/trace/text_trace.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// A `LineParser`. perf does not say how much was accessed: each sample counts one byte. Samples
// without an address (0) are no accesses.
LineResult ParsePerfLine(std::string_view line, std::vector<TraceRecord>& records);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_PERF_TRACE_H_
