// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tells a fault whether the host page that it resolved may be gone (KVM's mmu_invalidate_seq and
// mmu_invalidate_in_progress). docs/locking.md has its timeline.

#ifndef TDP_MMU_SYNC_CHANGE_SEQUENCE_H_
#define TDP_MMU_SYNC_CHANGE_SEQUENCE_H_

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "absl/base/optimization.h"
#include "tdp/base/address.h"
#include "tdp/base/host_range.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/sync/section_checks.h"

namespace tdp {

// The sequence changes under the writer side of `MmuLock`. Ask `Current` at any time, `MovedSince`
// inside a section.
class ChangeSequence {
 public:
  // A value that `Current` never has: the `then` of something that was never read. It has always
  // moved.
  static constexpr uint64_t kNever = ~uint64_t{0};

  // Returns the sequence as it is now. Read it before the slot.
  uint64_t Current() const { return sequence_.load(std::memory_order_acquire); }

  // Returns whether what was resolved for `hva` after `Current()` gave `then` may have changed
  // since, or is changing now.
  bool MovedSince(uint64_t then, Hva hva) const {
    return ABSL_PREDICT_FALSE(!IsQuietSince(then)) && MovedSince(then, hva, true);
  }
  // Returns whether nothing at all has changed since then, or is changing now: one compare.
  bool IsQuietSince(uint64_t then) const { return quiet() == then; }
  // Returns the one `then` since which nothing has changed; where there is none, a value that
  // `Current` never has.
  uint64_t quiet() const {
    AssertInSection();
    return quiet_;
  }

  // Does the same for a page that the host was asked for, if `of_host`. A frame that a slot or a
  // view names depends on no invalidation.
  bool MovedSince(uint64_t then, Hva hva, bool of_host) const {
    AssertInSection();
    if (ABSL_PREDICT_FALSE(in_progress_ != 0) && of_host && range_.Contains(hva)) return true;
    return sequence_.load(std::memory_order_relaxed) != then;
  }

  // Returns whether anything that counts for any page of `range` has changed since, or is changing
  // now.
  bool MovedSince(uint64_t then, HostRange range, bool of_host = true) const {
    AssertInSection();
    if (ABSL_PREDICT_FALSE(in_progress_ != 0) && of_host && range_.Overlaps(range)) return true;
    return sequence_.load(std::memory_order_relaxed) != then;
  }

  // Returns how much of a host page of 2^order frames may be mapped for `hva`, behind which `frame`
  // stands: all of it, or that frame alone (0) where another part of the page is being invalidated.
  // The host may answer with the whole page until the end of that, and a leaf of it would bring
  // back what the beginning has taken away.
  int StableOrder(Hva hva, Hfn frame, int order) const {
    if (ABSL_PREDICT_TRUE(in_progress_ == 0) || order == 0) return order;
    constexpr int kLargest = 18;  // as `HostPage::order`
    const PageCount pages(uint64_t{1} << std::min(order, kLargest));
    // The backend may say that a host page begins below the address space: it begins with it then.
    const uint64_t page = hva.raw() >> kPageShift;
    const uint64_t before = std::min(page, (frame - frame.AlignDown(pages)).raw());
    const auto whole = HostRange::OfPages(page - before, page - before + pages.raw());
    return range_.Overlaps(whole) ? 0 : order;
  }

  // Returns how many of `pages` pages from `hva` on may be mapped as far as invalidations in
  // progress go: those in front of the first that one of them touches.
  PageCount StablePages(Hva hva, PageCount pages) const {
    const uint64_t first = hva.raw() >> kPageShift;
    const auto wanted = HostRange::OfPages(first, first + pages.raw());
    if (ABSL_PREDICT_TRUE(in_progress_ == 0) || !range_.Overlaps(wanted)) return pages;
    return PageCount(std::max(range_.first_page(), first) - first);
  }

  // Says that an invalidation of `range` begins. Several may overlap in time; their ranges are then
  // taken as one.
  void Begin(HostRange range) {
    AssertWriting();
    range_ = in_progress_ == 0 ? range : range_.Hull(range);
    ++in_progress_;
    quiet_ = kMoving;
  }
  void End() {
    --in_progress_;
    Move();
  }
  // Says that something has changed whole within the writer's section: slots, roots.
  void Move() {
    AssertWriting();
    const uint64_t now = sequence_.load(std::memory_order_relaxed) + 1;
    sequence_.store(now, std::memory_order_release);
    quiet_ = in_progress_ == 0 ? now : kMoving;
  }

  uint32_t in_progress() const { return in_progress_; }

 private:
  // The value of `quiet_` while an invalidation is in progress. No sequence comes to this either,
  // and it is another than `kNever`: what was never read is not quiet then.
  static constexpr uint64_t kMoving = kNever - 1;

  alignas(64) Atomic<uint64_t> sequence_{0};
  // Equals `sequence_` while no invalidation is in progress, else `kMoving`. It is read inside
  // sections alone.
  uint64_t quiet_ = 0;
  uint32_t in_progress_ = 0;
  HostRange range_;
};

}  // namespace tdp

#endif  // TDP_MMU_SYNC_CHANGE_SEQUENCE_H_
