// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// `Vm::VisitLeaves`: what is mapped, in runs.

#include <algorithm>
#include <array>
#include <cstddef>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/mappings.h"
#include "tdp/mmu/option_pairs.h"
#include "tdp/mmu/tables/range_walk.h"
#include "tdp/mmu/vm.h"
#include "tdp/mmu/vm/checks.h"

namespace tdp {
namespace {

// Collects runs inside a section, so that the embedder sees them outside of any.
class RunCollector {
 public:
  // `range` limits what is collected; leaves that reach over its ends are cut.
  RunCollector(const DirectMmu& mmu, FrameRange range)
      : has_flags_(mmu.options().accessed_dirty), range_(range) {}

  // Collects the leaves of `part`, inside a section. Returns false once no further run has room.
  bool Collect(const TablePart& part) {
    for (int i = part.first; i <= part.last; ++i) {
      const EptEntry entry = part.entry(i).Load();
      if (entry.kind(part.level) != EntryKind::kLeaf) continue;
      if (!Add(RunOf(entry, part.FrameAt(i), part.level, part.above))) return false;
    }
    return true;
  }

  absl::Span<const LeafRun> runs() const { return absl::MakeSpan(runs_.data(), count_); }
  // Returns the first frame that no run of this collector has, if it ran out of room.
  Gfn end() const { return runs_[count_ - 1].gfn + runs_[count_ - 1].pages; }

 private:
  static constexpr size_t kMost = 64;

  LeafRun RunOf(EptEntry entry, Gfn gfn, Level level, Access above) const {
    const Gfn first = std::max(gfn, range_.first);
    const Gfn end = std::min(gfn + level.pages(), range_.end);
    return {.gfn = first,
            .pages = end - first,
            .hfn = entry.frame() + (first - gfn),
            .level = level,
            .access = entry.access() & above,
            .memory_type = entry.memory_type(),
            .ignore_pat = entry.ignore_pat(),
            .accessed = has_flags_ && entry.accessed(),
            .dirty = has_flags_ && entry.dirty()};
  }

  // Adds `run` as a part of the last one if it goes on with that. Returns false without room for
  // another.
  bool Add(const LeafRun& run) {
    if (count_ != 0) {
      LeafRun& last = runs_[count_ - 1];
      LeafRun next = last;
      next.gfn = last.gfn + last.pages;
      next.hfn = last.hfn + last.pages;
      next.pages = run.pages;
      if (next == run) {
        last.pages = last.pages + run.pages;
        return true;
      }
    }
    if (count_ == kMost) return false;
    runs_[count_++] = run;
    return true;
  }

  const bool has_flags_;  // A and D
  const FrameRange range_;
  std::array<LeafRun, kMost> runs_;
  size_t count_ = 0;
};

}  // namespace

absl::Status Vm::VisitLeaves(Gfn first, PageCount count,
                             absl::FunctionRef<void(const LeafRun&)> visit, AddressSpaceId space,
                             ViewId id) {
  TDP_RETURN_IF_ERROR(CheckCall(engine_->options(), Feature::kVisitLeaves));
  TDP_ASSIGN_OR_RETURN(const FrameRange range, CheckFrames(*engine_, first, count, space));
  TDP_ASSIGN_OR_RETURN(View * view, FindView(*engine_, id, space));
  const DirectMmu& mmu = view->mmu();
  RangeWalk walk(mmu, engine_->mmu_lock());
  FrameRange rest = range;
  while (!rest.is_empty()) {
    RunCollector collector(mmu, rest);
    bool full = false;
    walk.Run(rest, [&](const TablePart& part) {
      full = !collector.Collect(part);
      return !full;
    });
    for (const LeafRun& run : collector.runs()) visit(run);
    if (!full) break;
    rest.first = collector.end();
  }
  return absl::OkStatus();
}

}  // namespace tdp
