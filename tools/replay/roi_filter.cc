// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/roi_filter.h"

#include <cstddef>

namespace tdp::tools {
namespace {

bool Meets(const RoiMark& mark, TraceRecord record, uint64_t number) {
  if (!mark.is_address) return number >= mark.value;
  return mark.value - record.gva().raw() < record.size();
}

}  // namespace

void RoiFilter::Apply(Batch& batch) {
  if (roi_.is_all()) return;
  size_t kept = 0;
  for (const TraceRecord record : batch) {
    const uint64_t number = seen_++;
    const bool begins = !inside_ && !done_ && Meets(*roi_.begin, record, number);
    inside_ |= begins;
    // An address that begins a region does not end it as well.
    const bool may_end = inside_ && roi_.end.has_value() && !(begins && roi_.end->is_address);
    if (may_end && Meets(*roi_.end, record, number)) {
      inside_ = false;
      done_ = true;
    }
    if (done_) break;
    if (inside_) batch[kept++] = record;
  }
  batch.resize(kept);
}

}  // namespace tdp::tools
