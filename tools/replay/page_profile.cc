// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/page_profile.h"

#include "absl/base/optimization.h"
#include "tdp/base/address.h"

namespace tdp::tools {
namespace {

constexpr std::array<int, PageProfile::kSizes> kShifts = {0, 9, 18};  // of 4 KiB page numbers

}  // namespace

// Which of the pair a use is of cannot be predicted, so that no branch depends on it.
void PageProfile::Add(absl::Span<const TraceRecord> records) {
  size_t i = 0;
  while (true) {
    const uint64_t first = pair_[0];
    const uint64_t second = pair_[1];
    const size_t begin = i;
    uint64_t current = current_;
    uint64_t changes = 0;
    uint64_t page = 0;
    for (; i < records.size(); ++i) {
      page = records[i].gva().raw() >> kPageShift;
      const uint64_t is_second = page == second ? 1 : 0;
      if (ABSL_PREDICT_FALSE((page != first) & (page != second))) break;
      changes += current ^ is_second;
      current = is_second;
    }
    uses_ += i - begin;
    changes_ += changes;
    current_ = current;
    if (i == records.size()) return;
    AddSlowly(page);
    ++i;
  }
}

inline void PageProfile::Count(size_t size, uint64_t distance) {
  std::vector<uint64_t>& histogram = histograms_[size];
  if (ABSL_PREDICT_TRUE(distance < histogram.size())) {
    ++histogram[distance];
    return;
  }
  if (distance == LruStack::kNew) {
    ++cold_[size];
    return;
  }
  histogram.resize(distance + 1, 0);
  ++histogram[distance];
}

// The uses of the pair: a change between the two is a distance of 1, or of 0 where both are in one
// larger page; every other use is one of 0.
inline void PageProfile::NotePair() {
  on_pair_ += uses_;
  for (size_t size = 0; size < kSizes; ++size) ones_[size] += apart_[size] ? changes_ : 0;
  changed_ |= changes_ != 0;
  uses_ = 0;
  changes_ = 0;
}

void PageProfile::SettleDistances() {
  for (size_t size = 0; size < kSizes; ++size) {
    histograms_[size][0] += on_pair_ - ones_[size] + zeros_[size];
    histograms_[size][1] += ones_[size];
  }
  on_pair_ = 0;
  ones_ = {};
  zeros_ = {};
}

inline uint32_t PageProfile::Find(uint64_t number) {
  const Recent& recent = recent_[number % kRecent];
  return ABSL_PREDICT_TRUE(recent.number == number) ? recent.place : FindInMap(number);
}

uint32_t PageProfile::FindInMap(uint64_t number) {
  const auto next = static_cast<uint32_t>(pages_.size());
  const auto [place, is_new] = places_.try_emplace(number, next);
  if (is_new) {
    Page page;
    page.number = number;
    page.ids[0] = next;
    for (size_t size = 1; size < kSizes; ++size) {
      auto& ids = ids_[size];
      page.ids[size] =
          ids.try_emplace(number >> kShifts[size], static_cast<uint32_t>(ids.size())).first->second;
    }
    pages_.push_back(page);
  }
  recent_[number % kRecent] = {number, place->second};
  return place->second;
}

inline void PageProfile::AddDistances(uint32_t last, uint32_t page) {
  const std::array<uint32_t, kSizes>& ids = pages_[page].ids;
  for (size_t size = 0; size < kSizes; ++size) {
    const uint32_t last_id = last == kNoPage ? kNoPage : pages_[last].ids[size];
    if (last_id == ids[size] && !apart_[size]) {
      ++zeros_[size];  // on top, and both of the pair are it
      continue;
    }
    // The pair was on top all the time; now its order matters.
    if (changed_) stacks_[size].RaiseNext(last_id);
    Count(size, stacks_[size].Touch(ids[size]));
    apart_[size] = last != kNoPage && last_id != ids[size];
  }
}

void PageProfile::AddSlowly(uint64_t number) {
  const uint32_t place = Find(number);
  NotePair();
  AddDistances(pair_places_[current_], place);
  // The page that was used last stays; the other one makes room.
  changed_ = false;
  current_ ^= 1;
  pair_[current_] = number;
  pair_places_[current_] = place;
}

void PageProfile::Settle() {
  NotePair();
  SettleDistances();
}

void PageProfile::AddPageNumbers(size_t size, absl::flat_hash_set<uint64_t>& numbers) const {
  for (const Page& page : pages_) numbers.insert(page.number >> kShifts[size]);
}

void PageProfile::ClearCounts() {
  Settle();
  cold_ = {};
  for (std::vector<uint64_t>& histogram : histograms_) histogram.assign(2, 0);
}

}  // namespace tdp::tools
