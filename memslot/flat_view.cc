// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/flat_view.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/numeric/int128.h"
#include "tdp/base/ordered_map.h"
#include "tdp/memslot/region.h"

namespace tdp {
namespace {

// Bases can lie below zero where an alias shows the end of its target.
using Position = absl::int128;

Position PositionOf(RegionSize size) { return static_cast<Position>(size); }

struct Clip {
  Position start;
  Position end;

  bool is_empty() const { return start >= end; }
  Clip CutTo(Position low, Position high) const {
    return {std::max(start, low), std::min(end, high)};
  }
};

class Renderer {
 public:
  // Renders `region` as if it began at `base`, as far as `clip` shows it, below what is there
  // already.
  void Render(const Region& region, Position base, Clip clip, bool read_only) {
    if (!region.enabled()) return;
    clip = clip.CutTo(base, base + PositionOf(region.size()));
    if (clip.is_empty()) return;
    read_only |= region.read_only();
    if (region.is_alias()) {
      Render(*region.alias_of(), base - Position(region.alias_offset()), clip, read_only);
      return;
    }
    for (const Region* child : region.children()) {
      Render(*child, base + Position(child->offset()), clip, read_only);
    }
    if (!region.is_container()) FillHoles(region, base, clip, read_only);
  }

  std::vector<FlatRange> Joined() && {
    std::sort(ranges_.begin(), ranges_.end(),
              [](const FlatRange& a, const FlatRange& b) { return a.start < b.start; });
    std::vector<FlatRange> joined;
    for (const FlatRange& range : ranges_) {
      if (!joined.empty() && Continues(joined.back(), range)) {
        joined.back().size += range.size;
      } else {
        joined.push_back(range);
      }
    }
    return joined;
  }

 private:
  static bool Continues(const FlatRange& first, const FlatRange& next) {
    return first.end() == RegionSize(next.start) && first.region == next.region &&
           RegionSize(first.offset) + first.size == RegionSize(next.offset) &&
           first.read_only == next.read_only;
  }

  // Shows `region` where nothing shows yet. What shows already is kept as few, long intervals, each
  // of which is joined to others when it is come by: however often a place is shown, the cost is
  // one look.
  void FillHoles(const Region& region, Position base, const Clip& clip, bool read_only) {
    const auto show = [&](Position start, Position end) {
      ranges_.push_back({static_cast<uint64_t>(start), static_cast<RegionSize>(end - start),
                         &region, static_cast<uint64_t>(start - base), read_only});
    };
    auto next = covered_.upper_bound(clip.start);
    if (next != covered_.begin() && std::prev(next)->second >= clip.start) --next;
    Clip joined = clip;
    Position at = clip.start;
    while (next != covered_.end() && next->first <= clip.end) {
      if (at < next->first) show(at, next->first);
      at = std::max(at, next->second);
      joined = {std::min(joined.start, next->first), std::max(joined.end, next->second)};
      next = covered_.erase(next);
    }
    if (at < clip.end) show(at, clip.end);
    covered_.emplace(joined.start, joined.end);
  }

  std::vector<FlatRange> ranges_;           // apart, in the order in which they were found
  OrderedMap<Position, Position> covered_;  // by start: ends; neighbours are joined
};

}  // namespace

std::vector<FlatRange> Flatten(const Region& root) {
  Renderer renderer;
  renderer.Render(root, 0, Clip{0, PositionOf(kWholeAddressSpace)}, false);
  return std::move(renderer).Joined();
}

}  // namespace tdp
