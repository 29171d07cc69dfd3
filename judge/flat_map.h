// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says without tables what the tables ought to say: runs of pages in a sorted list.

#ifndef TDP_JUDGE_FLAT_MAP_H_
#define TDP_JUDGE_FLAT_MAP_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tdp::judge {

// Pages that one `map` made, or what later operations left of them.
struct Extent {
  uint64_t begin = 0;
  uint64_t end = 0;
  uint64_t hpa = 0;  // of `begin`
  unsigned rights = 0;
  unsigned type = 0;
  // The range of the `map`, whatever is left of it.
  uint64_t map_begin = 0;
  uint64_t map_end = 0;

  uint64_t HpaOf(uint64_t gpa) const { return hpa + (gpa - begin); }
};

class FlatMap {
 public:
  // Returns the extent that `gpa` lies in; null if it is not mapped.
  const Extent* Find(uint64_t gpa) const;
  // Return whether every page, or some page, of the range is mapped.
  bool CoversAll(uint64_t begin, uint64_t end) const;
  bool CoversSome(uint64_t begin, uint64_t end) const;
  // Returns whether the range takes a part of a mapping away and leaves the rest.
  bool CutsMapping(uint64_t begin, uint64_t end) const;

  // `keep`: pages that are mapped stay as they are.
  void Map(const Extent& extent, bool keep);
  void Unmap(uint64_t begin, uint64_t end);
  void Protect(uint64_t begin, uint64_t end, unsigned rights);

  const std::vector<Extent>& extents() const { return extents_; }

 private:
  // Returns the first extent that ends after `gpa`.
  size_t LowerBound(uint64_t gpa) const;
  void SplitAt(uint64_t gpa);

  std::vector<Extent> extents_;
};

// A set of pages as ranges that do not overlap, in no order: where dirty logging is on.
class RangeSet {
 public:
  struct Range {
    uint64_t begin;
    uint64_t end;
  };
  bool Contains(uint64_t address) const;
  bool Overlaps(uint64_t begin, uint64_t end) const;
  void Add(uint64_t begin, uint64_t end);
  void Remove(uint64_t begin, uint64_t end);
  const std::vector<Range>& ranges() const { return ranges_; }

 private:
  std::vector<Range> ranges_;
};

}  // namespace tdp::judge

#endif  // TDP_JUDGE_FLAT_MAP_H_
