// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/guest/guest_frames.h"

namespace tdp::tools {
namespace {

constexpr PageCount kKernel = PageCount::FromBytes(MiB(2));

// The allocator numbers frames from 0 without a hole: first those above it, then those below.
sim::FrameAllocatorOptions AllocatorOptions(const MemoryMap& map,
                                            const GuestFrames::Options& options) {
  if (options.gigabytes) {
    return {.frames = PageCount::FromBytes(map.ram_above_hole()),
            .shuffled = options.shuffled,
            .fragmentation = options.fragmentation,
            .seed = options.seed};
  }
  const ByteCount all = map.ram_below_hole() + map.ram_above_hole();
  return {.frames = PageCount::FromBytes(all) - kKernel,
          .reserved = PageCount(0),
          .shuffled = options.shuffled,
          .fragmentation = options.fragmentation,
          .seed = options.seed};
}

}  // namespace

GuestFrames::GuestFrames(const MemoryMap& map, const Options& options)
    : above_(PageCount::FromBytes(map.ram_above_hole())),
      allocator_(AllocatorOptions(map, options)) {
  if (!options.gigabytes) return;
  below_.emplace(sim::FrameAllocatorOptions{.frames = PageCount::FromBytes(map.ram_below_hole()),
                                            .reserved = kKernel,
                                            .shuffled = options.shuffled,
                                            .fragmentation = options.fragmentation,
                                            .seed = options.seed + 1});
}

// The first GiB has the kernel in it and is never whole: small pages come out of it first.
std::optional<Gfn> GuestFrames::AllocateAligned(Level level) {
  const int order = level.shift() - kPageShift;
  const auto above = [&]() -> std::optional<Gfn> {
    const std::optional<Hfn> frame = allocator_.Allocate(order);
    if (!frame.has_value()) return std::nullopt;
    return Gfn::Of(Gpa(MemoryMap::kAboveHole)) + PageCount(frame->raw());
  };
  if (level == kLevel1G) {
    if (const std::optional<Gfn> gfn = above()) return gfn;
  }
  if (const std::optional<Hfn> frame = below_->Allocate(order)) return Gfn(frame->raw());
  return level == kLevel1G ? std::nullopt : above();
}

std::optional<Gfn> GuestFrames::Allocate(Level level) {
  if (level == kLevel4K && !freed_.empty()) {
    const Gfn gfn = freed_.back();
    freed_.pop_back();
    return gfn;
  }
  if (below_.has_value()) return AllocateAligned(level);
  const std::optional<Hfn> frame = allocator_.Allocate(level.shift() - kPageShift);
  if (!frame.has_value()) return std::nullopt;
  const PageCount number(frame->raw());
  if (number < above_) return Gfn::Of(Gpa(MemoryMap::kAboveHole)) + number;
  return Gfn(0) + kKernel + (number - above_);
}

}  // namespace tdp::tools
