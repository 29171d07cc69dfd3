// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A range of guest frames, and which entries of a table it touches.

#ifndef TDP_MMU_FORMAT_FRAME_RANGE_H_
#define TDP_MMU_FORMAT_FRAME_RANGE_H_

#include "tdp/base/address.h"
#include "tdp/base/level.h"

namespace tdp {

// Returns what a whole table of `level` maps.
constexpr PageCount TablePages(Level level) {
  return PageCount(level.pages().raw() * Level::kEntries);
}

// The frames from `first` on and below `end`.
struct FrameRange {
  Gfn first;
  Gfn end;

  constexpr bool is_empty() const { return first >= end; }
  constexpr bool is_one_frame() const { return end - first == PageCount(1); }
  constexpr bool Holds(Gfn base, PageCount pages) const {
    return base >= first && base + pages <= end;
  }
  // Return the first and the last index that a table of `level` from frame `base` on has in the
  // range. Some of the table's frames are in it.
  constexpr int FirstIndex(Gfn base, Level level) const {
    return first <= base ? 0 : level.IndexOf(first);
  }
  constexpr int LastIndex(Gfn base, Level level) const {
    return end >= base + TablePages(level) ? Level::kEntries - 1
                                           : level.IndexOf(end - PageCount(1));
  }
};

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_FRAME_RANGE_H_
