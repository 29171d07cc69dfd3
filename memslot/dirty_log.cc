// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/dirty_log.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/base/index.h"
#include "tdp/base/status_macros.h"
#include "tdp/base/sync.h"

namespace tdp {
namespace {

constexpr uint64_t kAllOnes = ~uint64_t{0};

constexpr uint64_t DivideUp(uint64_t n, uint64_t by) { return (n + by - 1) / by; }

// Returns bits [0, n) of a word; all for n >= 64, none for n <= 0.
constexpr uint64_t LowBits(int64_t n) {
  return n <= 0 ? 0 : n >= 64 ? kAllOnes : (uint64_t{1} << n) - 1;
}

// Sets bits [0, n) of the words of `bits`.
template <typename Words>
void SetLowBits(Words& bits, uint64_t n) {
  for (size_t i = 0; i < bits.size(); ++i) {
    bits[i].store(LowBits(static_cast<int64_t>(n) - static_cast<int64_t>(i * 64)),
                  std::memory_order_relaxed);
  }
}

// Calls `visit(n)` for each set bit n of `mask`, counted from `base`.
template <typename Visit>
void ForEachBit(uint64_t mask, uint64_t base, const Visit& visit) {
  for (; mask != 0; mask &= mask - 1) visit(base + AsIndex(std::countr_zero(mask)));
}

// Clears `bits`, a word at a time, and calls `visit(n)` for each that was set.
template <typename Words, typename Visit>
void TakeBits(Words& bits, const Visit& visit) {
  for (size_t i = 0; i < bits.size(); ++i) {
    if (bits[i].load(std::memory_order_seq_cst) == 0) continue;
    ForEachBit(bits[i].exchange(0, std::memory_order_seq_cst), i * 64, visit);
  }
}

template <typename Words, typename Visit>
void ReadBits(const Words& bits, const Visit& visit) {
  for (size_t i = 0; i < bits.size(); ++i) {
    ForEachBit(bits[i].load(std::memory_order_seq_cst), i * 64, visit);
  }
}

absl::Status NoMemory(uint64_t index) {
  return absl::ResourceExhaustedError(
      absl::StrFormat("no memory for the dirty log of page %d of the slot", index));
}

// Puts `fresh` into `place` unless another thread was first. Returns what is there then.
template <typename T>
T* Install(Atomic<T*>& place, std::unique_ptr<T> fresh, Atomic<size_t>& bytes) {
  T* present = nullptr;
  if (!place.compare_exchange_strong(present, fresh.get(), std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
    return present;
  }
  bytes.fetch_add(sizeof(T), std::memory_order_relaxed);
  return fresh.release();
}

}  // namespace

DirtyLog::Directory::~Directory() {
  for (Atomic<Chunk*>& chunk : chunks) delete chunk.load(std::memory_order_relaxed);
}

absl::StatusOr<std::unique_ptr<DirtyLog>> DirtyLog::Create(PageCount pages, Initial initial) {
  std::unique_ptr<DirtyLog> log(new (std::nothrow) DirtyLog(pages, initial));
  if (log == nullptr || log->root_.directories == nullptr) return NoMemory(0);
  return log;
}

DirtyLog::DirtyLog(PageCount pages, Initial initial)
    : pages_(pages.raw()),
      absent_is_dirty_(initial == Initial::kAllDirty),
      directories_(DivideUp(pages.raw(), kPagesPerDirectory)),
      bytes_(sizeof(*this) + directories_ * sizeof(Atomic<Directory*>)) {
  TDP_CHECK_LE(directories_, 64 * root_.summary.size());
  root_.directories.reset(new (std::nothrow) Atomic<Directory*>[directories_]());
  if (absent_is_dirty_) SetLowBits(root_.summary, directories_);
}

DirtyLog::~DirtyLog() {
  if (root_.directories == nullptr) return;
  for (uint64_t i = 0; i < directories_; ++i) {
    delete root_.directories[i].load(std::memory_order_relaxed);
  }
}

uint64_t DirtyLog::WordMask(uint64_t base) const {
  return LowBits(static_cast<int64_t>(pages_) - static_cast<int64_t>(base));
}

DirtyLog::Directory* DirtyLog::MakeDirectory(uint64_t index) {
  if (Directory* present = FindDirectory(index); present != nullptr) return present;
  std::unique_ptr<Directory> fresh(new (std::nothrow) Directory());
  if (fresh == nullptr) return nullptr;
  const uint64_t base = index & ~(kPagesPerDirectory - 1);
  if (absent_is_dirty_) SetLowBits(fresh->summary, DivideUp(pages_ - base, kPagesPerChunk));
  return Install(root_.directories[index / kPagesPerDirectory], std::move(fresh), bytes_);
}

DirtyLog::Chunk* DirtyLog::MakeChunk(Directory* directory, uint64_t index) {
  Atomic<Chunk*>& place = directory->chunks[index / kPagesPerChunk % kChunksPerDirectory];
  if (Chunk* present = place.load(std::memory_order_acquire); present != nullptr) return present;
  std::unique_ptr<Chunk> fresh(new (std::nothrow) Chunk());
  if (fresh == nullptr) return nullptr;
  const uint64_t base = index & ~(kPagesPerChunk - 1);
  if (absent_is_dirty_) {
    SetLowBits(fresh->summary, DivideUp(pages_ - base, kPagesPerWord));
    SetLowBits(fresh->words, pages_ - base);
  }
  return Install(place, std::move(fresh), bytes_);
}

absl::Status DirtyLog::PrepareSlow(uint64_t index) {
  TDP_CHECK_LT(index, pages_);
  Directory* directory = MakeDirectory(index);
  if (directory == nullptr || MakeChunk(directory, index) == nullptr) return NoMemory(index);
  return absl::OkStatus();
}

absl::Status DirtyLog::Materialize(uint64_t first, uint64_t last) {
  if (!absent_is_dirty_) return absl::OkStatus();
  for (uint64_t at = first & ~(kPagesPerChunk - 1); at < last; at += kPagesPerChunk) {
    TDP_RETURN_IF_ERROR(PrepareSlow(at));
  }
  return absl::OkStatus();
}

void DirtyLog::MarkWord(uint64_t base, uint64_t mask) {
  TDP_DCHECK((mask & ~WordMask(base)) == 0 && base % kPagesPerWord == 0);
  Directory* const directory = FindDirectory(base);
  const uint64_t chunk_index = base / kPagesPerChunk % kChunksPerDirectory;
  Chunk* const chunk = directory == nullptr
                           ? nullptr
                           : directory->chunks[chunk_index].load(std::memory_order_acquire);
  if (chunk == nullptr) {
    // Clean pages have a chunk from `Prepare`; dirty ones stay dirty.
    TDP_CHECK(absent_is_dirty_);
    return;
  }
  MarkIn(*directory, *chunk, base, mask);
}

bool DirtyLog::IsDirty(uint64_t index) const {
  const Chunk* chunk = FindChunk(index);
  if (chunk == nullptr) return absent_is_dirty_;
  const uint64_t word =
      chunk->words[index / kPagesPerWord % kWordsPerChunk].load(std::memory_order_seq_cst);
  return (word >> (index % kPagesPerWord) & 1) != 0;
}

uint64_t DirtyLog::CountDirty() const {
  uint64_t count = 0;
  Copy([&](uint64_t, uint64_t mask) { count += AsIndex(std::popcount(mask)); });
  return count;
}

absl::Status DirtyLog::Take(Visitor visit) {
  TDP_RETURN_IF_ERROR(Materialize(0, pages_));
  TakeBits(root_.summary, [&](uint64_t i) {
    TakeDirectory(root_.directories[i].load(std::memory_order_acquire), i * kPagesPerDirectory,
                  visit);
  });
  return absl::OkStatus();
}

void DirtyLog::TakeDirectory(Directory* directory, uint64_t base, Visitor visit) {
  TakeBits(directory->summary, [&](uint64_t i) {
    TakeChunk(directory->chunks[i].load(std::memory_order_acquire), base + i * kPagesPerChunk,
              visit);
  });
}

void DirtyLog::TakeChunk(Chunk* chunk, uint64_t base, Visitor visit) {
  TakeBits(chunk->summary, [&](uint64_t i) {
    const uint64_t mask = chunk->words[i].exchange(0, std::memory_order_seq_cst);
    if (mask != 0) visit(base + i * kPagesPerWord, mask);
  });
}

void DirtyLog::Copy(Visitor visit) const {
  ReadBits(root_.summary, [&](uint64_t i) {
    CopyDirectory(root_.directories[i].load(std::memory_order_acquire), i * kPagesPerDirectory,
                  visit);
  });
}

void DirtyLog::CopyDirectory(const Directory* directory, uint64_t base, Visitor visit) const {
  const uint64_t chunks =
      std::min<uint64_t>(kChunksPerDirectory, DivideUp(pages_ - base, kPagesPerChunk));
  if (directory == nullptr) {
    for (uint64_t i = 0; i < chunks; ++i) CopyChunk(nullptr, base + i * kPagesPerChunk, visit);
    return;
  }
  ReadBits(directory->summary, [&](uint64_t i) {
    CopyChunk(directory->chunks[i].load(std::memory_order_acquire), base + i * kPagesPerChunk,
              visit);
  });
}

void DirtyLog::CopyChunk(const Chunk* chunk, uint64_t base, Visitor visit) const {
  if (chunk == nullptr) {
    const uint64_t end = std::min(pages_, base + kPagesPerChunk);
    for (uint64_t at = base; at < end; at += kPagesPerWord) visit(at, WordMask(at));
    return;
  }
  ReadBits(chunk->summary, [&](uint64_t i) {
    const uint64_t mask = chunk->words[i].load(std::memory_order_seq_cst);
    if (mask != 0) visit(base + i * kPagesPerWord, mask);
  });
}

absl::Status DirtyLog::Clear(uint64_t first, uint64_t count, absl::Span<const uint64_t> bits,
                             Visitor visit) {
  TDP_CHECK(first % kPagesPerWord == 0 && first <= pages_ && count <= pages_ - first);
  TDP_CHECK_LE(DivideUp(count, kPagesPerWord), bits.size());
  TDP_RETURN_IF_ERROR(Materialize(first, first + count));
  for (uint64_t at = 0; at < count; at += kPagesPerWord) {
    const uint64_t inside = LowBits(static_cast<int64_t>(count - at));
    ClearWord(first + at, bits[at / kPagesPerWord] & inside, visit);
  }
  return absl::OkStatus();
}

// The summaries stay set: they may promise too much, never too little.
void DirtyLog::ClearWord(uint64_t base, uint64_t mask, Visitor visit) {
  Chunk* const chunk = mask == 0 ? nullptr : FindChunk(base);
  if (chunk == nullptr) return;
  Word& word = chunk->words[base / kPagesPerWord % kWordsPerChunk];
  if ((word.load(std::memory_order_seq_cst) & mask) == 0) return;
  const uint64_t taken = word.fetch_and(~mask, std::memory_order_seq_cst) & mask;
  if (taken != 0) visit(base, taken);
}

}  // namespace tdp
