// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Names frames that were written, 64 at a time: so they go from the tables to the dirty logs.

#ifndef TDP_MMU_DIRTY_WRITTEN_FRAMES_H_
#define TDP_MMU_DIRTY_WRITTEN_FRAMES_H_

#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/mmu/format/frame_range.h"

namespace tdp {

struct WrittenFrames {
  static constexpr uint64_t kFrames = 64;

  Gfn base;           // a multiple of 64
  uint64_t bits = 0;  // bit i: `base` + i was written

  // Returns the bits of those that lie in `range`.
  uint64_t Inside(const FrameRange& range) const {
    uint64_t inside = bits;
    if (range.first > base) {
      const uint64_t before = (range.first - base).raw();
      inside = before >= kFrames ? 0 : inside & (~uint64_t{0} << before);
    }
    if (range.end < base + PageCount(kFrames)) {
      const uint64_t first_after = range.end > base ? (range.end - base).raw() : 0;
      inside &= (uint64_t{1} << first_after) - 1;
    }
    return inside;
  }
};

}  // namespace tdp

#endif  // TDP_MMU_DIRTY_WRITTEN_FRAMES_H_
