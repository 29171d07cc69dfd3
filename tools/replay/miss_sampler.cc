// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/miss_sampler.h"

#include <algorithm>
#include <cmath>

#include "tdp/base/address.h"
#include "tdp/tools/replay/page_filter.h"

namespace tdp::tools {
namespace {

constexpr int kLargePageShift = 21;
using SmallPageFilter = PageFilter<kPageShift>;
using LargePageFilter = PageFilter<kLargePageShift>;

void AddAt(std::vector<uint64_t>& counts, size_t place, uint64_t count) {
  if (place >= counts.size()) counts.resize(place + 1, 0);
  counts[place] += count;
}

uint64_t At(const std::vector<uint64_t>& counts, size_t place) {
  return place < counts.size() ? counts[place] : 0;
}

}  // namespace

void MissSampler::Add(absl::Span<const TraceRecord> records) {
  accesses_ += records.size();
  SmallPageFilter::ForEach(records, [this](uint64_t page) { TouchFar(far_[0], page); });
  if (chooses_large_) {
    LargePageFilter::ForEach(records, [this](uint64_t page) { TouchFar(far_[1], page); });
  }
  while (!records.empty()) {
    if (before_ + left_ + after_ == 0) BeginStretch();
    uint64_t& next = before_ != 0 ? before_ : left_ != 0 ? left_ : after_;
    const auto piece = records.first(std::min<uint64_t>(records.size(), next));
    if (before_ == 0 && left_ != 0) AddToStretch(piece);
    records.remove_prefix(piece.size());
    next -= piece.size();
    if (before_ + left_ == 0 && stretch_.has_value()) EndStretch();
  }
}

void MissSampler::AddToStretch(absl::Span<const TraceRecord> records) {
  if (!stretch_.has_value()) stretch_.emplace();
  stretch_->Add(records);
}

uint32_t MissSampler::IdOf(Far& far, uint64_t page) {
  Far::Recent& recent = far.recent[page % far.recent.size()];
  if (recent.page != page) {
    const auto next = static_cast<uint32_t>(far.ids.size());
    recent = {page, far.ids.try_emplace(page, next).first->second};
  }
  return recent.id;
}

void MissSampler::TouchFar(Far& far, uint64_t page) {
  if (page == far.last) {
    ++far.uses[0];
    return;
  }
  far.last = page;
  const uint64_t distance = far.stack.Touch(IdOf(far, page));
  if (distance == LruStack::kNew) {
    ++far.cold;
    AddAt(far.uses, 0, 0);
  } else {
    AddAt(far.uses, distance, 1);
  }
}

// At a random place among those for which it stands.
void MissSampler::BeginStretch() {
  apart_ = std::min(kMostApart, 1 + ++stretches_);
  before_ = random_() % apart_ * kStretch;
  left_ = kStretch;
  after_ = (apart_ - 1) * kStretch - before_;
  from_start_ = false;
}

void MissSampler::EndStretch() {
  stretch_->Settle();
  for (size_t size = 0; size < kSizes; ++size) {
    Near& near = near_[size];
    const DistanceCounts seen = stretch_->counts(size);
    for (size_t distance = 0; distance < seen.uses.size(); ++distance) {
      if (seen.uses[distance] == 0) continue;
      AddAt(near.uses, distance, apart_ * seen.uses[distance]);
      near.all += apart_ * seen.uses[distance];
    }
    near.all += apart_ * seen.cold;
    if (from_start_) near.endless += apart_ * seen.cold;
    // The page that came in as number n was last used before n others, at least.
    for (uint64_t n = 0; !from_start_ && n < seen.cold; ++n) AddAt(near.censored, n, apart_);
    stretch_->AddPageNumbers(size, near.pages);
  }
  stretch_.reset();
  chooses_large_ |= near_[1].pages.size() > kManyLargePages;
}

void MissSampler::Settle() {
  if (stretch_.has_value()) EndStretch();
}

void MissSampler::ClearCounts() {
  stretch_.reset();
  for (Near& near : near_) near = Near();
  for (Far& far : far_) {
    std::fill(far.uses.begin(), far.uses.end(), 0);
    far.cold = 0;
  }
  accesses_ = 0;
  stretches_ = 0;
  apart_ = 1;
  from_start_ = false;
  before_ = 0;
  left_ = kFirstStretch;
  after_ = 0;
}

DistanceCounts MissSampler::Estimate(size_t size) const {
  const Near& near = near_[size];
  DistanceCounts counts;
  counts.pages = near.pages.size();
  const Far* const far = size == 0 || (size == 1 && chooses_large_) ? &far_[size] : nullptr;
  if (far != nullptr && stretches_ != 0) {
    counts.pages = std::max(counts.pages, SmallPageFilter::kOneOf * far->ids.size());
  }
  if (near.all == 0) {
    counts.cold = accesses_;
    return counts;
  }
  // `share` of the accesses have a distance of at least `distance`. Beyond the distance at which
  // half of those are censored, the stretches say too little.
  double share = 1;
  double seen = static_cast<double>(near.all);
  size_t distance = 0;
  uint64_t rest = accesses_;
  const size_t end = std::max(near.uses.size(), near.censored.size());
  for (; distance < end; ++distance) {
    seen -= static_cast<double>(At(near.censored, distance));
    if (seen <= 0 || 2 * seen < share * static_cast<double>(near.all)) break;
    const auto here = static_cast<double>(At(near.uses, distance));
    share *= 1 - here / seen;
    seen -= here;
    const uint64_t longer =
        std::min(rest, static_cast<uint64_t>(std::llround(share * static_cast<double>(accesses_))));
    AddAt(counts.uses, distance, rest - longer);
    rest = longer;
  }
  const uint64_t cold = far == nullptr || stretches_ == 0
                            ? std::max<uint64_t>(near.endless, near.pages.size())
                            : std::max<uint64_t>(SmallPageFilter::kOneOf * far->cold, near.endless);
  counts.cold = std::min(rest, cold);
  rest -= counts.cold;
  // The longest distances first, since there are more of the shorter ones than fit where the two
  // ways to sample disagree.
  for (size_t n = far == nullptr ? 0 : far->uses.size(); n-- > 0 && rest != 0;) {
    const size_t scaled = n * SmallPageFilter::kOneOf;
    if (scaled < distance) break;
    const uint64_t uses = std::min(rest, SmallPageFilter::kOneOf * far->uses[n]);
    if (uses != 0) AddAt(counts.uses, scaled, uses);
    rest -= uses;
  }
  if (rest != 0) AddAt(counts.uses, distance, rest);
  return counts;
}

}  // namespace tdp::tools
