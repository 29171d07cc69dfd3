// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/stop_gate.h"

#include <cstddef>
#include <memory>

namespace tdp::vtx {

StopGate::StopGate(size_t vcpus)
    : vcpus_(vcpus), is_out_(std::make_unique<std::atomic<bool>[]>(vcpus)) {
  for (size_t vcpu = 0; vcpu < vcpus_; ++vcpu) Leave(vcpu);
}

// The flag is down before the gate is looked at, so that one of the two sides sees the other's.
void StopGate::Pass(size_t vcpu) {
  for (;;) {
    is_out_[vcpu].store(false, std::memory_order_seq_cst);
    if (!is_closed_.load(std::memory_order_seq_cst)) return;
    Leave(vcpu);
    while (is_closed_.load(std::memory_order_seq_cst)) __builtin_ia32_pause();
  }
}

void StopGate::WaitUntilOut() const {
  for (size_t vcpu = 0; vcpu < vcpus_; ++vcpu) {
    while (!is_out_[vcpu].load(std::memory_order_seq_cst)) __builtin_ia32_pause();
  }
}

}  // namespace tdp::vtx
