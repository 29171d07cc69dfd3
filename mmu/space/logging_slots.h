// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says whether any slot of a `Vm` logs dirty pages, and by what their writes are found.

#ifndef TDP_MMU_SPACE_LOGGING_SLOTS_H_
#define TDP_MMU_SPACE_LOGGING_SLOTS_H_

#include <atomic>
#include <cstdint>

#include "tdp/base/sync.h"
#include "tdp/mmu/vm_options.h"

namespace tdp {

// Counts the slots that log. Any thread may ask. The count moves before the first slot that logs is
// published, and after the last one is gone.
class LoggingSlots {
 public:
  explicit LoggingSlots(DirtyTracking tracking) : tracking_(tracking) {}
  LoggingSlots(const LoggingSlots&) = delete;
  LoggingSlots& operator=(const LoggingSlots&) = delete;

  // Returns what finds the writes, never `DirtyTracking::kBest`.
  DirtyTracking tracking() const { return tracking_; }
  void Add() {
    begun_.fetch_add(1, std::memory_order_relaxed);
    count_.fetch_add(1, std::memory_order_relaxed);
  }
  void Remove() { count_.fetch_sub(1, std::memory_order_relaxed); }
  // Returns how often a slot has begun to log.
  uint64_t begun() const { return begun_.load(std::memory_order_relaxed); }
  bool any() const { return count_.load(std::memory_order_relaxed) != 0; }
  // Returns whether D bits in tables that are taken away are writes that only those tables know of.
  bool are_harvested() const { return tracking_ == DirtyTracking::kDirtyBits && any(); }

 private:
  const DirtyTracking tracking_;
  Atomic<int> count_{0};
  Atomic<uint64_t> begun_{0};
};

}  // namespace tdp

#endif  // TDP_MMU_SPACE_LOGGING_SLOTS_H_
