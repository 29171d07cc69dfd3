// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/boot/bare_heap.h"

#include <algorithm>
#include <bit>
#include <new>

namespace tdp::vtx {
namespace {

constexpr size_t kSmallest = 16;

}  // namespace

void BareHeap::Init(uintptr_t start, uintptr_t end) {
  start_ = fresh_ = (start + kChunkBytes - 1) & ~(kChunkBytes - 1);
  end_ = std::min(end, start_ + kMostBytes);
}

void* BareHeap::Take(size_t bytes, size_t alignment) {
  const auto order =
      static_cast<size_t>(std::bit_width(std::max({bytes, alignment, kSmallest}) - 1));
  const SpinLockHolder hold(lock_);
  if (order >= free_.size() || (free_[order] == nullptr && !Fill(order, alignment))) return nullptr;
  Piece* const piece = free_[order];
  free_[order] = piece->next;
  return piece;
}

void BareHeap::Return(void* memory) {
  const SpinLockHolder hold(lock_);
  Piece*& first = free_[OrderOf(memory)];
  first = new (memory) Piece{first};
}

void* BareHeap::TakeFresh(size_t bytes, size_t alignment) {
  const SpinLockHolder hold(lock_);
  return Cut(bytes, alignment);
}

// Whole chunks.
void* BareHeap::Cut(size_t bytes, size_t alignment) {
  const size_t unit = std::max(alignment, kChunkBytes);
  const uintptr_t at = (fresh_ + unit - 1) & ~(unit - 1);
  const size_t whole = (bytes + kChunkBytes - 1) & ~(kChunkBytes - 1);
  if (whole < bytes || at < fresh_ || at > end_ || whole > end_ - at) return nullptr;
  fresh_ = at + whole;
  return reinterpret_cast<void*>(at);
}

// A piece of a chunk or more is aligned to its size, whatever was asked for, since it may be taken
// for another purpose later.
bool BareHeap::Fill(size_t order, size_t alignment) {
  const size_t piece = size_t{1} << order;
  const size_t bytes = std::max(piece, kChunkBytes);
  void* const memory = Cut(bytes, std::max(alignment, piece));
  if (memory == nullptr) return false;
  OrderOf(memory) = static_cast<uint8_t>(order);
  for (size_t at = 0; at < bytes; at += piece) {
    free_[order] = new (static_cast<char*>(memory) + at) Piece{free_[order]};
  }
  return true;
}

}  // namespace tdp::vtx
