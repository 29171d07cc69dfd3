// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/generator.h"

#include <algorithm>

#include "tdp/judge/contract.h"

namespace tdp::judge {
namespace {

constexpr int kTries = 60;
constexpr uint64_t kGiB = uint64_t{1} << 30;

}  // namespace

Generator::Generator(const tdpj_subject& subject, uint64_t seed, uint64_t avoid,
                     uint64_t avoid_bytes)
    : subject_(subject), random_(seed), avoid_(avoid), avoid_bytes_(avoid_bytes) {
  SetRegions(random_.Next());
  const auto add = [this](int kind, size_t times) { kinds_.insert(kinds_.end(), times, kind); };
  add(TDPJ_STEP_MAP, 6);
  if (subject.unmap != nullptr) add(TDPJ_STEP_UNMAP, 4);
  if (subject.protect != nullptr) add(TDPJ_STEP_PROTECT, 4);
  add(TDPJ_STEP_TOUCH, subject.fault != nullptr ? 5 : 1);
  if (subject.dirty_start != nullptr) {
    add(TDPJ_STEP_DIRTY_START, 2);
    add(TDPJ_STEP_HARVEST, 3);
    add(TDPJ_STEP_TOUCH, 3);
    if (subject.dirty_stop != nullptr) add(TDPJ_STEP_DIRTY_STOP, 1);
  }
  if (subject.split != nullptr) add(TDPJ_STEP_SPLIT, 2);
  if (subject.merge != nullptr) add(TDPJ_STEP_MERGE, 2);
}

void Generator::SetRegions(uint64_t seed) {
  Random random(seed);
  regions_.clear();
  // Regions a little before the borders where the next table begins.
  const uint64_t limit = subject_.contract.gpa_limit;
  const uint64_t borders[] = {0,          kPage2M,  2 * kPage2M, kGiB,
                              512 * kGiB, 2 * kGiB, limit,       limit / 2};
  for (int i = 0; i < 3; ++i) {
    const uint64_t border = borders[random.Below(8)] & ~(kPage - 1);
    const uint64_t before = random.Below(4) * (random.OneIn(2) ? kPage : kPage2M);
    regions_.push_back(std::min(border - std::min(before, border), limit - kPage));
  }
}

uint64_t Generator::DrawSize() {
  const tdpj_contract& contract = subject_.contract;
  const uint64_t most = uint64_t{1} << contract.max_order;
  if (contract.range == TDPJ_RANGE_PAGE) return kPage;
  uint64_t pages = 1;
  switch (random_.Below(12)) {
    case 0:
    case 1:
    case 2:
      pages = 1;
      break;
    case 3:
    case 4:
    case 5:
      pages = 1 + random_.Below(16);
      break;
    case 6:
    case 7:
    case 8:
      pages = 512;
      break;
    case 9:
      pages = 512 * (1 + random_.Below(3));
      break;
    case 10:
      pages = 1 + random_.Below(1100);
      break;
    default:
      pages = random_.OneIn(most >= kGiB / kPage ? 12 : 40) ? most : 1 + random_.Below(600);
      break;
  }
  const uint64_t unit = uint64_t{1} << contract.min_order;
  pages = std::min((pages + unit - 1) & ~(unit - 1), most);
  if (contract.range == TDPJ_RANGE_ORDER) {
    while ((pages & (pages - 1)) != 0) pages &= pages - 1;
  }
  return pages * kPage;
}

uint64_t Generator::DrawGpa(uint64_t size) {
  uint64_t gpa = regions_[random_.Below(regions_.size())];
  gpa += kPage * (random_.OneIn(3) ? random_.Below(1030) : random_.Below(8));
  if (random_.OneIn(3)) gpa = (gpa + kPage2M / 2) & ~(kPage2M - 1);
  if (size >= kGiB && random_.OneIn(2)) gpa = (gpa + kGiB / 2) & ~(kGiB - 1);
  gpa &= ~((kPage << subject_.contract.min_order) - 1);
  if (subject_.contract.range == TDPJ_RANGE_ORDER) gpa &= ~(size - 1);
  return gpa;
}

uint64_t Generator::DrawHpa(const tdpj_step& step, const FlatMap& map) {
  const uint64_t limit = subject_.contract.hpa_limit;
  if (subject_.contract.identity_map != 0) return step.gpa;
  if (step.size > limit) return 0;
  if (step.gpa != 0 && random_.OneIn(4)) {
    // Goes on where the mapping before it ends.
    const Extent* extent = map.Find(step.gpa - kPage);
    if (extent != nullptr) return extent->HpaOf(step.gpa - kPage) + kPage;
  }
  uint64_t hpa = random_.Below(limit - step.size + 1) & ~(kPage - 1);
  if (random_.OneIn(16)) hpa = (limit - step.size) & ~(kPage - 1);
  // Half of them are congruent, so that large leaves fit.
  if (random_.OneIn(2)) hpa = (hpa & ~(kPage2M - 1)) | (step.gpa & (kPage2M - 1));
  if (random_.OneIn(step.size >= kGiB ? 2 : 8)) {
    hpa = (hpa & ~(kGiB - 1)) | (step.gpa & (kGiB - 1));
  }
  hpa &= ~((kPage << subject_.contract.min_order) - 1);
  if (subject_.contract.range == TDPJ_RANGE_ORDER) hpa &= ~(step.size - 1);
  return hpa;
}

void Generator::Draw(const FlatMap& map, const RangeSet& logged, tdpj_step& step) {
  const tdpj_contract& contract = subject_.contract;
  step = {};
  step.kind = kinds_[random_.Below(kinds_.size())];
  step.seed = random_.Next();
  step.size = DrawSize();
  step.gpa = DrawGpa(step.size);
  step.rights = contract.rights[random_.Below(static_cast<uint64_t>(contract.rights_count))];
  const std::vector<Extent>& extents = map.extents();
  const bool wants_mapped =
      step.kind != TDPJ_STEP_MAP || contract.map_over == TDPJ_OVER_ONLY || random_.OneIn(3);
  if (wants_mapped && !extents.empty() && !random_.OneIn(5)) {
    const Extent& extent = extents[random_.Below(extents.size())];
    const bool whole = random_.OneIn(2);
    const bool same = whole || contract.range == TDPJ_RANGE_ANY;
    if (whole) {
      step.gpa = extent.map_begin;
      step.size = extent.map_end - extent.map_begin;
    } else if (same) {
      step.gpa = extent.begin + (random_.Below(extent.end - extent.begin) & ~(kPage - 1));
      step.gpa &= ~((kPage << contract.min_order) - 1);
    }
  }
  if ((step.kind == TDPJ_STEP_HARVEST || step.kind == TDPJ_STEP_DIRTY_STOP) &&
      !logged.ranges().empty()) {
    const RangeSet::Range& range = logged.ranges()[random_.Below(logged.ranges().size())];
    step.gpa = range.begin;
    step.size = range.end - range.begin;
  }
  if ((contract.claims & TDPJ_LOGS_ALL) != 0 &&
      (step.kind == TDPJ_STEP_DIRTY_START || step.kind == TDPJ_STEP_DIRTY_STOP ||
       step.kind == TDPJ_STEP_HARVEST)) {
    step.gpa = 0;
    step.size = contract.gpa_limit;
  }
  if (step.kind == TDPJ_STEP_TOUCH) {
    step.size = kPage;
    step.rights = 1u << random_.Below(3);
    if (!logged.ranges().empty() && random_.OneIn(2)) {
      const RangeSet::Range& range = logged.ranges()[random_.Below(logged.ranges().size())];
      step.gpa = range.begin + (random_.Below(range.end - range.begin) & ~(kPage - 1));
      step.rights = TDPJ_W;
    }
  }
  if (step.kind == TDPJ_STEP_MAP) {
    step.hpa = DrawHpa(step, map);
    step.memory_type = 6;  // write-back, where the contract does not care
    if (contract.type_count != 0)
      step.memory_type = contract.types[random_.Below(contract.type_count)];
    if (step.hpa < avoid_ + avoid_bytes_ && avoid_ < step.hpa + step.size) step.size = 0;
  }
  if (random_.OneIn(8) && (step.kind != TDPJ_STEP_TOUCH || subject_.fault != nullptr)) {
    step.fail_at = static_cast<unsigned>(1 + random_.Below(4));
  }
}

bool Generator::Next(const FlatMap& map, const RangeSet& logged, tdpj_step& step) {
  for (int i = 0; i < kTries; ++i) {
    Draw(map, logged, step);
    if (WhyForbidden(subject_, map, logged, step) == nullptr) return true;
  }
  return false;
}

}  // namespace tdp::judge
