// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How a thread of the host keeps Linux's CPUs out of the guest for a while.

#ifndef TDP_EXAMPLES_LINUX_STOP_GATE_H_
#define TDP_EXAMPLES_LINUX_STOP_GATE_H_

#include <array>
#include <atomic>
#include <cstddef>

namespace tdp::linux_example {

class StopGate {
 public:
  static constexpr size_t kMaxCpus = 8;

  // --- A CPU of Linux's, by its number ---
  // Returns when nobody wants the CPU out. Before each entry.
  void Pass(size_t cpu);
  // The CPU is out until it passes again.
  void Leave(size_t cpu) { is_out_[cpu].store(true, std::memory_order_seq_cst); }

  // --- A thread that is none of Linux's CPUs ---
  // From now on they stay out once they come out: the caller kicks them, and waits.
  void Close() { is_closed_.store(true, std::memory_order_seq_cst); }
  void WaitUntilOut() const;
  void Open() { is_closed_.store(false, std::memory_order_seq_cst); }

 private:
  // Flags of CPUs that there are not say that they are out, and so do those of CPUs that have not
  // begun.
  std::array<std::atomic<bool>, kMaxCpus> is_out_ = {true, true, true, true,
                                                     true, true, true, true};
  std::atomic<bool> is_closed_ = false;
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_STOP_GATE_H_
