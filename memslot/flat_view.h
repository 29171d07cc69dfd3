// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Shows a tree of regions as the guest sees it: ranges that do not overlap, each backed by one
// region.

#ifndef TDP_MEMSLOT_FLAT_VIEW_H_
#define TDP_MEMSLOT_FLAT_VIEW_H_

#include <cstdint>
#include <vector>

#include "tdp/memslot/region.h"

namespace tdp {

struct FlatRange {
  uint64_t start = 0;
  RegionSize size = 0;
  const Region* region = nullptr;  // never a container or an alias
  uint64_t offset = 0;             // of `start` in `region`
  bool read_only = false;          // by the region itself or by one that it was reached through

  RegionSize end() const { return RegionSize(start) + size; }

  friend bool operator==(const FlatRange&, const FlatRange&) = default;
};

// Returns the ranges of `root` in ascending order, neighbours that continue each other joined. Of
// overlapping siblings the one with the higher priority shows; where it has a hole (a container
// without a child there), what is below shows. Disabled regions show nothing. Everything is cut to
// 2^64 bytes. It recurses no deeper than `kMaxRegionDepth` and takes O(n log n) in the regions that
// it comes by, of which there are `kMaxRegionsShown` at most.
std::vector<FlatRange> Flatten(const Region& root);

}  // namespace tdp

#endif  // TDP_MEMSLOT_FLAT_VIEW_H_
