// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/dirty_ring.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <new>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"

namespace tdp {

absl::Status DirtyRing::CheckSize(uint64_t entries) {
  if (!std::has_single_bit(entries) || entries <= kReservedEntries) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "dirty ring entries = %d: not a power of two above %d", entries, kReservedEntries));
  }
  if (entries > kMaxEntries) {
    return absl::OutOfRangeError(
        absl::StrFormat("dirty ring entries = %d: more than %d", entries, kMaxEntries));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<DirtyRing>> DirtyRing::Create(uint32_t entries) {
  std::unique_ptr<DirtyRing> ring(new (std::nothrow) DirtyRing(entries));
  if (ring == nullptr || ring->entries_ == nullptr) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no memory for a dirty ring of %d entries", entries));
  }
  return ring;
}

DirtyRing::DirtyRing(uint32_t entries)
    : mask_(entries - 1), entries_(new (std::nothrow) DirtyRingEntry[entries]()) {}

bool DirtyRing::Push(const DirtyRingEntry& entry) {
  const uint32_t at = pushed_.load(std::memory_order_relaxed);
  if (at - reset_.load(std::memory_order_acquire) == size()) return false;
  entries_[at & mask_] = entry;
  pushed_.store(at + 1, std::memory_order_release);
  return true;
}

uint32_t DirtyRing::Harvest(absl::Span<DirtyRingEntry> entries) {
  const uint32_t dirty = pushed_.load(std::memory_order_acquire) - harvested_;
  const uint32_t count = static_cast<uint32_t>(std::min<uint64_t>(dirty, entries.size()));
  for (uint32_t i = 0; i < count; ++i) entries[i] = entries_[(harvested_ + i) & mask_];
  harvested_ += count;
  return count;
}

uint32_t DirtyRing::Reset(
    absl::FunctionRef<void(const DirtyRingEntry& first, uint64_t mask)> protect) {
  const uint32_t start = reset_.load(std::memory_order_relaxed);
  uint32_t at = start;
  while (at != harvested_) {
    const DirtyRingEntry first = entries_[at & mask_];
    uint64_t mask = 1;
    for (++at; at != harvested_; ++at) {
      const DirtyRingEntry& next = entries_[at & mask_];
      const uint64_t distance = next.index - first.index;
      if (next.slot != first.slot || next.address_space != first.address_space || distance >= 64) {
        break;
      }
      mask |= uint64_t{1} << distance;
    }
    protect(first, mask);
  }
  reset_.store(at, std::memory_order_release);
  return at - start;
}

}  // namespace tdp
