// SPDX-License-Identifier: Apache-2.0
//
// A value for each guest frame, kept as runs of frames that have the same.

#ifndef TDP_MMU_FRAME_MAP_H_
#define TDP_MMU_FRAME_MAP_H_

#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/frame_range.h"

namespace tdp {

// Immutable; a change makes another one. A lookup takes O(log n) of the number of runs, a change
// O(n).
template <typename T>
class FrameMap {
 public:
  struct Run {
    Gfn first;
    T value;
  };

  // `value` everywhere.
  explicit FrameMap(T value) : runs_({{Gfn(0), value}}) {}
  // `runs` are not empty, begin at frame 0 and ascend; neighbours differ.
  explicit FrameMap(std::vector<Run> runs) : runs_(std::move(runs)) {}

  const T& At(Gfn gfn) const { return Find(gfn)->value; }
  // The first frame after `gfn` that has another value; the end of all frames if none has.
  Gfn EndOfRun(Gfn gfn) const {
    const auto next = Find(gfn) + 1;
    return next == runs_.end() ? kEnd : next->first;
  }
  // Whether all the frames of the leaf of `level` around `gfn` have one value.
  bool IsUniform(Gfn gfn, Level level) const {
    const Gfn first = gfn.AlignDown(level.pages());
    return EndOfRun(first) >= first + level.pages();
  }
  // Whether every frame has `value`.
  bool IsAll(const T& value) const { return runs_.size() == 1 && runs_[0].value == value; }
  size_t runs() const { return runs_.size(); }
  // Whether some frame has a value for which `predicate(value)` holds.
  template <typename Predicate>
  bool Any(Predicate predicate) const {
    return std::any_of(runs_.begin(), runs_.end(),
                       [&](const Run& run) { return predicate(run.value); });
  }

  // This map with `change(value)` in place of each value in `range`, which is not empty.
  template <typename Change>
  FrameMap With(FrameRange range, Change change) const {
    std::vector<Run> runs;
    const auto add = [&runs](Gfn first, T value) {
      if (runs.empty() || !(runs.back().value == value)) runs.push_back({first, value});
    };
    for (size_t i = 0; i < runs_.size(); ++i) {
      const auto& [first, value] = runs_[i];
      const Gfn end = i + 1 < runs_.size() ? runs_[i + 1].first : kEnd;
      if (first < range.first || first >= range.end) add(first, value);
      const Gfn inside = std::max(first, range.first);
      if (inside < std::min(end, range.end)) add(inside, change(value));
      if (first < range.end && range.end < end) add(range.end, value);
    }
    return FrameMap(std::move(runs));
  }

 private:
  static constexpr Gfn kEnd{~uint64_t{0} >> kPageShift};

  typename std::vector<Run>::const_iterator Find(Gfn gfn) const {
    return std::upper_bound(runs_.begin(), runs_.end(), gfn,
                            [](Gfn at, const Run& run) { return at < run.first; }) -
           1;
  }

  std::vector<Run> runs_;
};

}  // namespace tdp

#endif  // TDP_MMU_FRAME_MAP_H_
