// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/examples/linux/memory_copy.h"

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_ring.h"

namespace tdp::linux_example {

void MemoryCopy::CopyAll() {
  const uint64_t count = guest_.options().ram / kPageSize;
  for (uint64_t page = 0; page < count; ++page) memcpy(Target(page), Source(page), kPageSize);
  pages_ += count;
}

void MemoryCopy::CopyPages(uint64_t base, uint64_t mask) {
  for (; mask != 0; mask &= mask - 1) {
    const uint64_t page = base + static_cast<uint64_t>(std::countr_zero(mask));
    memcpy(Target(page), Source(page), kPageSize);
    ++pages_;
  }
}

uint64_t MemoryCopy::PutBack(uint64_t base, uint64_t mask) const {
  const auto count = static_cast<uint64_t>(std::popcount(mask));
  for (; mask != 0; mask &= mask - 1) {
    const uint64_t page = base + static_cast<uint64_t>(std::countr_zero(mask));
    memcpy(const_cast<uint8_t*>(Source(page)), Target(page), kPageSize);
  }
  return count;
}

absl::Status MemoryCopy::Compare() const {
  const uint64_t count = guest_.options().ram / kPageSize;
  uint64_t differing = 0;
  for (uint64_t page = 0; page < count; ++page) {
    if (memcmp(Target(page), Source(page), kPageSize) != 0) ++differing;
  }
  if (differing == 0) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrFormat("%d of %d pages are not what the dirty log says", differing, count));
}

absl::Status StartCopy(LinuxGuest& guest, MemoryCopy& copy) {
  TDP_RETURN_IF_ERROR(guest.vm().SetMemoryRegion(guest.Region(kSlotLogDirtyPages)));
  copy.CopyAll();
  return absl::OkStatus();
}

// Copies what was written. A page in a ring may be written until the ring is reset, so it is read
// after that.
absl::Status CopyDirty(LinuxGuest& guest, MemoryCopy& copy) {
  DirtyRing* const ring = guest.mmu().dirty_ring();
  if (ring == nullptr) {
    return guest.vm().TakeDirtyLog(
        0, [&copy](uint64_t base, uint64_t mask) { copy.CopyPages(base, mask); });
  }
  std::array<DirtyRingEntry, 256> entries;
  while (const uint32_t count = ring->Harvest(absl::MakeSpan(entries))) {
    guest.vm().ResetDirtyRings();
    for (uint32_t i = 0; i < count; ++i) copy.CopyPages(entries[i].index, 1);
  }
  return absl::OkStatus();
}

}  // namespace tdp::linux_example
