// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#ifndef TDP_TOOLS_REPLAY_DISTANCE_COUNTS_H_
#define TDP_TOOLS_REPLAY_DISTANCE_COUNTS_H_

#include <cstdint>
#include <vector>

namespace tdp::tools {

// The accesses of a run by stack distance, for pages of one size.
struct DistanceCounts {
  std::vector<uint64_t> uses;  // [n]: of a page since whose last use n others were used
  uint64_t cold = 0;           // first uses of a page
  uint64_t pages = 0;          // that were touched, a warm-up included
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_DISTANCE_COUNTS_H_
