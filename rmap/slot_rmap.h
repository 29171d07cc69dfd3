// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The reverse map of a slot: for each of its frames, at each size of leaf, the entries that map it.

#ifndef TDP_RMAP_SLOT_RMAP_H_
#define TDP_RMAP_SLOT_RMAP_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/rmap/rmap_head.h"

namespace tdp {

// Heads come to be 512 at a time, a page of them, before the first of them is used: a slot costs
// what it maps, and 8 bytes a page that is mapped once.
//
// Any thread may `Find` and `Prepare`. The heads themselves belong to whoever excludes all others,
// or holds their lock: there is one for the heads of the 512 leaves that one table has.
class SlotRmap {
  struct Chunk;

 public:
  static constexpr int kLevels = 3;  // 4 KiB, 2 MiB and 1 GiB leaves

  // Holds the lock of the head for leaves of `level` that map `gfn`, a frame of the slot. A spin
  // lock, for a few dozen instructions; a thread holds one at a time.
  class Hold {
   public:
    ABSL_ATTRIBUTE_ALWAYS_INLINE Hold(const SlotRmap& rmap, Gfn gfn, Level level)
        : index_(rmap.IndexOf(gfn, level)), word_(rmap.WordOf(index_, level)) {
      const uintptr_t word = word_.load(std::memory_order_relaxed);
      if (ABSL_PREDICT_FALSE(word == 0)) return;
      uintptr_t unlocked = word & ~kLocked;
      if (ABSL_PREDICT_FALSE(!word_.compare_exchange_strong(unlocked, unlocked | kLocked,
                                                            std::memory_order_acquire,
                                                            std::memory_order_relaxed))) {
        Wait();
      }
      chunk_ = ChunkOf(word);  // it stays the same
    }
    ABSL_ATTRIBUTE_ALWAYS_INLINE ~Hold() {
      if (ABSL_PREDICT_FALSE(chunk_ == nullptr)) return;
      word_.store(reinterpret_cast<uintptr_t>(chunk_), std::memory_order_release);
    }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;

    // Returns whether there is a head to hold: not so if nothing there was ever prepared.
    bool is_there() const { return chunk_ != nullptr; }
    // Returns the head, if `is_there()`.
    RmapHead& head() const { return chunk_->heads[index_ % kHeadsPerChunk]; }

   private:
    void Wait();

    const uint64_t index_;
    Atomic<uintptr_t>& word_;
    Chunk* chunk_ = nullptr;
  };

  // Makes the reverse map of the `pages` (above 0) frames from `base` on. ResourceExhausted without
  // memory for its directories (a byte for 64 pages).
  static absl::StatusOr<std::unique_ptr<SlotRmap>> Create(Gfn base, PageCount pages);
  // By then every head is empty.
  ~SlotRmap();

  SlotRmap(const SlotRmap&) = delete;
  SlotRmap& operator=(const SlotRmap&) = delete;

  Gfn base() const { return base_; }
  Gfn end() const { return end_; }

  // Makes room for the heads of `gfn`, a frame of the slot, at every level. May allocate: hold no
  // lock. ResourceExhausted if there is no memory. Cheap where there is room.
  absl::Status Prepare(Gfn gfn) {
    if (ABSL_PREDICT_TRUE(IsPrepared(gfn))) return absl::OkStatus();
    return PrepareSlow(gfn);
  }
  bool IsPrepared(Gfn gfn) const { return Find(gfn, kLevel4K) != nullptr; }

  // Returns the head for leaves of `level`, 1 to 3, that map `gfn`, a frame of the slot; null if
  // nothing there was ever prepared.
  RmapHead* Find(Gfn gfn, Level level) const {
    const uint64_t index = IndexOf(gfn, level);
    Chunk* chunk = ChunkOf(WordOf(index, level).load(std::memory_order_acquire));
    return chunk == nullptr ? nullptr : &chunk->heads[index % kHeadsPerChunk];
  }

  // Returns whether the heads for 4 KiB leaves of two frames have the same lock.
  static bool ShareLock(Gfn a, Gfn b) { return (a.raw() ^ b.raw()) < kHeadsPerChunk; }
  // Returns the head for the 4 KiB leaf of `gfn`. `head` is that of `near`, with which it shares
  // its lock.
  static RmapHead& HeadBeside(RmapHead& head, Gfn near, Gfn gfn) {
    return *(&head + static_cast<int64_t>(gfn.raw() - near.raw()));
  }

  // Calls `visit(gfn, head)` for each head of `level` that is not empty and whose leaf touches
  // [first, end), a range inside the slot that is not empty. `gfn` is the first frame of the leaf.
  template <typename Visit>
  void ForEach(Level level, Gfn first, Gfn end, Visit visit) const {
    const uint64_t origin = Origin(level);
    const uint64_t stop = IndexOf(end - PageCount(1), level) + 1;
    for (uint64_t i = IndexOf(first, level); i < stop;) {
      Chunk* chunk = ChunkOf(WordOf(i, level).load(std::memory_order_acquire));
      const uint64_t chunk_end = (i / kHeadsPerChunk + 1) * kHeadsPerChunk;
      const uint64_t last = chunk_end < stop ? chunk_end : stop;
      for (; chunk != nullptr && i < last; ++i) {
        RmapHead& head = chunk->heads[i % kHeadsPerChunk];
        if (!head.is_empty()) visit(Gfn((origin + i) * level.pages().raw()), head);
      }
      i = last;
    }
  }

  // Returns memory in use, this object included.
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  static constexpr uint64_t kHeadsPerChunk = 512;
  struct alignas(64) Chunk {
    std::array<RmapHead, kHeadsPerChunk> heads;
  };
  // Holds the address of a chunk, 0 where there is none, and in bit 0 whether its heads are locked.
  // Eight lie in a cache line: vCPUs that fault 16 MiB apart do not share one.
  using Word = Atomic<uintptr_t>;
  static constexpr size_t kWordsPerLine = 64 / sizeof(uintptr_t);
  struct Directory {
    std::unique_ptr<Word[]> memory;
    Word* words = nullptr;  // of `memory`, from the beginning of a line on
  };
  static constexpr uintptr_t kLocked = 1;
  static Chunk* ChunkOf(uintptr_t word) { return reinterpret_cast<Chunk*>(word & ~kLocked); }

  SlotRmap(Gfn base, PageCount pages) : base_(base), end_(base + pages) {}

  // Returns where frames of a level are counted from: from guest address 0, rounded down so that
  // chunks are aligned.
  uint64_t Origin(Level level) const {
    return base_.raw() / level.pages().raw() / kHeadsPerChunk * kHeadsPerChunk;
  }
  uint64_t IndexOf(Gfn gfn, Level level) const {
    return gfn.raw() / level.pages().raw() - Origin(level);
  }
  uint64_t ChunksAt(Level level) const {
    return IndexOf(end_ - PageCount(1), level) / kHeadsPerChunk + 1;
  }
  Word& WordOf(uint64_t index, Level level) const {
    return directories_[static_cast<size_t>(level.raw() - 1)].words[index / kHeadsPerChunk];
  }
  bool MakeDirectories();
  absl::Status PrepareSlow(Gfn gfn);

  const Gfn base_;
  const Gfn end_;
  std::array<Directory, kLevels> directories_;
  Atomic<size_t> bytes_{sizeof(SlotRmap)};
};

}  // namespace tdp

#endif  // TDP_RMAP_SLOT_RMAP_H_
