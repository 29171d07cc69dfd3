// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Where the bytes of a trace come from: a file or pipe, plain or compressed.

#ifndef TDP_TOOLS_TRACE_BYTE_SOURCE_H_
#define TDP_TOOLS_TRACE_BYTE_SOURCE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

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

  // Returns the name, for messages.
  virtual const std::string& name() const = 0;
  // Progress through the file, in bytes of the file as it is stored; the size is 0 where it is
  // unknown, as for a pipe.
  virtual uint64_t stored_offset() const = 0;
  virtual uint64_t stored_size() const = 0;
};

// A source whose first bytes can be looked at before they are read.
class PeekableSource final : public ByteSource {
 public:
  explicit PeekableSource(std::unique_ptr<ByteSource> source);

  // Up to `bytes` from the front, fewer only at the end. Once, before the first `Read`; valid until
  // then.
  absl::StatusOr<std::string_view> Peek(size_t bytes);

  absl::StatusOr<size_t> Read(absl::Span<char> out) override;
  const std::string& name() const override { return source_->name(); }
  uint64_t stored_offset() const override { return source_->stored_offset(); }
  uint64_t stored_size() const override { return source_->stored_size(); }

 private:
  const std::unique_ptr<ByteSource> source_;
  std::string peeked_;
  size_t taken_ = 0;  // of peeked_
};

// Opens `path`, or standard input for "-", and looks through zstd, gzip and xz compression, each
// recognised by its magic number. NotFound and the like if it cannot be opened; InvalidArgument for
// a file of a kind that is known and is no trace, which it names. If it may be `cut_short`,
// compressed data that are truncated end there.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenByteSource(const std::string& path,
                                                           bool cut_short = false);

// Opens bytes in memory in the same way. They outlive the source; `name` is for messages.
absl::StatusOr<std::unique_ptr<ByteSource>> OpenBytes(std::string name,
                                                      absl::Span<const char> bytes);

// Returns all that is left of `source`, or its error.
absl::StatusOr<std::string> ReadAll(ByteSource& source);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_BYTE_SOURCE_H_
