// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/stop_gate.h"

#include <x86intrin.h>

namespace tdp::linux_example {

// The flag is down before the gate is looked at, so that one of the two sides sees the other's.
void StopGate::Pass(size_t cpu) {
  for (;;) {
    is_out_[cpu].store(false, std::memory_order_seq_cst);
    if (!is_closed_.load(std::memory_order_seq_cst)) return;
    is_out_[cpu].store(true, std::memory_order_seq_cst);
    while (is_closed_.load(std::memory_order_seq_cst)) _mm_pause();
  }
}

void StopGate::WaitUntilOut() const {
  for (const std::atomic<bool>& out : is_out_) {
    while (!out.load(std::memory_order_seq_cst)) _mm_pause();
  }
}

}  // namespace tdp::linux_example
