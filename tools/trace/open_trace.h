// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Opening a trace of any format.

#ifndef TDP_TOOLS_TRACE_OPEN_TRACE_H_
#define TDP_TOOLS_TRACE_OPEN_TRACE_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {

enum class TraceFormat {
  kAuto,        // any, by the first bytes
  kBinary,      // little-endian words as in TraceRecord
  kLackey,      // valgrind --tool=lackey --trace-mem=yes
  kDynamorio,   // DynamoRIO's view of a drmemtrace trace
  kChampsim,    // ChampSim's binary instruction records
  kCloudsuite,  // the same of CloudSuite's SPARC traces
  kPerf,        // perf script: event and address, or a default layout with them
  kPinatrace,   // Pin's pinatrace
  kDinero,      // din
  kRamulator,   // Ramulator's traces of memory or of a CPU
  kExeclog,     // QEMU's execlog plugin
};

// Says how to read a trace.
struct TraceInput {
  TraceFormat format = TraceFormat::kAuto;
  TraceTolerance tolerance;
};

// Opens the trace at `path` ("-" for standard input), looking through compression, or the generator
// of that name (`ParseGenerator`). NotFound if it
// cannot be opened, InvalidArgument if it is empty or, without a format, of none that is known.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(const std::string& path,
                                                       const TraceInput& input);

// Opens a trace of a source that is open.
absl::StatusOr<std::unique_ptr<TraceReader>> OpenTrace(std::unique_ptr<ByteSource> source,
                                                       const TraceInput& input);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_OPEN_TRACE_H_
