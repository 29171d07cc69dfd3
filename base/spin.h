// SPDX-License-Identifier: Apache-2.0
//
// Waiting for another thread that is about to be done.

#ifndef TDP_BASE_SPIN_H_
#define TDP_BASE_SPIN_H_

#include <thread>

namespace tdp {

// Returns once `done()` is true. Spins for about a microsecond, then gives the CPU away between
// looks: what is waited for may need it.
template <typename Done>
void SpinUntil(Done done) {
  constexpr int kSpins = 64;
  for (int i = 0; !done(); ++i) {
    if (i < kSpins) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }
}

}  // namespace tdp

#endif  // TDP_BASE_SPIN_H_
