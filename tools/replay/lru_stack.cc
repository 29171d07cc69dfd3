// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/lru_stack.h"

#include <algorithm>

namespace tdp::tools {
namespace {

// Written out, since the oldest x86 CPUs that this runs on have no instruction for it.
uint32_t CountBits(uint64_t word) {
  word -= word >> 1 & 0x5555555555555555;
  word = (word & 0x3333333333333333) + (word >> 2 & 0x3333333333333333);
  word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0f;
  return static_cast<uint32_t>(word * 0x0101010101010101 >> 56);
}

}  // namespace

// `page` is on top already, and `last` has left the array for it: kNone while there was room.
uint64_t LruStack::TouchDeep(uint32_t page, uint32_t last) {
  uint64_t distance = kNew;
  if (page == time_.size()) {
    time_.push_back(kInTop);
  } else {
    const uint32_t time = time_[page];
    // The page itself is among those counted, in place of the one that has just left the array.
    distance = kTop + CountFrom(time) - 1;
    left_[time / kBits] &= ~(uint64_t{1} << time % kBits);
    Count(time / kBits, ~uint32_t{0});
    --below_;
    time_[page] = kInTop;
  }
  if (last != kNone) PushDown(last);
  return distance;
}

void LruStack::PushDown(uint32_t page) {
  if (now_ == page_at_.size()) Renumber();
  time_[page] = static_cast<uint32_t>(now_);
  page_at_[now_] = page;
  left_[now_ / kBits] |= uint64_t{1} << now_ % kBits;
  Count(now_ / kBits, 1);
  ++below_;
  ++now_;
}

void LruStack::Count(size_t word, uint32_t by) {
  for (++word; word < tree_.size(); word += word & (~word + 1)) tree_[word] += by;
}

uint64_t LruStack::CountFrom(size_t time) const {
  const size_t word = time / kBits;
  uint32_t before = CountBits(left_[word] & ((uint64_t{1} << time % kBits) - 1));
  for (size_t i = word; i != 0; i &= i - 1) before += tree_[i];
  return below_ - before;
}

// Closes the gaps that pages left behind, and makes room for three times as many uses as there are
// pages.
void LruStack::Renumber() {
  size_t live = 0;
  for (size_t time = 0; time < now_; ++time) {
    if ((left_[time / kBits] >> time % kBits & 1) == 0) continue;
    const uint32_t page = page_at_[time];
    time_[page] = static_cast<uint32_t>(live);
    page_at_[live++] = page;
  }
  const size_t words = std::max<size_t>(4096, 4 * live) / kBits + 1;
  page_at_.resize(words * kBits);
  left_.assign(words, 0);
  tree_.assign(words + 1, 0);
  for (size_t time = 0; time < live; ++time) left_[time / kBits] |= uint64_t{1} << time % kBits;
  for (size_t word = 1; word <= words; ++word) {
    tree_[word] += CountBits(left_[word - 1]);
    const size_t next = word + (word & (~word + 1));
    if (next <= words) tree_[next] += tree_[word];
  }
  now_ = live;
}

}  // namespace tdp::tools
