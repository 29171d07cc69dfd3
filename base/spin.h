// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Waiting for another thread that is about to be done.

#ifndef TDP_BASE_SPIN_H_
#define TDP_BASE_SPIN_H_

#include "tdp/base/sync.h"

namespace tdp {

// Returns once `done()` is true. Spins for about a microsecond, then gives the CPU away between
// looks: what is waited for may need it.
template <typename Done>
void SpinUntil(Done done) {
  for (int round = 0; !done(); ++round) internal::SpinPause(round);
}

}  // namespace tdp

#endif  // TDP_BASE_SPIN_H_
