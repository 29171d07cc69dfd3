// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A program that begins again when its trace ends, for experiments that take longer than it.

#ifndef TDP_TOOLS_EXPERIMENTS_LOOPING_TRACE_H_
#define TDP_TOOLS_EXPERIMENTS_LOOPING_TRACE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/tools/trace/open_trace.h"
#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {

class LoopingTrace {
 public:
  // `path` as `OpenTrace` takes it, but not standard input.
  LoopingTrace(std::string path, const TraceInput& input) : path_(std::move(path)), input_(input) {}

  // Returns the next accesses, 1 to `most` of them; valid until the next call. The errors of the
  // reader, and InvalidArgument for a trace without any access.
  absl::StatusOr<absl::Span<const TraceRecord>> Next(uint64_t most);

  // Returns how often it has begun again.
  uint64_t rounds() const { return rounds_; }

 private:
  absl::Status Refill();

  const std::string path_;
  const TraceInput input_;
  std::unique_ptr<TraceReader> reader_;
  std::vector<TraceRecord> batch_;
  size_t taken_ = 0;
  bool is_whole_ = false;  // all of the trace is in `batch_`
  uint64_t rounds_ = 0;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_LOOPING_TRACE_H_
