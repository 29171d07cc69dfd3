// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/region_reach.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp {

RegionReach::RegionReach(Region* start) {
  Collect(start);
  std::reverse(order_.begin(), order_.end());
  for (size_t i = 0; i < order_.size(); ++i) places_[order_[i]] = i;
}

template <typename Visit>
void RegionReach::ForEachAbove(const Region& region, const Visit& visit) const {
  if (region.parent_ != nullptr) visit(region.parent_);
  for (Region* alias : region.aliases_) visit(alias);
}

// Recursion goes no deeper than a tree may be high. A region is put down after those that render
// it.
void RegionReach::Collect(Region* region) {
  if (!places_.emplace(region, 0).second) return;
  ForEachAbove(*region, [this](Region* above) { Collect(above); });
  order_.push_back(region);
}

absl::Status RegionReach::CheckLimits(int height, uint64_t shown, std::string_view what) {
  if (height > kMaxRegionDepth) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: the tree would be deeper than %d regions", what, kMaxRegionDepth));
  }
  if (shown > kMaxRegionsShown) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s: more than %d regions would be shown", what, kMaxRegionsShown));
  }
  return absl::OkStatus();
}

std::vector<uint64_t> RegionReach::ShownMore(const Region& child) const {
  std::vector<uint64_t> more(order_.size());
  more[0] = child.shown_;
  for (size_t i = 0; i < order_.size(); ++i) {
    // All that follows is too much as well, and might wrap around.
    if (order_[i]->shown_ + more[i] > kMaxRegionsShown) break;
    ForEachAbove(*order_[i], [&](Region* above) { more[places_.at(above)] += more[i]; });
  }
  return more;
}

std::vector<int> RegionReach::Heights(const Region& child) const {
  std::vector<int> heights;
  for (const Region* region : order_) heights.push_back(region->height_);
  heights[0] = std::max(heights[0], child.height_ + 1);
  for (size_t i = 0; i < order_.size(); ++i) {
    ForEachAbove(*order_[i], [&](Region* above) {
      int& height = heights[places_.at(above)];
      height = std::max(height, heights[i] + 1);
    });
  }
  return heights;
}

absl::Status RegionReach::CheckAdding(const Region& child, std::string_view what) const {
  const std::vector<uint64_t> more = ShownMore(child);
  const std::vector<int> heights = Heights(child);
  for (size_t i = 0; i < order_.size(); ++i) {
    TDP_RETURN_IF_ERROR(CheckLimits(heights[i], order_[i]->shown_ + more[i], what));
  }
  return absl::OkStatus();
}

void RegionReach::Add(const Region& child) {
  const std::vector<uint64_t> more = ShownMore(child);
  const std::vector<int> heights = Heights(child);
  for (size_t i = 0; i < order_.size(); ++i) {
    order_[i]->shown_ += more[i];
    order_[i]->height_ = heights[i];
  }
}

// All that is shown now is within the limit, so what goes is counted to the end.
void RegionReach::Remove(const Region& child) {
  std::vector<uint64_t> less(order_.size());
  less[0] = child.shown_;
  for (size_t i = 0; i < order_.size(); ++i) {
    Region& region = *order_[i];
    ForEachAbove(region, [&](Region* above) { less[places_.at(above)] += less[i]; });
    region.shown_ -= less[i];
    region.height_ = region.is_alias() ? region.spec_.alias_of->height_ + 1 : 1;
    for (const Region* below : region.children_) {
      region.height_ = std::max(region.height_, below->height_ + 1);
    }
  }
}

}  // namespace tdp
