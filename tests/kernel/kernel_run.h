// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A run takes the guest kernel on a machine through many operations.

#ifndef TDP_TESTS_KERNEL_KERNEL_RUN_H_
#define TDP_TESTS_KERNEL_KERNEL_RUN_H_

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "tests/kernel/guest_kernel.h"
#include "tests/kernel/guest_machine.h"
#include "tests/kernel/kernel_op.h"

namespace tdp::kernel {

struct KernelRun {
  absl::Status status;           // of the first foul: with the operations up to there as C++
  std::vector<Visible> visible;  // what the programs saw
  uint64_t accesses = 0;         // of kernel and programs
  uint64_t ambiguous = 0;        // for which more than one answer would have been legal
  uint64_t stale = 0;            // whose answer came from a translation that was kept
  uint64_t copies = 0;           // on write
  uint64_t flips = 0;            // of large pages
};

// Runs `ops` and compares all of memory every `check_every` operations and at the end.
KernelRun RunKernel(GuestMachine& machine, sim::PagingMode mode, const KernelFeatures& features,
                    const std::vector<KernelOp>& ops, size_t check_every = 200);

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_KERNEL_RUN_H_
