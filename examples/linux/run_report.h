// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Reports what a run of Linux cost: its exits by kind, and what the engine did meanwhile.

#ifndef TDP_EXAMPLES_LINUX_RUN_REPORT_H_
#define TDP_EXAMPLES_LINUX_RUN_REPORT_H_

#include <cstdint>
#include <string_view>

#include "absl/synchronization/mutex.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/base/ordered_map.h"
#include "tdp/mmu/vm.h"

namespace tdp::linux_example {

class RunReport {
 public:
  // The run begins now.
  void Start();
  // Ticks since then.
  uint64_t ticks() const;
  // The host has answered `exit` in so many ticks. Any of Linux's CPUs.
  void Count(const vtx::VmExit& exit, uint64_t ticks);
  // Adds the faults of a `Vm` that Linux has left.
  void Add(const FaultStats& past) { past_faults_ += past; }

  // `stats` are those of the `Vm` that Linux runs on.
  void Print(const VmStats& stats, uint64_t kicks, bool is_shadowed) const;

 private:
  struct ExitCount {
    uint64_t exits = 0;
    uint64_t ticks = 0;
  };

  uint64_t start_ = 0;
  FaultStats past_faults_;
  absl::Mutex mutex_;
  SortedMap<std::string_view, ExitCount> exits_;  // by name; under mutex_ while Linux runs
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_RUN_REPORT_H_
