// SPDX-License-Identifier: Apache-2.0
//
// Traces as text, a line at a time.

#ifndef TDP_TOOLS_TRACE_TEXT_TRACE_H_
#define TDP_TOOLS_TRACE_TEXT_TRACE_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Appends the accesses of `line` (without its newline), none for a line that is not about an
// access. False if the line is nothing this format knows.
using LineParser = bool (*)(std::string_view line, std::vector<TraceRecord>& records);

// A reader of one text format; `format` names it in messages. `first` are bytes already taken from
// `source`.
std::unique_ptr<TraceReader> MakeTextTraceReader(std::unique_ptr<ByteSource> source,
                                                 std::string first, const char* format,
                                                 LineParser parse);

// Appends the access to the `size` bytes at `address` to `records`, its size rounded up to a power
// of two. False if no record can hold it: 0 bytes, more than 4096, or not a user address.
bool AppendAccess(AccessKind kind, uint64_t address, uint64_t size,
                  std::vector<TraceRecord>& records);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_TEXT_TRACE_H_
