// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The EPT violations of a guest's guest (L2).

#ifndef TDP_TOOLS_REPLAY_NESTED_COUNTS_H_
#define TDP_TOOLS_REPLAY_NESTED_COUNTS_H_

#include <cstdint>

namespace tdp::tools {

struct NestedCounts {
  uint64_t fixed = 0;      // the engine changed EPT02: EPT12 allowed the access
  uint64_t spurious = 0;   // EPT02 allowed it already
  uint64_t reflected = 0;  // EPT12 did not allow it: given to the guest's hypervisor (L1)

  uint64_t total() const { return fixed + spurious + reflected; }
  NestedCounts& operator+=(const NestedCounts& other) {
    fixed += other.fixed;
    spurious += other.spurious;
    reflected += other.reflected;
    return *this;
  }
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_NESTED_COUNTS_H_
