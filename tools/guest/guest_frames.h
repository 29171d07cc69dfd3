// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The guest kernel's free frames.

#ifndef TDP_TOOLS_GUEST_GUEST_FRAMES_H_
#define TDP_TOOLS_GUEST_GUEST_FRAMES_H_

#include <cstdint>
#include <optional>
#include <vector>

#include "tdp/backends/sim/frame_allocator.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/tools/guest/memory_map.h"

namespace tdp::tools {

// All RAM but the first 2 MiB, where a kernel itself would be. RAM above the hole goes first, as
// kernels spare the memory that 32-bit devices can reach.
class GuestFrames {
 public:
  struct Options {
    bool gigabytes = false;  // pages of 1 GiB can be had; small ones come from below the hole first
    bool shuffled = false;   // frames of 4 KiB in random instead of ascending order
    double fragmentation = 0;  // share of 2 MiB blocks that cannot be had whole, 0 to 1
    uint64_t seed = 1;
  };

  GuestFrames(const MemoryMap& map, const Options& options);

  // Allocates an aligned page of `level`, the third one with `gigabytes` only; nothing if there is
  // none left.
  std::optional<Gfn> Allocate(Level level);
  // Takes back a page of 4 KiB, which is the next one given out.
  void Free(Gfn gfn) { freed_.push_back(gfn); }

 private:
  std::optional<Gfn> AllocateAligned(Level level);

  std::vector<Gfn> freed_;
  PageCount above_;
  sim::FrameAllocator allocator_;
  // With `gigabytes` alone, where `allocator_` has the frames above the hole: those below it, by
  // number.
  std::optional<sim::FrameAllocator> below_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_GUEST_GUEST_FRAMES_H_
