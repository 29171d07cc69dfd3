// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/frame_arena.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/absl_mutex.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"

namespace tdp::vtx {

FrameArena::FrameArena(void* memory, ByteCount bytes, uintptr_t direct_map_offset)
    : start_(reinterpret_cast<uintptr_t>(memory) - direct_map_offset),
      end_(start_ + bytes),
      direct_map_offset_(direct_map_offset) {
  TDP_CHECK(start_.is_page_aligned());
  TDP_CHECK(end_.is_page_aligned());
  free_.push_back({start_, end_});
}

absl::StatusOr<Hpa> FrameArena::Allocate(ByteCount bytes, ByteCount alignment) {
  if (bytes == 0 || bytes % kPageSize != 0) {
    return absl::InvalidArgumentError(absl::StrFormat("size 0x%x: not whole pages", bytes));
  }
  if (!std::has_single_bit(alignment) || alignment < kPageSize) {
    return absl::InvalidArgumentError(
        absl::StrFormat("alignment 0x%x: not a power of two of at least a page", alignment));
  }
  AbslMutexLock lock(mutex_);
  for (auto run = free_.begin(); run != free_.end(); ++run) {
    const Hpa start = (run->start + (alignment - 1)).AlignDown(alignment);
    if (start >= run->end || run->end - start < bytes) continue;
    const Run before = {run->start, start};
    const Run after = {start + bytes, run->end};
    run = free_.erase(run);
    if (after.start < after.end) run = free_.insert(run, after);
    if (before.start < before.end) free_.insert(run, before);
    return start;
  }
  return absl::ResourceExhaustedError(
      absl::StrFormat("no free run of 0x%x bytes aligned to 0x%x", bytes, alignment));
}

absl::StatusOr<Hpa> FrameArena::AllocateZeroed(ByteCount bytes, ByteCount alignment) {
  TDP_ASSIGN_OR_RETURN(const Hpa start, Allocate(bytes, alignment));
  memset(PointerTo<void>(start), 0, bytes);
  return start;
}

void FrameArena::Free(Hpa start, ByteCount bytes) {
  AbslMutexLock lock(mutex_);
  const Hpa end = start + bytes;
  TDP_CHECK(start_ <= start && end <= end_);
  auto next = std::find_if(free_.begin(), free_.end(),
                           [start](const Run& run) { return run.start >= start; });
  TDP_CHECK(next == free_.end() || end <= next->start);  // else it is free already
  TDP_CHECK(next == free_.begin() || std::prev(next)->end <= start);
  next = free_.insert(next, {start, end});
  if (auto after = std::next(next); after != free_.end() && after->start == end) {
    next->end = after->end;
    free_.erase(after);
  }
  if (next == free_.begin()) return;
  if (auto before = std::prev(next); before->end == start) {
    before->end = next->end;
    free_.erase(next);
  }
}

ByteCount FrameArena::free_bytes() const {
  AbslMutexLock lock(mutex_);
  ByteCount total = 0;
  for (const Run& run : free_) total += run.end - run.start;
  return total;
}

}  // namespace tdp::vtx
