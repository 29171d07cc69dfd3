// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/flat_map.h"

#include <algorithm>
#include <utility>

namespace tdp::judge {

size_t FlatMap::LowerBound(uint64_t gpa) const {
  const auto it = std::partition_point(extents_.begin(), extents_.end(),
                                       [gpa](const Extent& extent) { return extent.end <= gpa; });
  return static_cast<size_t>(it - extents_.begin());
}

const Extent* FlatMap::Find(uint64_t gpa) const {
  const size_t i = LowerBound(gpa);
  return i < extents_.size() && extents_[i].begin <= gpa ? &extents_[i] : nullptr;
}

bool FlatMap::CoversAll(uint64_t begin, uint64_t end) const {
  for (size_t i = LowerBound(begin); begin < end; ++i) {
    if (i == extents_.size() || extents_[i].begin > begin) return false;
    begin = extents_[i].end;
  }
  return true;
}

bool FlatMap::CoversSome(uint64_t begin, uint64_t end) const {
  const size_t i = LowerBound(begin);
  return i < extents_.size() && extents_[i].begin < end;
}

bool FlatMap::CutsMapping(uint64_t begin, uint64_t end) const {
  for (size_t i = LowerBound(begin); i < extents_.size() && extents_[i].begin < end; ++i) {
    if (extents_[i].map_begin < begin || extents_[i].map_end > end) return true;
  }
  return false;
}

void FlatMap::SplitAt(uint64_t gpa) {
  const size_t i = LowerBound(gpa);
  if (i == extents_.size() || extents_[i].begin >= gpa) return;
  Extent tail = extents_[i];
  tail.hpa = tail.HpaOf(gpa);
  tail.begin = gpa;
  extents_[i].end = gpa;
  extents_.insert(extents_.begin() + static_cast<ptrdiff_t>(i) + 1, tail);
}

void FlatMap::Unmap(uint64_t begin, uint64_t end) {
  SplitAt(begin);
  SplitAt(end);
  const auto first = extents_.begin() + static_cast<ptrdiff_t>(LowerBound(begin));
  const auto last = extents_.begin() + static_cast<ptrdiff_t>(LowerBound(end));
  extents_.erase(first, last);
}

void FlatMap::Map(const Extent& extent, bool keep) {
  if (!keep) {
    Unmap(extent.begin, extent.end);
    const size_t at = LowerBound(extent.begin);
    extents_.insert(extents_.begin() + static_cast<ptrdiff_t>(at), extent);
    return;
  }
  uint64_t begin = extent.begin;
  while (begin < extent.end) {
    const size_t i = LowerBound(begin);
    const uint64_t next = i < extents_.size() ? extents_[i].begin : extent.end;
    if (next <= begin) {
      begin = extents_[i].end;
      continue;
    }
    Extent hole = extent;
    hole.begin = begin;
    hole.hpa = extent.HpaOf(begin);
    hole.end = std::min(next, extent.end);
    extents_.insert(extents_.begin() + static_cast<ptrdiff_t>(i), hole);
    begin = hole.end;
  }
}

void FlatMap::Protect(uint64_t begin, uint64_t end, unsigned rights) {
  SplitAt(begin);
  SplitAt(end);
  for (size_t i = LowerBound(begin); i < extents_.size() && extents_[i].begin < end; ++i) {
    extents_[i].rights = rights;
  }
}

bool RangeSet::Contains(uint64_t address) const { return Overlaps(address, address + 1); }

bool RangeSet::Overlaps(uint64_t begin, uint64_t end) const {
  return std::any_of(ranges_.begin(), ranges_.end(),
                     [&](const Range& range) { return range.begin < end && begin < range.end; });
}

void RangeSet::Add(uint64_t begin, uint64_t end) {
  Remove(begin, end);
  ranges_.push_back({begin, end});
}

void RangeSet::Remove(uint64_t begin, uint64_t end) {
  std::vector<Range> left;
  for (const Range& range : ranges_) {
    if (range.begin < std::min(begin, range.end)) {
      left.push_back({range.begin, std::min(begin, range.end)});
    }
    if (std::max(end, range.begin) < range.end) {
      left.push_back({std::max(end, range.begin), range.end});
    }
  }
  ranges_ = std::move(left);
}

}  // namespace tdp::judge
