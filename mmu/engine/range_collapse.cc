// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/range_collapse.h"

#include <algorithm>
#include <utility>

#include "absl/status/statusor.h"
#include "tdp/base/access.h"

namespace tdp {
namespace {

// How many tables one writer's section may replace: some 10 µs of looking at their leaves.
constexpr size_t kReplacedPerSection = 16;

}  // namespace

uint64_t RangeCollapse::Run(FrameRange range, Level level) {
  uint64_t collapsed = 0;
  while (!range.is_empty()) {
    range.first = Gather(range, level);
    for (const Gfn base : found_) AddCandidate(base, level);
    if (!candidates_.empty()) collapsed += Finish(level);
  }
  return collapsed;
}

// Finds the next tables that may be collapsed. Returns where to go on.
Gfn RangeCollapse::Gather(FrameRange range, Level level) {
  found_.clear();
  Gfn next = range.end;
  walk_.Run(range, [&](const TablePart& part) {
    if (part.level != level.below()) return true;
    const Gfn base = part.FrameAt(part.first).AlignDown(level.pages());
    if (!range.Holds(base, level.pages()) || (!found_.empty() && found_.back() == base))
      return true;
    if (found_.size() == kReplacedPerSection) {
      next = base;  // the walk has passed holes that the table may begin with
      return false;
    }
    found_.push_back(base);
    return true;
  });
  return next;
}

// Makes the leaf that a fault would make there now, if that is one of `level`.
void RangeCollapse::AddCandidate(Gfn base, Level level) {
  const uint64_t sequence = engine_.sequence().Current();
  const MemorySlot* slot = slots_.Find(space_, base);
  if (slot == nullptr || slot->invalid || slot->end() - base < level.pages()) return;
  if (slot->logs_dirty_pages()) return;
  const std::optional<Backing> backing = BackingOf(*slot, base, sequence);
  if (!backing) return;
  const absl::StatusOr<HostPage> page =
      PageBehind(engine_.backend(), *slot, base, *backing, Access::Read());
  if (!page.ok() || page->order < level.shift() - kPageShift) return;
  EptEntry leaf;
  {
    const MmuReadSection section(reader_);
    if (slot->has_host_frames() && engine_.sequence().Current() != sequence) return;
    leaf = policy_.Leaf(*slot, base, *page, Access::Read());
  }
  const Collapse collapse(base, level, mmu_.LeafAt(leaf, level), policy_.options().execute_4k_only);
  candidates_.push_back({collapse, *slot, *backing, *page, sequence});
}

// Returns what stands behind the frame; nothing if that has changed since `sequence`, or is
// missing.
std::optional<Backing> RangeCollapse::BackingOf(const MemorySlot& slot, Gfn base,
                                                uint64_t sequence) {
  if (!policy_.restricts() && !slot.has_host_frames()) {
    return Backing{.frame = std::nullopt, .hva = slot.HvaOf(base)};
  }
  const MmuReadSection section(reader_);
  if (engine_.sequence().Current() != sequence) return std::nullopt;
  return policy_.BackingOf(slot, base);
}

// Returns whether the leaf of `candidate` may still be made. Inside a section.
bool RangeCollapse::IsCurrent(const Candidate& candidate, Level level) const {
  AssertWriting(engine_.mmu_lock());
  const Gfn base = candidate.collapse.base();
  const Backing& backing = candidate.backing;
  return !engine_.sequence().MovedSince(candidate.sequence, HostRange(backing.hva, level.bytes()),
                                        backing.asks_host()) &&
         policy_.LargestLevel(candidate.slot, base, candidate.page, Access::Read()) >= level;
}

// Adds what CPUs have set in the old table until the flush. If a log has begun since, D there is
// older than the log, and so must not come into leaves that faults have opened for it: PML notes no
// write where D is set already.
void RangeCollapse::AddLateBits(const Candidate& candidate) {
  const MmuReadSection section(reader_);
  const MemorySlot* slot = slots_.Find(space_, candidate.collapse.base());
  candidate.collapse.AddLateBits(mmu_, slot != nullptr && !slot->logs_dirty_pages());
}

uint64_t RangeCollapse::Finish(Level level) {
  PendingFlush flush;
  TableList old_tables;
  {
    MmuWriteSection section(engine_.mmu_lock());
    for (Candidate& candidate : candidates_) {
      if (!IsCurrent(candidate, level) || !candidate.collapse.Replace(mmu_)) continue;
      old_tables.Push(candidate.collapse.old_table());
    }
    if (!old_tables.empty()) flush = engine_.clock().Advance();
  }
  flush.Settle();
  for (const Candidate& candidate : candidates_) {
    if (candidate.collapse.old_table() != nullptr) AddLateBits(candidate);
  }
  candidates_.clear();
  const uint64_t collapsed = old_tables.size();
  engine_.Reclaim(std::move(old_tables));
  return collapsed;
}

}  // namespace tdp
