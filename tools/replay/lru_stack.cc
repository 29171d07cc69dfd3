// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/lru_stack.h"

#include <algorithm>

namespace tdp::tools {

// `page` is on top already, and `last` has left the array for it; the two are one if it was empty.
uint64_t LruStack::TouchDeep(uint64_t page, uint64_t last) {
  uint64_t distance = kNew;
  if (const auto place = place_.find(page); place != place_.end()) {
    distance = kTop + place_.size() - CountUntil(place->second);
    Add(place->second, ~uint32_t{0});
    place_.erase(place);
  }
  if (top_size_ == kTop) {
    PushDown(last);
  } else {
    top_[top_size_++] = last;
  }
  return distance;
}

void LruStack::PushDown(uint64_t page) {
  if (now_ + 1 >= tree_.size()) Renumber();
  ++now_;
  page_at_[now_] = page;
  place_[page] = now_;
  Add(now_, 1);
}

// Adds `by`, modulo 2^32, at `time`.
void LruStack::Add(size_t time, uint32_t by) {
  for (; time < tree_.size(); time += time & (~time + 1)) tree_[time] += by;
}

// How many pages have this time or an earlier one.
uint64_t LruStack::CountUntil(size_t time) const {
  uint64_t count = 0;
  for (; time != 0; time &= time - 1) count += tree_[time];
  return count;
}

// Closes the gaps that pages left behind, and makes room for as many uses as there are pages.
void LruStack::Renumber() {
  std::vector<uint64_t> live;
  live.reserve(place_.size());
  for (size_t time = 1; time <= now_; ++time) {
    const auto place = place_.find(page_at_[time]);
    if (place != place_.end() && place->second == time) live.push_back(page_at_[time]);
  }
  const size_t room = std::max<size_t>(1024, 2 * live.size() + 2);
  tree_.assign(room, 0);
  page_at_.assign(room, 0);
  now_ = 0;
  for (uint64_t page : live) {
    ++now_;
    page_at_[now_] = page;
    place_[page] = now_;
    Add(now_, 1);
  }
}

}  // namespace tdp::tools
