// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/frame_allocator.h"

#include <algorithm>
#include <utility>

#include "tdp/base/check.h"
#include "tdp/base/index.h"

namespace tdp::sim {
namespace {

constexpr int kOrder2M = 9;
constexpr int kShuffledRefillBlocks = 8;

}  // namespace

FrameAllocator::FrameAllocator(const FrameAllocatorOptions& options) : options_(options) {
  TDP_CHECK_LE(options.reserved.raw(), options.frames.raw());
  Reset();
}

void FrameAllocator::Reset() {
  const uint64_t frames = options_.frames.raw();
  const uint64_t reserved = options_.reserved.raw();
  random_.seed(options_.seed);
  free_frames_ = PageCount();
  for (int order = 0; order <= kMaxOrder; ++order) {
    free_bits_[AsIndex(order)].assign(((frames >> order) + 1) / 64 + 1, 0);
    stacks_[AsIndex(order)].clear();
  }
  // The largest aligned blocks from the top down, so that the stacks give the lowest first.
  for (uint64_t end = frames; end > reserved;) {
    int order = kMaxOrder;
    while ((end & ((uint64_t{1} << order) - 1)) != 0 || end - reserved < (uint64_t{1} << order)) {
      --order;
    }
    end -= uint64_t{1} << order;
    PushFree(end >> order, order);
    free_frames_ += PageCount(uint64_t{1} << order);
  }
  if (options_.fragmentation <= 0) return;
  std::bernoulli_distribution broken(std::min(options_.fragmentation, 1.0));
  for (uint64_t block = (reserved + 511) >> kOrder2M; block < frames >> kOrder2M; ++block) {
    if (broken(random_)) PinOneFrameOf(block);
  }
}

bool FrameAllocator::IsFree(uint64_t block, int order) const {
  return (free_bits_[AsIndex(order)][block / 64] >> block % 64 & 1) != 0;
}

void FrameAllocator::SetFree(uint64_t block, int order, bool free) {
  const uint64_t bit = uint64_t{1} << block % 64;
  uint64_t& word = free_bits_[AsIndex(order)][block / 64];
  word = free ? word | bit : word & ~bit;
}

void FrameAllocator::PushFree(uint64_t block, int order) {
  SetFree(block, order, true);
  stacks_[AsIndex(order)].push_back(block);
}

std::optional<uint64_t> FrameAllocator::PopFree(int order) {
  std::vector<uint64_t>& stack = stacks_[AsIndex(order)];
  while (!stack.empty()) {
    const uint64_t block = stack.back();
    stack.pop_back();
    if (!IsFree(block, order)) continue;
    SetFree(block, order, false);
    return block;
  }
  return std::nullopt;
}

std::optional<uint64_t> FrameAllocator::TakeBlock(int order) {
  int from = order;
  std::optional<uint64_t> block = PopFree(from);
  while (!block.has_value()) {
    if (++from > kMaxOrder) return std::nullopt;
    block = PopFree(from);
  }
  for (; from > order; --from) {
    block = *block * 2;
    PushFree(*block + 1, from - 1);
  }
  return block;
}

// Breaks up several large blocks and hands their frames out in one random order.
void FrameAllocator::RefillShuffledFrames() {
  std::vector<uint64_t> frames;
  for (int i = 0; i < kShuffledRefillBlocks; ++i) {
    const std::optional<uint64_t> block = TakeBlock(kOrder2M);
    if (!block.has_value()) break;
    for (uint64_t frame = 0; frame < 512; ++frame) frames.push_back(*block * 512 + frame);
  }
  for (size_t i = frames.size(); i > 1; --i) std::swap(frames[i - 1], frames[random_() % i]);
  for (uint64_t frame : frames) PushFree(frame, 0);
}

std::optional<Hfn> FrameAllocator::Allocate(int order) {
  TDP_CHECK_LE(order, kMaxOrder);
  std::optional<uint64_t> block;
  if (order == 0 && options_.shuffled) {
    block = PopFree(0);
    if (!block.has_value()) RefillShuffledFrames();
  }
  if (!block.has_value()) block = TakeBlock(order);
  if (!block.has_value()) return std::nullopt;
  free_frames_ -= PageCount(uint64_t{1} << order);
  return Hfn(*block << order);
}

void FrameAllocator::Free(Hfn frame, int order) {
  TDP_CHECK(frame.is_aligned(PageCount(uint64_t{1} << order)));
  free_frames_ += PageCount(uint64_t{1} << order);
  uint64_t block = frame.raw() >> order;
  TDP_CHECK(!IsFree(block, order));
  while (order < kMaxOrder && IsFree(block ^ 1, order)) {
    SetFree(block ^ 1, order, false);
    block /= 2;
    ++order;
  }
  PushFree(block, order);
}

void FrameAllocator::PinOneFrameOf(uint64_t block_of_2m) {
  TakeFrame(block_of_2m * 512 + random_() % 512);
}

// Takes this very frame out of whatever free block holds it.
void FrameAllocator::TakeFrame(uint64_t frame) {
  int order = 0;
  while (order <= kMaxOrder && !IsFree(frame >> order, order)) ++order;
  if (order > kMaxOrder) return;
  SetFree(frame >> order, order, false);
  for (; order > 0; --order) PushFree(frame >> (order - 1) ^ 1, order - 1);
  free_frames_ -= PageCount(1);
}

}  // namespace tdp::sim
