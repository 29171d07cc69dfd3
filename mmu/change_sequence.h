// SPDX-License-Identifier: Apache-2.0
//
// What tells a fault that the host page it resolved may be gone (KVM's mmu_invalidate_seq and
// mmu_invalidate_in_progress). docs/locking.md has its timeline.

#ifndef TDP_MMU_CHANGE_SEQUENCE_H_
#define TDP_MMU_CHANGE_SEQUENCE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "absl/base/optimization.h"
#include "tdp/base/address.h"

namespace tdp {

// Changed under the writer side of `MmuLock`; `Current` at any time, `MovedSince` inside a section.
class ChangeSequence {
 public:
  // To be read before the slot is.
  uint64_t Current() const { return sequence_.load(std::memory_order_acquire); }

  // Whether what was resolved for `hva` after `Current()` gave `then` may have changed since, or is
  // changing now.
  bool MovedSince(uint64_t then, Hva hva) const {
    if (ABSL_PREDICT_FALSE(in_progress_ != 0) && hva >= start_ && hva < end_) return true;
    return sequence_.load(std::memory_order_relaxed) != then;
  }

  // The same for the piece of host memory around `hva` that the host gave as one, of 2^`order`
  // pages: a leaf may map as much of it as it likes, also what is being changed beside `hva`.
  bool MovedSince(uint64_t then, Hva hva, int order) const {
    if (ABSL_PREDICT_FALSE(in_progress_ != 0)) {
      const ByteCount bytes = kPageSize << order;
      const Hva first = hva.AlignDown(bytes);
      if (first + bytes > start_ && first < end_) return true;
    }
    return sequence_.load(std::memory_order_relaxed) != then;
  }

  // The same for all of [first, end).
  bool MovedSince(uint64_t then, Hva first, Hva end) const {
    if (ABSL_PREDICT_FALSE(in_progress_ != 0) && end > start_ && first < end_) return true;
    return sequence_.load(std::memory_order_relaxed) != then;
  }

  // An invalidation of the host range [start, end) begins. Several may overlap in time; their
  // ranges are then taken as one.
  void Begin(Hva start, Hva end) {
    start_ = in_progress_ == 0 ? start : std::min(start_, start);
    end_ = in_progress_ == 0 ? end : std::max(end_, end);
    ++in_progress_;
  }
  void End() {
    --in_progress_;
    Move();
  }
  // A change that is complete within the writer's section: slots, roots.
  void Move() { sequence_.fetch_add(1, std::memory_order_release); }

  uint32_t in_progress() const { return in_progress_; }

 private:
  alignas(64) std::atomic<uint64_t> sequence_{0};
  uint32_t in_progress_ = 0;
  Hva start_;
  Hva end_;
};

}  // namespace tdp

#endif  // TDP_MMU_CHANGE_SEQUENCE_H_
