// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/page_profile.h"

#include "absl/base/optimization.h"
#include "tdp/base/address.h"

namespace tdp::tools {
namespace {

constexpr uint64_t kNoPage = ~uint64_t{0};
constexpr std::array<int, PageProfile::kSizes> kShifts = {0, 9, 18};  // of 4 KiB page numbers

}  // namespace

void PageProfile::Add(absl::Span<const TraceRecord> records) {
  for (const TraceRecord record : records) {
    const uint64_t page = record.gva().raw() >> kPageShift;
    if (ABSL_PREDICT_FALSE(page != pair_[current_])) {
      if (page != pair_[current_ ^ 1]) {
        AddSlowly(page);
        continue;
      }
      current_ ^= 1;
      changed_ = true;
      ++changes_;
    }
    ++uses_[current_];
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
void PageProfile::NotePair() {
  for (size_t i = 0; counts_ && i < 2; ++i) {
    if (uses_[i] != 0) NoteAccesses(pair_[i], uses_[i]);
  }
  on_pair_ += uses_[0] + uses_[1];
  for (size_t size = 0; size < kSizes; ++size) ones_[size] += apart_[size] ? changes_ : 0;
  uses_ = {};
  changes_ = 0;
}

void PageProfile::SettleDistances() {
  for (size_t size = 0; distances_ && size < kSizes; ++size) {
    histograms_[size][0] += on_pair_ - ones_[size] + zeros_[size];
    histograms_[size][1] += ones_[size];
  }
  on_pair_ = 0;
  ones_ = {};
  zeros_ = {};
}

void PageProfile::NoteAccesses(uint64_t page, uint64_t uses) {
  Recent& recent = recent_[page % kRecent];
  if (ABSL_PREDICT_FALSE(recent.page != page)) {
    if (recent.uses != 0) accesses_[recent.page] += recent.uses;
    recent = {page, 0};
  }
  recent.uses += uses;
}

void PageProfile::AddDistances(uint64_t last, uint64_t page) {
  for (size_t size = 0; size < kSizes; ++size) {
    const uint64_t last_of_size = last >> kShifts[size];
    const uint64_t page_of_size = page >> kShifts[size];
    if (last_of_size == page_of_size && !apart_[size]) {
      ++zeros_[size];  // on top, and both of the pair are it
      continue;
    }
    // The pair was on top all the time; now its order matters.
    if (changed_) stacks_[size].RaiseNext(last_of_size);
    Count(size, stacks_[size].Touch(page_of_size));
    apart_[size] = last != kNoPage && last_of_size != page_of_size;
  }
}

void PageProfile::AddSlowly(uint64_t page) {
  NotePair();
  if (distances_) AddDistances(pair_[current_], page);
  if (counts_) NoteAccesses(page, 1);
  // The page that was used last stays; the other one makes room.
  changed_ = false;
  current_ ^= 1;
  pair_[current_] = page;
}

void PageProfile::Settle() {
  NotePair();
  SettleDistances();
  for (Recent& recent : recent_) {
    if (recent.uses != 0) accesses_[recent.page] += recent.uses;
    recent.uses = 0;
  }
}

void PageProfile::ClearCounts() {
  Settle();
  accesses_.clear();
  cold_ = {};
  for (std::vector<uint64_t>& histogram : histograms_) histogram.assign(2, 0);
}

}  // namespace tdp::tools
