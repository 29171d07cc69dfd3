// SPDX-License-Identifier: Apache-2.0
//
// Reading recorded programs, whatever wrote them.

#ifndef TDP_TOOLS_TRACE_TRACE_READER_H_
#define TDP_TOOLS_TRACE_TRACE_READER_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// A trace, read once from front to back in batches: one virtual call for thousands of records.
class TraceReader {
 public:
  virtual ~TraceReader() = default;

  // Fills `records` from the front and returns how many it holds now; 0 at the end. All are
  // valid(). InvalidArgument if the input holds something that is no record, DataLoss if it is
  // truncated or corrupt; both name the file and the byte offset or line. After an error the reader
  // is spent.
  virtual absl::StatusOr<size_t> Read(absl::Span<TraceRecord> records) = 0;

  // The source, for messages and progress.
  virtual const ByteSource& source() const = 0;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_TRACE_READER_H_
