// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The dirty bitmap of a slot: which of its pages were written since they were last taken.
//
// A radix tree over 64-page words. A chunk holds the words of 16 MiB of guest memory, a directory
// 512 chunks; both come to be when a page in them is about to be written, so a slot costs what it
// touches. On every floor a summary bit says which words, chunks and directories may hold a dirty
// page: taking the log costs what is dirty, not what the slot spans.
//
// Marking goes bottom up (word, then summaries), taking goes top down (summaries, then word), and
// all of it is sequentially consistent. So a page whose `Mark` returned before a `Take` began is in
// that `Take`: had the marker seen a summary bit that the taker has since cleared, the taker reads
// the word after the marker wrote it.

#ifndef TDP_MEMSLOT_DIRTY_LOG_H_
#define TDP_MEMSLOT_DIRTY_LOG_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/base/optimization.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/sync.h"
#include "tdp/memslot/dirty_pages.h"

namespace tdp {

class DirtyLog {
  struct Chunk;
  struct Directory;

 public:
  static constexpr uint64_t kPagesPerWord = 64;
  static constexpr uint64_t kWordsPerChunk = 64;
  static constexpr uint64_t kChunksPerDirectory = 512;
  static constexpr uint64_t kPagesPerChunk = kPagesPerWord * kWordsPerChunk;
  static constexpr uint64_t kPagesPerDirectory = kPagesPerChunk * kChunksPerDirectory;

  enum class Initial { kClean, kAllDirty };

  using Visitor = DirtyPageVisitor;

  // Makes the log of a slot of `pages` pages. ResourceExhausted if there is no memory. `kAllDirty`
  // starts with every page dirty and costs no more.
  static absl::StatusOr<std::unique_ptr<DirtyLog>> Create(PageCount pages, Initial initial);

  ~DirtyLog();
  DirtyLog(const DirtyLog&) = delete;
  DirtyLog& operator=(const DirtyLog&) = delete;

  PageCount pages() const { return PageCount(pages_); }

  // Makes room for marking page `index`. It allocates, so call it before any section; any thread
  // may. ResourceExhausted if there is no memory. Cheap when there is room.
  absl::Status Prepare(uint64_t index) {
    if (ABSL_PREDICT_TRUE(IsPrepared(index))) return absl::OkStatus();
    return PrepareSlow(index);
  }
  bool IsPrepared(uint64_t index) const { return absent_is_dirty_ || FindChunk(index) != nullptr; }

  // Tells where a page is marked, found once for both questions that a fault has. It is good for as
  // long as the log.
  class Place {
   public:
    Place() = default;

    // Returns whether the log has memory for the page; if not, it may still count as prepared.
    bool is_there() const { return chunk_ != nullptr; }

   private:
    friend class DirtyLog;
    Directory* directory_ = nullptr;
    Chunk* chunk_ = nullptr;
  };
  Place Find(uint64_t index) const;
  bool IsPrepared(const Place& place) const { return absent_is_dirty_ || place.chunk_ != nullptr; }
  // Marks page `index`, whose place is `place`.
  void Mark(const Place& place, uint64_t index);

  // Marks page `index`, which has been prepared. Any thread may; it is lock-free, never allocates,
  // and loads alone if the page is dirty already. Make the page writable first, then mark it
  // (docs/locking.md).
  void Mark(uint64_t index) {
    MarkWord(index & ~(kPagesPerWord - 1), uint64_t{1} << (index % kPagesPerWord));
  }
  // Marks page `base + i` for every bit i of `mask`; `base` is a multiple of 64 and prepared, and
  // no bit stands for a page beyond the slot.
  void MarkWord(uint64_t base, uint64_t mask);

  // Lets the lines come that a mark of page `index` will need.
  void Prefetch(uint64_t index) const {
    if (const Chunk* chunk = FindChunk(index); chunk != nullptr) {
      __builtin_prefetch(&chunk->summary, 1);
      __builtin_prefetch(&chunk->words[index / kPagesPerWord % kWordsPerChunk], 1);
    }
  }

  bool IsDirty(uint64_t index) const;
  uint64_t CountDirty() const;

  // Takes every dirty page out of the log and shows it to `visit`, which write-protects it. After
  // that come the flush and the hand-out, in this order (docs/locking.md). One taker or clearer at
  // a time. ResourceExhausted, with nothing taken, is possible only in a log that started all
  // dirty.
  absl::Status Take(Visitor visit);

  // Shows every dirty page to `visit` and leaves it dirty.
  void Copy(Visitor visit) const;

  // Takes the pages of [first, first + count) whose bit in `bits` is set (bit 0 is page `first`)
  // out of the log, and shows those that were dirty to `visit`. `first` is a multiple of 64; `bits`
  // has a bit for each page, at least. One taker or clearer at a time. ResourceExhausted, with
  // nothing taken, as `Take`.
  absl::Status Clear(uint64_t first, uint64_t count, absl::Span<const uint64_t> bits,
                     Visitor visit);

