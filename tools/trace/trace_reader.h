// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
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

// Counts what a tolerant reader has left out, by reason.
struct SkipCounts {
  uint64_t foreign = 0;      // lines that are nothing the format knows
  uint64_t kernel = 0;       // accesses to kernel addresses
  uint64_t bad_address = 0;  // accesses to addresses that are not canonical
  uint64_t bad_size = 0;     // accesses to no byte, or to more than 4096
  uint64_t no_access = 0;    // records of the format that access nothing: prefetches, flushes, …

  uint64_t total() const { return foreign + kernel + bad_address + bad_size + no_access; }
  SkipCounts& operator+=(const SkipCounts& other) {
    foreign += other.foreign;
    kernel += other.kernel;
    bad_address += other.bad_address;
    bad_size += other.bad_size;
    no_access += other.no_access;
    return *this;
  }
};

// Says what a reader does about input that it cannot use.
struct TraceTolerance {
  bool strict = false;       // refuse it, in place of leaving it out and counting it
  bool skip_kernel = false;  // with `strict`: leave kernel addresses out all the same
  // User addresses have at most this many bits; those beyond are not canonical.
  int address_bits = kUserAddressBits;
  bool cut_short = false;  // a file that is truncated ends there; of the binary format alone
};

// A trace, read once from front to back in batches: one virtual call for thousands of records.
class TraceReader {
 public:
  virtual ~TraceReader() = default;

  // Fills `records` from the front and returns how many it holds now; 0 at the end. All are
  // valid(). InvalidArgument if the input holds something that is no record, DataLoss if it is
  // truncated or corrupt; both name the file and the byte offset or line. After an error the reader
  // is spent.
  virtual absl::StatusOr<size_t> Read(absl::Span<TraceRecord> records) = 0;

  // Returns what was left out so far.
  const SkipCounts& skipped() const { return skipped_; }

  // Returns the source, for messages and progress.
  virtual const ByteSource& source() const = 0;

 protected:
  SkipCounts skipped_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_TRACE_READER_H_
