// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/page_counts.h"

#include "absl/base/optimization.h"
#include "tdp/base/address.h"

namespace tdp::tools {

void PageCounts::Add(absl::Span<const TraceRecord> records) {
  const auto count = [this](std::vector<Recent>& table, TraceRecord record) {
    const uint64_t number = record.gva().raw() >> kPageShift;
    Recent& recent = table[number % kRecent];
    if (ABSL_PREDICT_FALSE(recent.number != number)) Replace(recent, number);
    ++recent.uses;
  };
  size_t i = 0;
  for (; i + 1 < records.size(); i += 2) {
    count(recent_[0], records[i]);
    count(recent_[1], records[i + 1]);
  }
  if (i < records.size()) count(recent_[0], records[i]);
}

void PageCounts::Replace(Recent& recent, uint64_t number) {
  if (recent.uses != 0) accesses_[recent.number] += recent.uses;
  recent = {number, 0};
}

void PageCounts::Clear() {
  for (std::vector<Recent>& table : recent_) table.assign(kRecent, {});
  accesses_.clear();
}

absl::flat_hash_map<uint64_t, uint64_t> PageCounts::accesses() const {
  absl::flat_hash_map<uint64_t, uint64_t> accesses = accesses_;
  for (const std::vector<Recent>& table : recent_) {
    for (const Recent& recent : table) {
      if (recent.uses != 0) accesses[recent.number] += recent.uses;
    }
  }
  return accesses;
}

}  // namespace tdp::tools
