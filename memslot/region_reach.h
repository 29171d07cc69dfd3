// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Which regions render a region, and what they become when it gains or loses a child.

#ifndef TDP_MEMSLOT_REGION_REACH_H_
#define TDP_MEMSLOT_REGION_REACH_H_

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "tdp/memslot/region.h"

namespace tdp {

// The regions from which rendering comes to `start`: itself, its parent, the aliases that show it,
// and so on upward. Each is gone to once, however many ways there are, so the cost is their number.
class RegionReach {
 public:
  explicit RegionReach(Region* start);

  bool Contains(const Region* region) const { return places_.contains(region); }

  // Checks whether all of them stay within the limits if `start` gains `child`. ResourceExhausted;
  // its message begins with `what`.
  absl::Status CheckAdding(const Region& child, std::string_view what) const;

  // Keeps their depth and what they show up to date. `Add` before or after `child` is among the
  // children, `Remove` after it has gone.
  void Add(const Region& child);
  void Remove(const Region& child);

  // Returns ResourceExhausted, with a message that begins with `what`, beyond the limits.
  static absl::Status CheckLimits(int height, uint64_t shown, std::string_view what);

 private:
  void Collect(Region* region);
  template <typename Visit>
  void ForEachAbove(const Region& region, const Visit& visit) const;
  // Returns by how much each of `order_` shows more with `child`, up to the first that shows too
  // much.
  std::vector<uint64_t> ShownMore(const Region& child) const;
  // Returns their heights with `child`.
  std::vector<int> Heights(const Region& child) const;

  // `start` comes first, and each before those that render it.
  std::vector<Region*> order_;
  absl::flat_hash_map<const Region*, size_t> places_;  // in `order_`
};

}  // namespace tdp

#endif  // TDP_MEMSLOT_REGION_REACH_H_
