// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How large a leaf may be at each frame of a slot.

#ifndef TDP_MEMSLOT_LARGE_PAGE_PERMITS_H_
#define TDP_MEMSLOT_LARGE_PAGE_PERMITS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"

namespace tdp {

// Reasons against a 2 MiB or 1 GiB leaf, counted per frame of that size as KVM's disallow_lpage
// does: one for the first and one for the last frame of the slot if the slot ends inside it, one
// for all if gfn and hva differ in their offset within such a frame, and one for each write-tracked
// page inside.
//
// The first two kinds follow from the slot's bounds and are not stored. So a question about a frame
// that begins before the slot, as a large host page may, reads nothing outside. Counts of tracked
// pages are kept by GiB of guest memory from the first tracked page there on.
//
// Any thread may ask; counting is lock-free. Nobody asks about frames outside the slot.
class LargePagePermits {
 public:
  LargePagePermits(Gfn base, PageCount pages, Hva hva);
  ~LargePagePermits();
  LargePagePermits(const LargePagePermits&) = delete;
  LargePagePermits& operator=(const LargePagePermits&) = delete;

  // Returns the largest level, 1 to `most`, at which one leaf may map `gfn`.
  Level MaxLevel(Gfn gfn, Level most = kLevel1G) const {
    if (most == kLevel4K || ReasonsAgainst(gfn, kLevel2M) != 0) return kLevel4K;
    return most == kLevel2M || ReasonsAgainst(gfn, kLevel1G) != 0 ? kLevel2M : kLevel1G;
  }

  // Returns the number of reasons against a leaf of `level`, 2 or 3, at `gfn`; 0 means it may be.
  uint64_t ReasonsAgainst(Gfn gfn, Level level) const {
    return BoundReasons(gfn, level) + TrackedPages(gfn, level);
  }

  // Returns how many of these reasons are tracked pages.
  uint64_t TrackedPages(Gfn gfn, Level level) const {
    const Directory* directory = directory_.load(std::memory_order_acquire);
    return directory == nullptr ? 0 : TrackedPagesIn(directory, gfn, level);
  }

  // The frames of the slot that leaves of 2 MiB may map, tracked pages aside: those of whole large
  // frames in the slot, or none where gfn and hva differ in their offset.
  struct Frames {
    Gfn first;
    PageCount pages;
  };
  Frames Large2MFrames() const {
    const Gfn first = (base_ + PageCount(kPagesPerTwoMiB - 1)).AlignDown(kLevel2M.pages());
    const Gfn end = end_.AlignDown(kLevel2M.pages());
    if (first >= end || (incongruence_ & (kPagesPerTwoMiB - 1)) != 0) return {};
    return {first, end - first};
  }
  // Returns whether any page was ever tracked.
  bool is_tracking() const { return directory_.load(std::memory_order_acquire) != nullptr; }

  // Counts one more, or one less, reason to keep `gfn` from being written by the guest unseen: a
  // shadowed page table. Each page counts by itself, and so do the large frames around it. The
  // first call for a GiB allocates: ResourceExhausted, with nothing counted, if there is no memory.
  absl::Status AddWriteTracking(Gfn gfn);
  void RemoveWriteTracking(Gfn gfn);
  // Makes room for the counts of `gfn`: `AddWriteTracking` allocates nothing then.
  // ResourceExhausted as above.
  absl::Status PrepareWriteTracking(Gfn gfn);
  bool IsWriteTrackingPrepared(Gfn gfn) const { return FindTwoMiB(gfn) != nullptr; }
  bool IsWriteTracked(Gfn gfn) const {
    const TwoMiB* const two_mib = FindTwoMiB(gfn);
    return two_mib != nullptr &&
           two_mib->pages[gfn.raw() % kPagesPerTwoMiB].load(std::memory_order_acquire) != 0;
  }

  // Returns memory in use, this object included.
  size_t bytes() const;

 private:
  using Count = Atomic<uint32_t>;
  static constexpr uint64_t kPagesPerTwoMiB = kLevel2M.pages().raw();
  static constexpr uint64_t kPagesPerGiB = kLevel1G.pages().raw();

  struct TwoMiB {
    std::array<Count, kPagesPerTwoMiB> pages;
  };
  struct OneGiB {
    ~OneGiB();
    Count tracked;
    std::array<Count, 512> tracked_by_2m;
    std::array<Atomic<TwoMiB*>, 512> pages;
  };
  // One entry for each GiB of guest memory that the slot touches.
  using Directory = Atomic<OneGiB*>;

  uint64_t BoundReasons(Gfn gfn, Level level) const {
    const Gfn first = gfn.AlignDown(level.pages());
    const Gfn last = first + level.pages();
    const uint64_t offset_mask = level.pages().raw() - 1;
    return uint64_t{first < base_} + uint64_t{last > end_} +
           uint64_t{(incongruence_ & offset_mask) != 0};
  }

  static_assert(kLevel1G.pages().raw() == 512 * 512);

  uint64_t TrackedPagesIn(const Directory* directory, Gfn gfn, Level level) const;
  uint64_t GiBIndex(Gfn gfn) const { return gfn.raw() / kPagesPerGiB - base_.raw() / kPagesPerGiB; }
  uint64_t directory_size() const;
  OneGiB* MakeGiB(Gfn gfn);
  TwoMiB* MakeTwoMiB(OneGiB* gib, Gfn gfn);
  OneGiB* FindGiB(Gfn gfn) const {
    Directory* const directory = directory_.load(std::memory_order_acquire);
    return directory == nullptr ? nullptr
                                : directory[GiBIndex(gfn)].load(std::memory_order_acquire);
  }
  TwoMiB* FindTwoMiB(Gfn gfn) const {
    const OneGiB* const gib = FindGiB(gfn);
    if (gib == nullptr) return nullptr;
    return gib->pages[gfn.raw() / kPagesPerTwoMiB % 512].load(std::memory_order_acquire);
  }

  const Gfn base_;
  const Gfn end_;
  const uint64_t
      incongruence_;  // gfn XOR hva's page number: the bits in which their offsets differ
  Atomic<Directory*> directory_{nullptr};
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_LARGE_PAGE_PERMITS_H_
