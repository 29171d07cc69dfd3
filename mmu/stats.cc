// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/stats.h"

namespace tdp {

FaultStats& FaultStats::operator+=(const FaultStats& other) {
  fixed += other.fixed;
  spurious += other.spurious;
  retry += other.retry;
  mmio += other.mmio;
  blocked += other.blocked;
  view_denied += other.view_denied;
  memory_faults += other.memory_faults;
  errors += other.errors;
  fast += other.fast;
  splits += other.splits;
  flushes += other.flushes;
  guest_faults += other.guest_faults;
  emulated_writes += other.emulated_writes;
  for (size_t i = 0; i < leaves_installed.size(); ++i)
    leaves_installed[i] += other.leaves_installed[i];
  return *this;
}

}  // namespace tdp
