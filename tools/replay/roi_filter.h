// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Takes a trace's region of interest out of its records.

#ifndef TDP_TOOLS_REPLAY_ROI_FILTER_H_
#define TDP_TOOLS_REPLAY_ROI_FILTER_H_

#include <cstdint>

#include "tdp/tools/replay/batch_channel.h"
#include "tdp/tools/replay/observe_options.h"

namespace tdp::tools {

class RoiFilter {
 public:
  explicit RoiFilter(const Roi& roi) : roi_(roi), inside_(!roi.begin.has_value()) {}

  // Leaves in `batch`, the next records of the trace, what is of interest.
  void Apply(Batch& batch);
  // Nothing that comes is of interest.
  bool done() const { return done_; }
  // Returns whether the region has begun.
  bool begun() const { return inside_ || done_; }

 private:
  const Roi roi_;
  bool inside_;
  bool done_ = false;
  uint64_t seen_ = 0;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_ROI_FILTER_H_
