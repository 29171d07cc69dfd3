// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How a thread of the host keeps the vCPUs of a guest out of it for a while.

#ifndef TDP_BACKENDS_VTX_STOP_GATE_H_
#define TDP_BACKENDS_VTX_STOP_GATE_H_

#include <atomic>
#include <cstddef>
#include <memory>

namespace tdp::vtx {

// Whoever closes it kicks the vCPUs, since one that runs meets the gate no earlier than at its next
// exit. Waits spin.
class StopGate {
 public:
  // Makes a gate for vCPUs by the numbers 0 to `vcpus` - 1. Those that have not begun count as out.
  explicit StopGate(size_t vcpus);

  // --- The thread of a vCPU ---
  // Returns when nobody wants the vCPU out. Before each entry.
  void Pass(size_t vcpu);
  // The vCPU is out until it passes again.
  void Leave(size_t vcpu) { is_out_[vcpu].store(true, std::memory_order_seq_cst); }

  // --- A thread that is none of these, one at a time ---
  // No vCPU passes until `Open`.
  void Close() { is_closed_.store(true, std::memory_order_seq_cst); }
  // Returns when all are out: each has come to `Pass`, or has left.
  void WaitUntilOut() const;
  void Open() { is_closed_.store(false, std::memory_order_seq_cst); }

 private:
  const size_t vcpus_;
  const std::unique_ptr<std::atomic<bool>[]> is_out_;
  std::atomic<bool> is_closed_ = false;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_STOP_GATE_H_
