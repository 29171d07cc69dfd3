// SPDX-License-Identifier: Apache-2.0
//
// Where the bytes of a trace come from: a file or pipe, plain or zstd-compressed.

#ifndef TDP_TOOLS_TRACE_BYTE_SOURCE_H_
#define TDP_TOOLS_TRACE_BYTE_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace tdp::tools {

// A stream of bytes, read once from front to back.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Fills `out` from the front and returns how many bytes it holds now: fewer than asked for only
  // at the end, 0 when there is nothing more. DataLoss, naming the file and the byte offset in it,
  // if it is truncated or corrupt; Unavailable if the system cannot read it.
  virtual absl::StatusOr<size_t> Read(absl::Span<char> out) = 0;

  // For messages.
  virtual const std::string& name() const = 0;
  // Progress through the file, in bytes of the file as it is stored; the size is 0 where it is
  // unknown, as for a pipe.
  virtual uint64_t stored_offset() const = 0;
  virtual uint64_t stored_size() const = 0;
};

// Opens `path`, or standard input for "-", and looks through zstd compression, which is recognised
// by its magic number. NotFound and the like if it cannot be opened.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenByteSource(const std::string& path);

// The same for bytes in memory, which outlive the source; `name` is for messages.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenBytes(std::string name,
                                                      absl::Span<const char> bytes);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_BYTE_SOURCE_H_
