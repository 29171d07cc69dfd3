// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The binary trace format, in two versions.
//
// Version 1 is little-endian 64-bit words as `TraceRecord` packs them, nothing before, between or
// after. Version 2 has a header before the words: the 8 bytes "TDPTRACE", a 32-bit version, the
// 32-bit length of what follows, and that many bytes of JSON about the program, blanks at its end
// making it a multiple of 8. Compressed with zstd a word takes about one bit.

#ifndef TDP_TOOLS_TRACE_BINARY_TRACE_H_
#define TDP_TOOLS_TRACE_BINARY_TRACE_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/tools/output_file.h"
#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace/trace_record.h"

struct ZSTD_CCtx_s;

namespace tdp::tools {

// Holds what a trace says of itself. Members that a reader does not know are ignored.
struct TraceHeader {
  std::string program;  // the command that was recorded
};

// Returns whether `head`, which begins a file, is the header of version 2 or later.
bool HasTraceMagic(std::string_view head);
// Returns whether the words of `head` can be those of version 1: there is no magic number, but
// every record is one, and none is about the first page, which no program has.
bool LooksLikeWords(std::string_view head);

// Reads either version. An address with more than `address_bits` bits is refused. If the trace may
// be `cut_short`, one that ends inside a record ends before it.
std::unique_ptr<TraceReader> MakeBinaryTraceReader(std::unique_ptr<ByteSource> source,
                                                   int address_bits = kUserAddressBits,
                                                   bool cut_short = false);

// Writes a zstd-compressed trace of version 2. `Close` ends it and puts it in its place; a writer
// destroyed before that leaves nothing behind (`OutputFile`).
class BinaryTraceWriter {
 public:
  // `path` as `OutputFile::Create` takes it. Unavailable if the system refuses.
  static absl::StatusOr<std::unique_ptr<BinaryTraceWriter>> Create(const std::string& path,
                                                                   const TraceHeader& header);
  ~BinaryTraceWriter();
  BinaryTraceWriter(const BinaryTraceWriter&) = delete;
  BinaryTraceWriter& operator=(const BinaryTraceWriter&) = delete;

  absl::Status Write(absl::Span<const TraceRecord> records);
  absl::Status Close();

 private:
  explicit BinaryTraceWriter(std::unique_ptr<OutputFile> file);
  // `last`: end the zstd frame.
  absl::Status Compress(absl::Span<const char> bytes, bool last);

  const std::unique_ptr<OutputFile> file_;
  ZSTD_CCtx_s* const context_;
  std::vector<char> buffer_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_BINARY_TRACE_H_
