// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/page_watch.h"

#include <algorithm>

#include "tdp/base/address.h"

namespace tdp::tools {

PageWatch::PageWatch(const Options& options, size_t takers)
    : options_(options), warmup_left_(options.warmup), takers_(takers) {
  for (size_t i = 0; i < takers; ++i) {
    if (options.counts) takers_[i].counts.emplace();
    if (options.sampled) takers_[i].sampler.emplace(options.seed + i);
    if (options.exact) takers_[i].profile.emplace();
  }
}

void PageWatch::Add(const Round& round) {
  if (idle()) return;
  for (size_t i = 0; i < round.size(); ++i) {
    absl::Span<const TraceRecord> batch = round[i];
    if (warmup_left_ != 0) {
      const auto warm = batch.first(std::min<uint64_t>(warmup_left_, batch.size()));
      AddBatch(takers_[i], warm);
      batch.remove_prefix(warm.size());
      warmup_left_ -= warm.size();
      if (warmup_left_ == 0) EndWarmup();
    }
    AddBatch(takers_[i], batch);
  }
}

void PageWatch::AddBatch(Taker& taker, absl::Span<const TraceRecord> batch) const {
  if (options_.counts) taker.counts->Add(batch);
  if (options_.sampled) taker.sampler->Add(batch);
  if (options_.exact) taker.profile->Add(batch);
}

void PageWatch::EndWarmup() {
  for (Taker& taker : takers_) {
    if (options_.counts) taker.counts->Clear();
    if (options_.sampled) taker.sampler->ClearCounts();
    if (options_.exact) taker.profile->ClearCounts();
  }
}

absl::flat_hash_map<uint64_t, uint64_t> PageWatch::Accesses() const {
  absl::flat_hash_map<uint64_t, uint64_t> accesses;
  if (!options_.counts) return accesses;
  for (const Taker& taker : takers_) {
    for (const auto& [page, uses] : taker.counts->accesses()) accesses[page] += uses;
  }
  return accesses;
}

std::vector<MissCurve> PageWatch::TakeCurves() {
  std::vector<MissCurve> curves;
  if (!has_curves()) return curves;
  for (Taker& taker : takers_) {
    if (options_.sampled) taker.sampler->Settle();
    if (options_.exact) taker.profile->Settle();
  }
  for (size_t size = 0; size < PageProfile::kSizes; ++size) {
    DistanceCounts all;
    bool sampled = false;
    for (const Taker& taker : takers_) {
      const DistanceCounts own =
          options_.exact ? taker.profile->counts(size) : taker.sampler->Estimate(size);
      if (own.uses.size() > all.uses.size()) all.uses.resize(own.uses.size(), 0);
      for (size_t i = 0; i < own.uses.size(); ++i) all.uses[i] += own.uses[i];
      all.cold += own.cold;
      all.pages += own.pages;
      sampled |= !options_.exact && !taker.sampler->is_exact();
    }
    const uint64_t page_bytes = uint64_t{1} << (kPageShift + 9 * size);
    curves.push_back(MakeMissCurve(page_bytes, all));
    curves.back().sampled = sampled;
  }
  return curves;
}

}  // namespace tdp::tools
