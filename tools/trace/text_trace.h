// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Traces as text, a line at a time.

#ifndef TDP_TOOLS_TRACE_TEXT_TRACE_H_
#define TDP_TOOLS_TRACE_TEXT_TRACE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Says what a line came to.
enum class LineResult : uint8_t {
  kTaken,          // its accesses, none for a line that is not about one, are appended
  kForeign,        // it is nothing this format knows
  kKernelAddress,  // an access to an address that only a kernel has
  kBadAddress,     // an access to an address that is not canonical
  kBadSize,        // an access to no byte, or to more than 4096
  kNoAccess,       // a record of the format that accesses nothing
};

// Appends the accesses of `line` (without its newline).
using LineParser = LineResult (*)(std::string_view line, std::vector<TraceRecord>& records);

// Makes a reader of one text format; `format` names it in messages.
std::unique_ptr<TraceReader> MakeTextTraceReader(std::unique_ptr<ByteSource> source,
                                                 const char* format, LineParser parse,
                                                 TraceTolerance tolerance);

// Appends the access to the `size` bytes at `address` to `records`, its size rounded up to a power
// of two, if a record can hold it.
LineResult AppendAccess(AccessKind kind, uint64_t address, uint64_t size,
                        std::vector<TraceRecord>& records);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_TEXT_TRACE_H_
