// SPDX-License-Identifier: Apache-2.0
//
// The binary trace format: little-endian 64-bit words as `TraceRecord` packs them, nothing before,
// between or after. Compressed with zstd a word takes about one bit.

#ifndef TDP_TOOLS_TRACE_BINARY_TRACE_H_
#define TDP_TOOLS_TRACE_BINARY_TRACE_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace/trace_record.h"

struct ZSTD_CCtx_s;

namespace tdp::tools {

// Reads `first` (bytes already taken from `source`) and then the rest of `source`.
std::unique_ptr<TraceReader> MakeBinaryTraceReader(std::unique_ptr<ByteSource> source,
                                                   std::string first);

// Writes a zstd-compressed binary trace. `Close` ends the file; a writer destroyed before that
// leaves a truncated file behind, which readers refuse.
class BinaryTraceWriter {
 public:
  // Creates or replaces `path`. Unavailable if the system refuses.
  static absl::StatusOr<std::unique_ptr<BinaryTraceWriter>> Create(const std::string& path);
  ~BinaryTraceWriter();
  BinaryTraceWriter(const BinaryTraceWriter&) = delete;
  BinaryTraceWriter& operator=(const BinaryTraceWriter&) = delete;

  absl::Status Write(absl::Span<const TraceRecord> records);
  absl::Status Close();

 private:
  BinaryTraceWriter(std::string path, int fd);
  // `last`: end the zstd frame.
  absl::Status Compress(absl::Span<const TraceRecord> records, bool last);
  absl::Status WriteDescriptor(absl::Span<const char> bytes);

  const std::string path_;
  int fd_;
  ZSTD_CCtx_s* const context_;
  std::vector<char> buffer_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_BINARY_TRACE_H_
