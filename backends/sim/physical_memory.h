// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Physical memory as the simulated CPUs see it: one window of host memory, which starts at any
// physical address, and nothing (or whatever a `FrameProvider` offers) outside of it.

#ifndef TDP_BACKENDS_SIM_PHYSICAL_MEMORY_H_
#define TDP_BACKENDS_SIM_PHYSICAL_MEMORY_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "absl/base/optimization.h"
#include "tdp/base/address.h"

namespace tdp::sim {

// Offers frames outside the window, for sparse memories (table dumps at arbitrary addresses).
class FrameProvider {
 public:
  virtual ~FrameProvider() = default;
  // Returns the 4 KiB behind the page-aligned `frame`, or null if there is no memory. Every CPU
  // calls it.
  virtual std::byte* Frame(Hpa frame) = 0;
  // Says that a walk has set a flag in the paging-structure entry at `entry`, now `value`.
  virtual void OnEntryWrite(Hpa /*entry*/, uint64_t /*value*/) {}
};

// A view; copies are cheap and mean the same memory. Words are reached by atomic loads and
// compare-exchange, since an engine and other CPUs work on the same tables. As on a PC bus, a read
// where there is no memory gives all ones and a write is lost, so no access leaves the memory
// given.
class PhysicalMemory {
 public:
  // `base` is 4 KiB aligned and reaches `size` bytes, a multiple of 4 KiB. `first`, 4 KiB aligned
  // too, is the physical address of the byte at `base`.
  PhysicalMemory(std::byte* base, ByteCount size, FrameProvider* beyond = nullptr,
                 Hpa first = Hpa(0))
      : base_(base), first_(first.raw()), size_(size), beyond_(beyond) {}

  ByteCount size() const { return size_; }
  Hpa first() const { return Hpa(first_); }

  // Returns whether `hpa` lies in the window, so that `LoadInside` may be used.
  bool IsInside(uint64_t hpa) const { return hpa - first_ < size_; }
  // Does what `Load` does of a 64-bit word that lies in the window.
  uint64_t LoadInside(uint64_t hpa) const {
    return std::atomic_ref<uint64_t>(*reinterpret_cast<uint64_t*>(base_ + (hpa - first_)))
        .load(std::memory_order_acquire);
  }

  // Returns the word at `hpa`, which is aligned to the size of `Word` (uint32_t or uint64_t).
  template <typename Word = uint64_t>
  Word Load(uint64_t hpa) const {
    Word* word = At<Word>(hpa);
    if (ABSL_PREDICT_FALSE(word == nullptr)) return ~Word{0};
    return std::atomic_ref<Word>(*word).load(std::memory_order_acquire);
  }

  template <typename Word = uint64_t>
  void Store(uint64_t hpa, Word value) const {
    if (Word* word = At<Word>(hpa)) {
      std::atomic_ref<Word>(*word).store(value, std::memory_order_release);
    }
  }

  // Does a locked compare-exchange; false if the word was not `expected`. Where there is no memory
  // the write is lost and the answer is true.
  template <typename Word = uint64_t>
  bool CompareExchange(uint64_t hpa, Word expected, Word desired) const {
    Word* word = At<Word>(hpa);
    if (ABSL_PREDICT_FALSE(word == nullptr)) return true;
    const bool done = std::atomic_ref<Word>(*word).compare_exchange_strong(
        expected, desired, std::memory_order_acq_rel, std::memory_order_acquire);
    if (ABSL_PREDICT_FALSE(beyond_ != nullptr) && done) beyond_->OnEntryWrite(Hpa(hpa), desired);
    return done;
  }

 private:
  template <typename Word>
  Word* At(uint64_t hpa) const {
    if (ABSL_PREDICT_TRUE(IsInside(hpa))) return reinterpret_cast<Word*>(base_ + (hpa - first_));
    return reinterpret_cast<Word*>(Beyond(hpa));
  }

  std::byte* Beyond(uint64_t hpa) const {
    if (beyond_ == nullptr) return nullptr;
    std::byte* frame = beyond_->Frame(Hpa(hpa & ~kPageOffsetMask));
    return frame == nullptr ? nullptr : frame + (hpa & kPageOffsetMask);
  }

  std::byte* base_;
  uint64_t first_;
  ByteCount size_;
  FrameProvider* beyond_;
};

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_PHYSICAL_MEMORY_H_
