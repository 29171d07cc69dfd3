// SPDX-License-Identifier: Apache-2.0

#include "tdp/memslot/flat_view.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/numeric/int128.h"
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

  void FillHoles(const Region& region, Position base, const Clip& clip, bool read_only) {
    Position at = clip.start;
    size_t i = FirstEndingAfter(at);
    while (at < clip.end) {
      const Position next =
          i < ranges_.size() ? std::min(Position(ranges_[i].start), clip.end) : clip.end;
      if (at < next) {
        ranges_.insert(ranges_.begin() + static_cast<ptrdiff_t>(i),
                       {static_cast<uint64_t>(at), static_cast<RegionSize>(next - at), &region,
                        static_cast<uint64_t>(at - base), read_only});
        ++i;
      }
      if (i == ranges_.size()) return;
      at = PositionOf(ranges_[i].end());
      ++i;
    }
  }

  size_t FirstEndingAfter(Position at) const {
    const auto found =
        std::partition_point(ranges_.begin(), ranges_.end(),
                             [&](const FlatRange& range) { return PositionOf(range.end()) <= at; });
    return static_cast<size_t>(found - ranges_.begin());
  }

  std::vector<FlatRange> ranges_;  // ascending, apart
};

}  // namespace

std::vector<FlatRange> Flatten(const Region& root) {
  Renderer renderer;
  renderer.Render(root, 0, Clip{0, PositionOf(kWholeAddressSpace)}, false);
  return std::move(renderer).Joined();
}

}  // namespace tdp
