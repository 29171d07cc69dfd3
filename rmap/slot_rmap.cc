// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/rmap/slot_rmap.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "absl/memory/memory.h"
#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/check.h"
#include "tdp/base/sync.h"

namespace tdp {

absl::StatusOr<std::unique_ptr<SlotRmap>> SlotRmap::Create(Gfn base, PageCount pages) {
  auto rmap = absl::WrapUnique(new (std::nothrow) SlotRmap(base, pages));
  if (rmap == nullptr || !rmap->MakeDirectories()) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("no memory for the reverse map of %u pages", pages.raw()));
  }
  return rmap;
}

bool SlotRmap::MakeDirectories() {
  for (int i = 0; i < kLevels; ++i) {
    const size_t chunks = ChunksAt(Level(i + 1));
    Directory directory(new (std::nothrow) Atomic<Chunk*>[chunks] {});
    if (directory == nullptr) return false;
    directories_[static_cast<size_t>(i)] = std::move(directory);
    bytes_.fetch_add(chunks * sizeof(Atomic<Chunk*>), std::memory_order_relaxed);
  }
  return true;
}

SlotRmap::~SlotRmap() {
  for (int i = 0; i < kLevels; ++i) {
    const Directory& directory = directories_[static_cast<size_t>(i)];
    if (directory == nullptr) return;  // `Create` failed
    for (uint64_t c = 0; c < ChunksAt(Level(i + 1)); ++c) {
      const std::unique_ptr<Chunk> chunk(directory[c].load(std::memory_order_relaxed));
      if (chunk == nullptr) continue;
      for (const RmapHead& head : chunk->heads) TDP_CHECK(head.is_empty());
    }
  }
}

// From the largest level down: whoever finds the smallest head finds them all.
absl::Status SlotRmap::PrepareSlow(Gfn gfn) {
  for (int i = kLevels; i >= 1; --i) {
    Atomic<Chunk*>& where =
        directories_[static_cast<size_t>(i - 1)][IndexOf(gfn, Level(i)) / kHeadsPerChunk];
    if (where.load(std::memory_order_acquire) != nullptr) continue;
    auto chunk = absl::WrapUnique(new (std::nothrow) Chunk);
    if (chunk == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("no memory for the reverse map of gfn 0x%x", gfn.raw()));
    }
    Chunk* none = nullptr;
    if (!where.compare_exchange_strong(none, chunk.get(), std::memory_order_acq_rel)) continue;
    chunk.release();
    bytes_.fetch_add(sizeof(Chunk), std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

}  // namespace tdp
