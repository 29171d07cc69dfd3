// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A range of host virtual memory, by whole pages.

#ifndef TDP_BASE_HOST_RANGE_H_
#define TDP_BASE_HOST_RANGE_H_

#include <algorithm>
#include <cstdint>

#include "tdp/base/address.h"

namespace tdp {

// A range of whole pages. It is kept as page numbers, of which there are 2^52: so a range may reach
// up to the last byte of the address space, where kernels have their memory, and its end is still a
// number.
class HostRange {
 public:
  // Makes a range without a page.
  constexpr HostRange() = default;
  // Makes [start, start + size): whole pages that do not wrap around; the sum may be 2^64.
  constexpr HostRange(Hva start, ByteCount size)
      : first_(start.raw() >> kPageShift), end_(first_ + (size >> kPageShift)) {}
  // Returns the pages from number `first` on and below `end`; none if those cross.
  static constexpr HostRange OfPages(uint64_t first, uint64_t end) {
    HostRange range;
    range.first_ = first;
    range.end_ = std::max(first, end);
    return range;
  }

  constexpr bool is_empty() const { return first_ == end_; }
  constexpr Hva start() const { return Hva(first_ << kPageShift); }
  constexpr PageCount pages() const { return PageCount(end_ - first_); }
  // These are page numbers: of the first page, and of the one after the last.
  constexpr uint64_t first_page() const { return first_; }
  constexpr uint64_t end_page() const { return end_; }

  constexpr bool Contains(Hva hva) const {
    const uint64_t page = hva.raw() >> kPageShift;
    return page >= first_ && page < end_;
  }
  // Returns whether all of `other`, which is not empty, lies inside.
  constexpr bool Contains(HostRange other) const {
    return other.first_ >= first_ && other.end_ <= end_;
  }
  constexpr bool Overlaps(HostRange other) const {
    return std::max(first_, other.first_) < std::min(end_, other.end_);
  }
  constexpr HostRange Intersection(HostRange other) const {
    return OfPages(std::max(first_, other.first_), std::min(end_, other.end_));
  }
  // Returns the least range that has both, neither of which is empty.
  constexpr HostRange Hull(HostRange other) const {
    return OfPages(std::min(first_, other.first_), std::max(end_, other.end_));
  }

  friend constexpr bool operator==(const HostRange&, const HostRange&) = default;

 private:
  uint64_t first_ = 0;
  uint64_t end_ = 0;
};

}  // namespace tdp

#endif  // TDP_BASE_HOST_RANGE_H_
