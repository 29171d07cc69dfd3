// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The dirty ring of a vCPU: a queue of the pages it wrote, in place of the slots' bitmaps.

#ifndef TDP_MEMSLOT_DIRTY_RING_H_
#define TDP_MEMSLOT_DIRTY_RING_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/dirty_pages.h"

namespace tdp {

// An entry is free, then dirty (pushed by the vCPU), then harvested (read by the collector), then
// free again (its page re-protected by `Reset`). A page stays writable from the push to the reset,
// so its contents are to be read after the reset and its flush.
//
// One thread pushes and one thread harvests and resets, at the same time if they like. (KVM's
// KVM_CAP_DIRTY_LOG_RING, with calls in place of shared memory.)
class DirtyRing {
 public:
  // A vCPU may still push this many entries after it was told that the ring is nearly full: one
  // fault's pages and a full page-modification log.
  static constexpr uint32_t kReservedEntries = 64 + 512;
  static constexpr uint32_t kMaxEntries = 65536;

  // Returns InvalidArgument unless `entries` is a power of two above `kReservedEntries`, OutOfRange
  // if it is above `kMaxEntries`.
  static absl::Status CheckSize(uint64_t entries);

  // Makes a ring of `entries`, which has passed `CheckSize`. ResourceExhausted if there is no
  // memory.
  static absl::StatusOr<std::unique_ptr<DirtyRing>> Create(uint32_t entries);

  uint32_t size() const { return mask_ + 1; }

  // Adds an entry; for the vCPU's thread. False if the ring is full, which a vCPU that honours
  // `is_nearly_full` never sees.
  [[nodiscard]] bool Push(const DirtyRingEntry& entry);

  // Returns whether the vCPU must leave the guest until the collector has been here. Any thread may
  // ask.
  bool is_nearly_full() const { return used() >= size() - kReservedEntries; }

  // Returns how many entries are not free. Any thread may ask.
  uint32_t used() const {
    // In this order, since entries go from one count to the other: the vCPU has pushed whatever is
    // free again. Others may have come between the two loads, beyond what the ring holds.
    const uint32_t reset = reset_.load(std::memory_order_acquire);
    return std::min(pushed_.load(std::memory_order_acquire) - reset, size());
  }

  // Moves the oldest dirty entries to `entries`, as many as there are or fit, and returns how many;
  // for the collector's thread.
  uint32_t Harvest(absl::Span<DirtyRingEntry> entries);

  // Frees every harvested entry after `protect(first, mask)` has been called for it: the pages
  // `first.index + i` for every bit i of `mask` are to be write-protected; neighbours come
  // together. Returns how many entries became free. For the collector's thread, which makes a flush
  // afterwards.
  uint32_t Reset(absl::FunctionRef<void(const DirtyRingEntry& first, uint64_t mask)> protect);

 private:
  explicit DirtyRing(uint32_t entries);

  const uint32_t mask_;
  std::unique_ptr<DirtyRingEntry[]> entries_;
  // These count entries and wrap. The two sides write different cache lines.
  alignas(64) Atomic<uint32_t> pushed_{0};
  alignas(64) Atomic<uint32_t> reset_{0};
  uint32_t harvested_ = 0;
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_DIRTY_RING_H_
