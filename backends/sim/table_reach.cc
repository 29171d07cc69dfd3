// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/table_reach.h"

#include "tdp/backends/sim/level_array.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {
namespace {

constexpr int kEntries = 512;

}  // namespace

void TableReach::SetRoot(Hpa root, int levels) {
  root_ = root.raw();
  levels_ = levels;
  Rescan();
}

void TableReach::Visit(uint64_t frame, int level, uint64_t address) {
  if (tables_ != nullptr ? !tables_->IsTable(Hpa(frame)) : !memory_.IsInside(frame)) return;
  Place& place = places_[frame];
  if (place.scan == scan_) return;
  place = {.level = level, .address = address, .linked = true, .root = root_, .scan = scan_};
  if (level == 1) return;
  for (uint64_t i = 0; i < kEntries; ++i) {
    const uint64_t entry = memory_.Load(frame + 8 * i);
    if (IsTable(entry, level))
      Visit(entry & ept::kAddressMask, level - 1, address | i << ShiftOf(level));
  }
}

void TableReach::Rescan() {
  ++scan_;
  Visit(root_, levels_, 0);
  for (auto& [frame, place] : places_) place.linked = place.scan == scan_;
}

template <typename Predicate>
void TableReach::DropUnlinkedIf(Predicate predicate) {
  std::vector<uint64_t> dropped;
  for (const auto& [frame, place] : places_) {
    if (!place.linked && predicate(place)) dropped.push_back(frame);
  }
  for (const uint64_t frame : dropped) places_.erase(frame);
}

void TableReach::OnFlush() {
  DropUnlinkedIf([](const Place&) { return true; });
}

void TableReach::OnFlush(Hpa root) {
  DropUnlinkedIf([root](const Place& place) { return place.root == root.raw(); });
}

FrameUse TableReach::UseOf(Hpa frame) const {
  const auto it = places_.find(frame.raw());
  if (it == places_.end()) return FrameUse::kNone;
  return it->second.linked ? FrameUse::kLinked : FrameUse::kMayBeCached;
}

const TableReach::Place* TableReach::Find(Hpa frame) const {
  const auto it = places_.find(frame.raw());
  return it == places_.end() || !it->second.linked ? nullptr : &it->second;
}

const TableReach::Place* TableReach::FindUnlinked(Hpa frame) const {
  const auto it = places_.find(frame.raw());
  return it == places_.end() || it->second.linked ? nullptr : &it->second;
}

std::vector<Hpa> TableReach::LinkedFrames() const {
  std::vector<Hpa> frames;
  if (Find(Hpa(root_)) != nullptr) frames.emplace_back(root_);
  for (const auto& [frame, place] : places_) {
    if (place.linked && frame != root_) frames.emplace_back(frame);
  }
  return frames;
}

}  // namespace tdp::sim
