// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Listens to what a guest writes to the machine's first serial port.

#ifndef TDP_BACKENDS_VTX_SERIAL_TAP_H_
#define TDP_BACKENDS_VTX_SERIAL_TAP_H_

#include <string>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/backends/vtx/vtx_vcpu.h"

namespace tdp::vtx {

// Belongs to the thread of its vCPU. The port is the guest's own, but that its data register exits.
class SerialTap {
 public:
  // `vcpu` was made with `io_bitmaps`. `line` is what has come of a line that is not complete: one
  // string for all vCPUs of a guest, of which one at a time writes. Both outlive the tap.
  SerialTap(VtxVcpu& vcpu, std::string& line) : vcpu_(vcpu), line_(line) {}

  // Has the data register exit. Before the guest runs.
  absl::Status Arm();

  // Carries out the access to the data register that `exit` (kIo) is about, and skips its
  // instruction. `on_line` gets each complete line, without its end. Bytes reach the machine's port
  // where its interrupt is on, since the next one comes of them, and are kept from it while the
  // guest polls: a port that says that it is empty costs no waiting. Unimplemented, with nothing
  // done, for an access of more than one byte, by a string instruction, or to another port.
  absl::Status Handle(const VmExit& exit, absl::FunctionRef<void(const std::string&)> on_line);

 private:
  void Listen(char byte, absl::FunctionRef<void(const std::string&)> on_line);

  VtxVcpu& vcpu_;
  std::string& line_;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_SERIAL_TAP_H_
