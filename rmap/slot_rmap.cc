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
#include "tdp/base/spin.h"
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
    Directory& directory = directories_[static_cast<size_t>(i)];
    const size_t words = ChunksAt(Level(i + 1)) + kWordsPerLine - 1;
    directory.memory.reset(new (std::nothrow) Word[words]{});
    if (directory.memory == nullptr) return false;
    directory.words = directory.memory.get();
    while (reinterpret_cast<uintptr_t>(directory.words) % 64 >= sizeof(Word)) ++directory.words;
    bytes_.fetch_add(words * sizeof(Word), std::memory_order_relaxed);
  }
  return true;
}

SlotRmap::~SlotRmap() {
  for (int i = 0; i < kLevels; ++i) {
    if (directories_[static_cast<size_t>(i)].memory == nullptr) return;  // `Create` failed
    for (uint64_t c = 0; c < ChunksAt(Level(i + 1)); ++c) {
      const Word& word = WordOf(c * kHeadsPerChunk, Level(i + 1));
      const std::unique_ptr<Chunk> chunk(ChunkOf(word.load(std::memory_order_relaxed)));
      if (chunk == nullptr) continue;
      for (const RmapHead& head : chunk->heads) TDP_CHECK(head.is_empty());
    }
  }
}

// Takes the lock, waiting for it, and stores in `word` what the word of the unlocked chunk is.
void SlotRmap::Hold::Wait() {
  uintptr_t word = 0;
  do {
    SpinUntil([&] {
      word = word_.load(std::memory_order_relaxed);
      return (word & kLocked) == 0;
    });
  } while (!word_.compare_exchange_strong(word, word | kLocked, std::memory_order_acquire,
                                          std::memory_order_relaxed));
}

// Makes chunks from the largest level down: whoever finds the smallest head finds them all.
absl::Status SlotRmap::PrepareSlow(Gfn gfn) {
  for (int i = kLevels; i >= 1; --i) {
    Word& where = WordOf(IndexOf(gfn, Level(i)), Level(i));
    if (where.load(std::memory_order_acquire) != 0) continue;
    auto chunk = absl::WrapUnique(new (std::nothrow) Chunk);
    if (chunk == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("no memory for the reverse map of gfn 0x%x", gfn.raw()));
    }
    uintptr_t none = 0;
    const auto address = reinterpret_cast<uintptr_t>(chunk.get());
    if (!where.compare_exchange_strong(none, address, std::memory_order_acq_rel)) continue;
    chunk.release();
    bytes_.fetch_add(sizeof(Chunk), std::memory_order_relaxed);
  }
  return absl::OkStatus();
}

}  // namespace tdp
