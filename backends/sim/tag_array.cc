// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/tag_array.h"

#include <algorithm>
#include <bit>

#include "tdp/base/check.h"

namespace tdp::sim {

TagArray::TagArray(size_t sets, size_t ways, Replacement replacement)
    : sets_(sets),
      ways_(ways),
      mask_(std::has_single_bit(sets) ? sets - 1 : 0),
      replacement_(replacement),
      tags_(sets * ways, 0),
      order_(sets * ways, 0) {
  TDP_CHECK(sets >= 1 && ways >= 1);
}

void TagArray::Touch(size_t first, size_t way) {
  recent_ = first + way;
  if (replacement_ == Replacement::kLru) {
    order_[first + way] = ++clock_;
    return;
  }
  size_t begin = 0;
  size_t end = ways_;
  while (end - begin > 1) {
    const size_t middle = (begin + end + 1) / 2;
    const bool left = way < middle;
    order_[first + middle] = left ? 1 : 0;
    (left ? end : begin) = middle;
  }
}

size_t TagArray::Victim(size_t first) const {
  if (replacement_ == Replacement::kLru) {
    const auto begin = order_.begin() + static_cast<ptrdiff_t>(first);
    return static_cast<size_t>(std::min_element(begin, begin + static_cast<ptrdiff_t>(ways_)) -
                               begin);
  }
  size_t begin = 0;
  size_t end = ways_;
  while (end - begin > 1) {
    const size_t middle = (begin + end + 1) / 2;
    (order_[first + middle] != 0 ? begin : end) = middle;
  }
  return begin;
}

size_t TagArray::Insert(uint64_t index, uint64_t tag) {
  if (tags_.empty()) return kNone;
  const size_t first = SetOf(index) * ways_;
  size_t way = ways_;
  for (size_t i = 0; i < ways_; ++i) {
    if (tags_[first + i] == tag) {
      way = i;
      break;
    }
    if (tags_[first + i] == 0 && way == ways_) way = i;
  }
  if (way == ways_) way = Victim(first);
  if (tags_[first + way] == 0) ++live_;
  tags_[first + way] = tag;
  Touch(first, way);
  return first + way;
}

void TagArray::Erase(uint64_t index, uint64_t tag) {
  if (tags_.empty()) return;
  const size_t first = SetOf(index) * ways_;
  for (size_t way = 0; way < ways_; ++way) {
    if (tags_[first + way] == tag) EraseAt(first + way);
  }
}

void TagArray::Clear() {
  std::fill(tags_.begin(), tags_.end(), 0);
  live_ = 0;
}

}  // namespace tdp::sim