  // Returns memory in use, this object included.
  size_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  using Word = Atomic<uint64_t>;

  // Every part that vCPUs may write while others read or write the next one has cache lines of its
  // own: a vCPU's pages are marked in chunks that no other vCPU's are in, if they lie 16 MiB apart.
  struct alignas(64) Chunk {
    std::array<Word, kWordsPerChunk / 64> summary;  // which words may be dirty
    std::array<Word, kWordsPerChunk> words;
  };
  struct alignas(64) Directory {
    ~Directory();
    std::array<Word, kChunksPerDirectory / 64> summary;  // which chunks may be dirty
    std::array<Atomic<Chunk*>, kChunksPerDirectory> chunks;
  };
  // 2^31 pages, the most that a slot has, are 1024 directories.
  struct Root {
    std::unique_ptr<Atomic<Directory*>[]> directories;
    alignas(64) std::array<Word, 1024 / 64> summary;
  };

  DirtyLog(PageCount pages, Initial initial);

  Directory* FindDirectory(uint64_t index) const {
    return root_.directories[index / kPagesPerDirectory].load(std::memory_order_acquire);
  }
  Chunk* FindChunk(uint64_t index) const {
    Directory* directory = FindDirectory(index);
    if (directory == nullptr) return nullptr;
    return directory->chunks[index / kPagesPerChunk % kChunksPerDirectory].load(
        std::memory_order_acquire);
  }

  // Sets a bit that is there mostly.
  template <size_t kWords>
  static void SetBit(std::array<Word, kWords>& bits, uint64_t index) {
    Word& word = bits[index / 64];
    const bool is_set = (word.load(std::memory_order_seq_cst) >> (index % 64) & 1) != 0;
    if (ABSL_PREDICT_FALSE(!is_set)) {
      word.fetch_or(uint64_t{1} << (index % 64), std::memory_order_seq_cst);
    }
  }
  void MarkIn(Directory& directory, Chunk& chunk, uint64_t base, uint64_t mask);
  absl::Status PrepareSlow(uint64_t index);
  // Gives every absent chunk of [first, last) that counts as dirty its memory.
  absl::Status Materialize(uint64_t first, uint64_t last);
  Directory* MakeDirectory(uint64_t index);
  Chunk* MakeChunk(Directory* directory, uint64_t index);
  void TakeDirectory(Directory* directory, uint64_t base, Visitor visit);
  static void TakeChunk(Chunk* chunk, uint64_t base, Visitor visit);
  void CopyDirectory(const Directory* directory, uint64_t base, Visitor visit) const;
  void CopyChunk(const Chunk* chunk, uint64_t base, Visitor visit) const;
  void ClearWord(uint64_t base, uint64_t mask, Visitor visit);
  // Returns the bits of the pages of the word at `base` that lie inside the slot.
  uint64_t WordMask(uint64_t base) const;

  const uint64_t pages_;
  // True of a log that started all dirty: pages without a chunk are dirty.
  const bool absent_is_dirty_;
  const uint64_t directories_;
  Root root_;
  Atomic<size_t> bytes_;  // behind a whole number of lines
};

inline DirtyLog::Place DirtyLog::Find(uint64_t index) const {
  Place place;
  place.directory_ = FindDirectory(index);
  if (ABSL_PREDICT_TRUE(place.directory_ != nullptr)) {
    place.chunk_ = place.directory_->chunks[index / kPagesPerChunk % kChunksPerDirectory].load(
        std::memory_order_acquire);
  }
  return place;
}

inline void DirtyLog::MarkIn(Directory& directory, Chunk& chunk, uint64_t base, uint64_t mask) {
  const uint64_t word_index = base / kPagesPerWord % kWordsPerChunk;
  Word& word = chunk.words[word_index];
  if ((~word.load(std::memory_order_seq_cst) & mask) != 0) {
    word.fetch_or(mask, std::memory_order_seq_cst);
  }
  // The summaries are set even where the word needed no change: its marker may not have come to
  // them yet.
  SetBit(chunk.summary, word_index);
  SetBit(directory.summary, base / kPagesPerChunk % kChunksPerDirectory);
  SetBit(root_.summary, base / kPagesPerDirectory);
}

inline void DirtyLog::Mark(const Place& place, uint64_t index) {
  // A place without a chunk was found in a log that started all dirty. A take may have given the
  // page its chunk since, and have taken the page out.
  if (ABSL_PREDICT_FALSE(place.chunk_ == nullptr)) return Mark(index);
  MarkIn(*place.directory_, *place.chunk_, index & ~(kPagesPerWord - 1),
         uint64_t{1} << (index % kPagesPerWord));
}

}  // namespace tdp

#endif  // TDP_MEMSLOT_DIRTY_LOG_H_
