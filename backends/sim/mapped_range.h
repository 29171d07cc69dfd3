// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A range of host virtual memory and what stands behind its pages: a part of the simulated host's
// page table.

#ifndef TDP_BACKENDS_SIM_MAPPED_RANGE_H_
#define TDP_BACKENDS_SIM_MAPPED_RANGE_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tdp::sim {

// Tells what stands behind one 4 KiB page of a range.
struct MappedPage {
  uint64_t hfn = 0;  // 0: not backed
  int8_t order = 0;
  bool writable = true;
};

// Pages are named by their numbers. Those of 2 MiB take memory together, as the first of them is
// asked for by `At`; until then they are not backed, and writable or not as the range is.
class MappedRange {
 public:
  // The pages [first, end), of which there is one at least.
  MappedRange(uint64_t first, uint64_t end, bool writable)
      : first_(first),
        end_(end),
        writable_(writable),
        groups_((end - 1) / kGroup - first / kGroup + 1) {}

  uint64_t first() const { return first_; }
  uint64_t end() const { return end_; }
  bool Contains(uint64_t page) const { return page >= first_ && page < end_; }

  // Returns what the range says of a page of it.
  MappedPage Get(uint64_t page) const {
    const std::vector<MappedPage>& group = groups_[GroupOf(page)];
    return group.empty() ? MappedPage{.writable = writable_} : group[page % kGroup];
  }
  // Returns a page of the range, for a change.
  MappedPage& At(uint64_t page) {
    std::vector<MappedPage>& group = groups_[GroupOf(page)];
    if (group.empty()) group.assign(kGroup, MappedPage{.writable = writable_});
    return group[page % kGroup];
  }

  // Calls `visit(number, page)` for those of [first, end) that lie in the range and have memory:
  // all that are backed.
  template <typename Visit>
  void ForEachKept(uint64_t first, uint64_t end, Visit visit) {
    const uint64_t stop = std::min(end, end_);
    for (uint64_t page = std::max(first, first_); page < stop;) {
      std::vector<MappedPage>& group = groups_[GroupOf(page)];
      const uint64_t next = std::min(stop, (page / kGroup + 1) * kGroup);
      for (; !group.empty() && page < next; ++page) visit(page, group[page % kGroup]);
      page = next;
    }
  }

  // Cuts the range at `page`, which lies in it beyond the first, and returns what was from there
  // on.
  MappedRange SplitAt(uint64_t page) {
    MappedRange tail(page, end_, writable_);
    // A group that the cut goes through serves both: each looks at its own pages.
    std::copy(groups_.begin() + static_cast<ptrdiff_t>(GroupOf(page)), groups_.end(),
              tail.groups_.begin());
    end_ = page;
    groups_.resize(GroupOf(page - 1) + 1);
    return tail;
  }

 private:
  static constexpr uint64_t kGroup = 512;

  size_t GroupOf(uint64_t page) const { return page / kGroup - first_ / kGroup; }

  uint64_t first_;
  uint64_t end_;
  bool writable_;
  std::vector<std::vector<MappedPage>> groups_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_MAPPED_RANGE_H_
