// SPDX-License-Identifier: Apache-2.0
//
// The option that says how an input trace is written.

#ifndef TDP_TOOLS_TRACE_OPTIONS_H_
#define TDP_TOOLS_TRACE_OPTIONS_H_

#include "tdp/tools/options.h"
#include "tdp/tools/trace/open_trace.h"

namespace tdp::tools {

// Declares --format.
inline void AddFormatOption(OptionParser& parser, TraceFormat* format) {
  parser.AddChoice("format", "how the trace is written", format,
                   {{"auto", TraceFormat::kAuto},
                    {"binary", TraceFormat::kBinary},
                    {"lackey", TraceFormat::kLackey},
                    {"dynamorio", TraceFormat::kDynamorio},
                    {"champsim", TraceFormat::kChampsim},
                    {"perf", TraceFormat::kPerf}});
}

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_OPTIONS_H_
