// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The memory of the subject's tables. It is mapped twice, so that the judge can look, and its CPU
// set flags, while the subject's own view is read-only.

#ifndef TDP_JUDGE_FRAMES_H_
#define TDP_JUDGE_FRAMES_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

#include "tdp/backends/sim/machine_state.h"
#include "tdp/backends/sim/physical_memory.h"
#include "tdp/base/address.h"
#include "tdp/judge/random.h"

namespace tdp::judge {

inline constexpr size_t kFrames = 8192;
inline constexpr size_t kFrameWords = 512;

class Frames : public sim::TableFrames, public sim::FrameProvider {
 public:
  // `identity`: physical addresses are those of the subject's view. Aborts if there is no memory.
  explicit Frames(bool identity);
  Frames(const Frames&) = delete;
  Frames& operator=(const Frames&) = delete;

  // Every frame is free again, and the same sequence of calls gives the same frames.
  void Reset();

  // --- the subject's ---
  // `n` frames, a power of two; null if there are none or a failure is due.
  void* Allocate(unsigned n);
  // Makes the memory at `p`, whole pages, frames that stay allocated; false if there is no room.
  // Its content stays. Again for the same memory it does nothing.
  bool Adopt(void* p, size_t bytes);
  // Returns how many frames `p` gave back; 0, and nothing is changed, unless `Allocate` returned
  // it.
  unsigned Free(void* p);
  // Returns how many frames the allocation has that begins at `frame`; 0 if none does.
  unsigned FramesOf(size_t frame) const {
    return states_[frame] == 0 || states_[frame] >= kAdopted ? 0 : 1u << (states_[frame] - 1);
  }
  // Makes all calls of `Allocate` fail from the `n`-th on, counted from 1; none with 0.
  void FailFrom(unsigned n) {
    fail_from_ = n;
    calls_ = 0;
    failed_ = 0;
  }
  // Allocations that failed since `FailFrom`.
  unsigned failed() const { return failed_; }

  // --- addresses ---
  bool IsInside(const volatile void* p) const { return Offset(p) < kFrames * kPageSize; }
  // Beyond the frames: `p` is outside.
  uint64_t Offset(const volatile void* p) const {
    const uint64_t offset = reinterpret_cast<uint64_t>(p) - reinterpret_cast<uint64_t>(view_);
    return offset < kFrames * kPageSize || adopted_.empty() ? offset : OffsetOfAdopted(p);
  }
  bool IsPhysical(uint64_t hpa) const { return hpa - first_ < kFrames * kPageSize; }
  uint64_t PhysOf(uint64_t offset) const { return first_ + offset; }
  void* ViewOf(uint64_t offset) const;
  sim::PhysicalMemory physical() {
    return sim::PhysicalMemory(own_, kFrames * kPageSize, this, Hpa(first_));
  }
  uint64_t first() const { return first_; }

  // --- the judge's ---
  bool IsAllocated(size_t frame) const { return states_[frame] != 0; }
  bool IsAdopted(size_t frame) const { return states_[frame] == kAdopted; }
  // Returns how many frames are allocated, adopted ones left out.
  size_t allocated() const { return allocated_; }
  uint64_t* Words(size_t frame) { return reinterpret_cast<uint64_t*>(own_ + frame * kPageSize); }
  // Returns the words as they were when they were last taken note of.
  uint64_t* Noted(size_t frame) { return reinterpret_cast<uint64_t*>(noted_ + frame * kPageSize); }
  // Returns a free frame that was written, or kFrames.
  size_t FindWrittenFree();
  // Sets whether the subject's view may be written.
  void Protect(bool read_only);

  // sim::TableFrames and sim::FrameProvider:
  bool IsTable(Hpa frame) const override {
    return IsPhysical(frame.raw()) && IsAllocated((frame.raw() - first_) / kPageSize);
  }
  std::byte* Frame(Hpa) override { return nullptr; }
  void OnEntryWrite(Hpa entry, uint64_t value) override;

 private:
  // Memory of the subject's that the frames from `offset` on are mapped over.
  struct Adopted {
    std::byte* begin;
    size_t bytes;
    uint64_t offset;
  };

  size_t FindRun(unsigned n) const;
  uint64_t OffsetOfAdopted(const volatile void* p) const;
  void Garbage(size_t frame);
  bool IsPoisoned(size_t frame);

  std::byte* view_ = nullptr;
  std::byte* own_ = nullptr;
  std::byte* noted_ = nullptr;
  uint64_t first_ = 0;
  int file_ = -1;
  std::vector<Adopted> adopted_;
  size_t first_adopted_ = kFrames;  // adopted frames are the last
  // 0: free; else 1 + log2 of the frames that the allocation which begins here has, or one of
  // these.
  static constexpr uint8_t kInner = 255;
  static constexpr uint8_t kAdopted = 254;
  std::vector<uint8_t> states_;
  size_t allocated_ = 0;
  size_t used_ = 0;              // frames that were ever handed out since `Reset`
  std::deque<size_t> free_;      // of those, free ones, the longest free first
  std::deque<size_t> poisoned_;  // lately freed
  unsigned fail_from_ = 0;
  unsigned calls_ = 0;
  unsigned failed_ = 0;
  Random random_{1};
};

}  // namespace tdp::judge

#endif  // TDP_JUDGE_FRAMES_H_
