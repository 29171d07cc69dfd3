// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/vcpu_set.h"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"

namespace tdp {

absl::StatusOr<VcpuId> VcpuSet::TakeId() {
  constexpr size_t kMostVcpus = size_t{1} << 20;
  MutexLock lock(mutex_);
  const auto free =
      std::find_if(places_.begin(), places_.end(), [](const Place& p) { return !p.is_taken; });
  const auto id = static_cast<size_t>(free - places_.begin());
  if (id == kMostVcpus) {
    return absl::ResourceExhaustedError(absl::StrFormat("vCPUs: the VM has %u already", id));
  }
  if (id == places_.size()) places_.emplace_back();
  places_[id].is_taken = true;
  return static_cast<VcpuId>(id);
}

void VcpuSet::Add(VcpuId id, VcpuImpl* vcpu) {
  MutexLock lock(mutex_);
  places_[id].vcpu = vcpu;
}

void VcpuSet::Remove(VcpuId id, std::unique_ptr<DirtyRing> ring, const FaultStats& stats) {
  MutexLock lock(mutex_);
  places_[id] = Place();
  if (ring != nullptr && ring->used() != 0) left_rings_.push_back(std::move(ring));
  retired_stats_ += stats;
}

bool VcpuSet::is_empty() const {
  MutexLock lock(mutex_);
  return std::none_of(places_.begin(), places_.end(),
                      [](const Place& place) { return place.vcpu != nullptr; });
}

void VcpuSet::ForEach(absl::FunctionRef<void(const VcpuImpl* vcpu)> visit) const {
  MutexLock lock(mutex_);
  for (const Place& place : places_) {
    if (place.vcpu != nullptr) visit(place.vcpu);
  }
}

FaultStats VcpuSet::SumStats(absl::FunctionRef<FaultStats(const VcpuImpl* vcpu)> stats_of) const {
  MutexLock lock(mutex_);
  FaultStats sum = retired_stats_;
  for (const Place& place : places_) {
    if (place.vcpu != nullptr) sum += stats_of(place.vcpu);
  }
  return sum;
}

absl::Status VcpuSet::EnableRings(uint32_t entries) {
  MutexLock lock(mutex_);
  if (ring_entries_ != 0 || !places_.empty()) {
    return absl::InvalidArgumentError(
        "dirty ring: it can be set once, and before the first vCPU is made");
  }
  ring_entries_ = entries;
  return absl::OkStatus();
}

// It was decided before the first vCPU was made whether they have rings.
absl::StatusOr<std::unique_ptr<DirtyRing>> VcpuSet::TakeRing(VcpuId id) {
  MutexLock lock(mutex_);
  if (ring_entries_ == 0) return std::unique_ptr<DirtyRing>();
  left_rings_.reserve(places_.size() + 1);
  std::unique_ptr<DirtyRing> ring;
  if (left_rings_.empty()) {
    TDP_ASSIGN_OR_RETURN(ring, DirtyRing::Create(ring_entries_));
  } else {
    ring = std::move(left_rings_.back());
    left_rings_.pop_back();
  }
  places_[id].ring = ring.get();
  return ring;
}

// From the front each time: between two calls vCPUs may come and go with their rings.
size_t VcpuSet::HarvestRings(absl::Span<DirtyRingEntry> entries) {
  size_t count = 0;
  ForEachRing([&](DirtyRing& ring) { count += ring.Harvest(entries.subspan(count)); });
  return count;
}

void VcpuSet::ForEachRing(absl::FunctionRef<void(DirtyRing& ring)> visit) {
  MutexLock lock(mutex_);
  for (const std::unique_ptr<DirtyRing>& ring : left_rings_) visit(*ring);
  for (const Place& place : places_) {
    if (place.ring != nullptr) visit(*place.ring);
  }
}

void VcpuSet::DropEmptyRings() {
  MutexLock lock(mutex_);
  std::erase_if(left_rings_, [](const auto& ring) { return ring->used() == 0; });
}

}  // namespace tdp
