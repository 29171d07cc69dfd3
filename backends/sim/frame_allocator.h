// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A buddy allocator over simulated host frames, with the two things a study of paging wants to
// turn: the order in which frames come out, and how fragmented memory is.

#ifndef TDP_BACKENDS_SIM_FRAME_ALLOCATOR_H_
#define TDP_BACKENDS_SIM_FRAME_ALLOCATOR_H_

#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <vector>

#include "tdp/base/address.h"

namespace tdp::sim {

struct FrameAllocatorOptions {
  PageCount frames{};     // managed frames are [reserved, frames)
  PageCount reserved{};   // never handed out, so that frame 0 stays a sign of a bug
  bool shuffled = false;  // single frames come out in random instead of ascending order
  // The share, 0 to 1, of 2 MiB blocks that cannot be had whole, because one page in them is
  // pinned.
  double fragmentation = 0;
  uint64_t seed = 1;
};

// Hands out frames. Not thread-safe. The same options and calls give the same frames on every
// machine.
class FrameAllocator {
 public:
  static constexpr int kMaxOrder = 18;  // 1 GiB

  explicit FrameAllocator(const FrameAllocatorOptions& options);
  // Makes it as new.
  void Reset();

  // Returns 2^order contiguous frames aligned to as many; nothing if no such run is free.
  std::optional<Hfn> Allocate(int order);

  // Gives back what `Allocate(order)` returned, or an aligned part of it with a smaller order.
  void Free(Hfn frame, int order);

  PageCount free_frames() const { return free_frames_; }

 private:
  bool IsFree(uint64_t block, int order) const;
  void SetFree(uint64_t block, int order, bool free);
  void PushFree(uint64_t block, int order);
  std::optional<uint64_t> PopFree(int order);
  std::optional<uint64_t> TakeBlock(int order);
  void RefillShuffledFrames();
  void PinOneFrameOf(uint64_t block_of_2m);
  void TakeFrame(uint64_t frame);

  FrameAllocatorOptions options_;
  std::mt19937_64 random_;
  PageCount free_frames_;
  // Has one bit per aligned block of each order: the block is free and not part of a larger free
  // one.
  std::array<std::vector<uint64_t>, kMaxOrder + 1> free_bits_;
  // Candidates by order, last out first; one may be out of date, `free_bits_` decides.
  std::array<std::vector<uint64_t>, kMaxOrder + 1> stacks_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_FRAME_ALLOCATOR_H_
