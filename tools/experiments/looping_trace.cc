// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/looping_trace.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "tdp/base/status_macros.h"

namespace tdp::tools {
namespace {

constexpr size_t kBatch = size_t{1} << 15;

}  // namespace

absl::Status LoopingTrace::Refill() {
  if (is_whole_) {
    taken_ = 0;
    ++rounds_;
    return absl::OkStatus();
  }
  for (int opened = 0;;) {
    if (reader_ == nullptr) {
      if (opened++ != 0) {
        return absl::InvalidArgumentError(absl::StrCat(path_, ": no access in it"));
      }
      TDP_ASSIGN_OR_RETURN(reader_, OpenTrace(path_, input_));
    }
    batch_.resize(kBatch);
    taken_ = 0;
    TDP_ASSIGN_OR_RETURN(const size_t got, reader_->Read(absl::MakeSpan(batch_)));
    batch_.resize(got);
    // A batch is full but at the end; one that was the beginning as well is kept, since the file
    // would be opened again for each few accesses.
    is_whole_ = opened != 0 && got != 0 && got < kBatch;
    if (got != 0) return absl::OkStatus();
    reader_ = nullptr;
    ++rounds_;
  }
}

absl::StatusOr<absl::Span<const TraceRecord>> LoopingTrace::Next(uint64_t most) {
  if (taken_ == batch_.size()) TDP_RETURN_IF_ERROR(Refill());
  const auto count = static_cast<size_t>(std::min<uint64_t>(most, batch_.size() - taken_));
  const auto records = absl::MakeConstSpan(batch_).subspan(taken_, count);
  taken_ += count;
  return records;
}

}  // namespace tdp::tools
