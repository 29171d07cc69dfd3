// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest's MTRRs, and the memory type that they give to each frame (SDM vol. 3A, 12.11).

#ifndef TDP_MMU_POLICY_MEMORY_TYPES_H_
#define TDP_MMU_POLICY_MEMORY_TYPES_H_

#include <array>
#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/guest_memory_types.h"

namespace tdp {

// Holds the registers, checked and ready to be asked; it never changes. They are not compiled into
// runs of frames: a mask may have gaps (SDM vol. 3A, 12.11.2.3), and one that has a single bit set
// would make as many runs as there are frames.
class MemoryTypeMap {
 public:
  // Makes the map of `state`. InvalidArgument, naming register and value, for what WRMSR would
  // refuse with #GP: a reserved type or bit, or an address beyond the width. Any mask within the
  // width is taken; the frames of a range are those whose number agrees with its base in every bit
  // of its mask.
  static absl::StatusOr<MemoryTypeMap> Make(const MtrrState& state);
  // Makes a map that has one type for everything.
  static MemoryTypeMap Uniform(MemoryType type) { return MemoryTypeMap(type); }

  // Returns the type of `gfn`. Frames beyond the width have the default type.
  MemoryType TypeOf(Gfn gfn) const;
  // Returns a frame after `gfn`, such that all frames between have the type of `gfn`: the first of
  // another type, or one at or beyond `limit`. Where ranges change many times without changing the
  // type it may be an earlier one, so that no guest makes this slow.
  Gfn EndOfRun(Gfn gfn, Gfn limit) const;
  // Returns whether the aligned frames of one leaf of `level` around `gfn` are of one type. It may
  // be false where they are, for the same reason.
  bool IsUniform(Gfn gfn, Level level) const {
    const Gfn first = gfn.AlignDown(level.pages());
    const Gfn end = first + level.pages();
    return EndOfRun(first, end) >= end;
  }

 private:
  // The frames that agree with `base` in every bit of `mask`; both count pages.
  struct Range {
    uint64_t base = 0;
    uint64_t mask = 0;
    MemoryType type = MemoryType::kUncacheable;

    bool Holds(uint64_t page) const { return ((page ^ base) & mask) == 0; }
    // Returns the first page after `page` that is in the range if `page` is not, or the other way
    // round.
    uint64_t NextEdge(uint64_t page) const;
  };

  explicit MemoryTypeMap(MemoryType type) : default_type_(type) {}

  uint64_t NextEdge(uint64_t page) const;

  MemoryType default_type_;
  bool has_fixed_ = false;  // `fixed_` counts, below 1 MiB
  size_t ranges_in_use_ = 0;
  uint64_t end_ = 0;  // the first page beyond the width; none is in a range from there on
  std::array<Range, MtrrState::kVariableRanges> ranges_;
  std::array<uint64_t, MtrrState::kFixedRegisters> fixed_ = {};
};

}  // namespace tdp

#endif  // TDP_MMU_POLICY_MEMORY_TYPES_H_
