// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/judge/frames.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>

#include "tdp/base/check.h"

namespace tdp::judge {
namespace {

constexpr size_t kArenaBytes = kFrames * kPageSize;
// Low enough for a physical address of 46 bits, and aligned to the largest allocation. Several, for
// several judges in a process; the last two are free where AddressSanitizer has all below 2^44.
constexpr uint64_t kViewAddresses[] = {
    uint64_t{0x2a} << 32, uint64_t{0x54} << 32, uint64_t{0x7e} << 32,
    uint64_t{0xa8} << 32, uint64_t{0x2a} << 40, uint64_t{0x2b} << 40,
};
constexpr uint64_t kPhysicalAddress = uint64_t{0x35} << 32;
// No present entry in either format.
constexpr uint64_t kPoison = 0x0badf4eef4ee0000;
constexpr size_t kWatchedFree = 8;

}  // namespace

Frames::Frames(bool identity) : states_(kFrames, 0) {
  const int file = memfd_create("tables", 0);
  TDP_CHECK(file >= 0);
  TDP_CHECK(ftruncate(file, kArenaBytes) == 0);
  void* view = MAP_FAILED;
  for (const uint64_t at : kViewAddresses) {
    if (view != MAP_FAILED) break;
    view = mmap(reinterpret_cast<void*>(at), kArenaBytes, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_FIXED_NOREPLACE, file, 0);
  }
  void* own = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  void* noted = mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TDP_CHECK(view != MAP_FAILED && own != MAP_FAILED && noted != MAP_FAILED);
  file_ = file;
  view_ = static_cast<std::byte*>(view);
  own_ = static_cast<std::byte*>(own);
  noted_ = static_cast<std::byte*>(noted);
  first_ = identity ? reinterpret_cast<uint64_t>(view) : kPhysicalAddress;
}

void Frames::Reset() {
  std::fill(states_.begin(), states_.end(), 0);
  std::fill(states_.begin() + static_cast<ptrdiff_t>(first_adopted_), states_.end(), kAdopted);
  allocated_ = used_ = 0;
  free_.clear();
  poisoned_.clear();
  FailFrom(0);
  random_ = Random(1);
}

// Entries that a walk would believe: tables that were not cleared show.
void Frames::Garbage(size_t frame) {
  uint64_t* words = Words(frame);
  const uint64_t salt = random_.Next();
  for (size_t i = 0; i < kFrameWords; ++i) {
    const uint64_t word = (salt + i * 0x9e3779b97f4a7c15) & 0x00003ffffffff000;
    words[i] = word | (i % 2 == 0 ? 0x37 : 0xb7);
  }
}

bool Frames::IsPoisoned(size_t frame) {
  const uint64_t* words = Words(frame);
  return std::all_of(words, words + kFrameWords, [](uint64_t word) { return word == kPoison; });
}

size_t Frames::FindRun(unsigned n) const {
  for (size_t first = (used_ + n - 1) / n * n; first + n <= kFrames; first += n) {
    if (std::all_of(states_.begin() + static_cast<ptrdiff_t>(first),
                    states_.begin() + static_cast<ptrdiff_t>(first + n),
                    [](uint8_t state) { return state == 0; })) {
      return first;
    }
  }
  // None that is fresh: any.
  for (size_t first = 0; first + n <= kFrames; first += n) {
    if (std::all_of(states_.begin() + static_cast<ptrdiff_t>(first),
                    states_.begin() + static_cast<ptrdiff_t>(first + n),
                    [](uint8_t state) { return state == 0; })) {
      return first;
    }
  }
  return kFrames;
}

void* Frames::Allocate(unsigned n) {
  ++calls_;
  if (fail_from_ != 0 && calls_ >= fail_from_) {
    ++failed_;
    return nullptr;
  }
  size_t frame = kFrames;
  // Frames come back late, but do come back, so that what is written to a freed one meets the next
  // owner as well.
  if (n == 1 && free_.size() > 8) {
    frame = free_.front();
  } else {
    frame = FindRun(n);
  }
  if (frame == kFrames) {
    ++failed_;
    return nullptr;
  }
  for (size_t i = 0; i < n; ++i) {
    const auto listed = std::find(free_.begin(), free_.end(), frame + i);
    if (listed != free_.end()) free_.erase(listed);
    const auto watched = std::find(poisoned_.begin(), poisoned_.end(), frame + i);
    if (watched != poisoned_.end()) poisoned_.erase(watched);
    states_[frame + i] = kInner;
    Garbage(frame + i);
    std::copy(Words(frame + i), Words(frame + i) + kFrameWords, Noted(frame + i));
  }
  states_[frame] = static_cast<uint8_t>(1 + std::countr_zero(n));
  used_ = std::max(used_, frame + n);
  allocated_ += n;
  return view_ + frame * kPageSize;
}

bool Frames::Adopt(void* p, size_t bytes) {
  auto* const begin = static_cast<std::byte*>(p);
  for (const Adopted& adopted : adopted_) {
    if (adopted.begin == begin && adopted.bytes == bytes) return true;
  }
  const size_t n = bytes / kPageSize;
  if (n + used_ > first_adopted_) return false;
  const size_t first = first_adopted_ - n;
  if (std::any_of(states_.begin() + static_cast<ptrdiff_t>(first),
                  states_.begin() + static_cast<ptrdiff_t>(first_adopted_),
                  [](uint8_t state) { return state != 0; })) {
    return false;
  }
  std::copy(begin, begin + bytes, own_ + first * kPageSize);
  std::copy(begin, begin + bytes, noted_ + first * kPageSize);
  void* const mapped = mmap(p, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file_,
                            static_cast<off_t>(first * kPageSize));
  TDP_CHECK(mapped == p);
  std::fill(states_.begin() + static_cast<ptrdiff_t>(first),
            states_.begin() + static_cast<ptrdiff_t>(first_adopted_), kAdopted);
  first_adopted_ = first;
  adopted_.push_back({begin, bytes, first * kPageSize});
  return true;
}

uint64_t Frames::OffsetOfAdopted(const volatile void* p) const {
  for (const Adopted& adopted : adopted_) {
    const uint64_t offset =
        reinterpret_cast<uint64_t>(p) - reinterpret_cast<uint64_t>(adopted.begin);
    if (offset < adopted.bytes) return adopted.offset + offset;
  }
  return ~uint64_t{0};
}

void* Frames::ViewOf(uint64_t offset) const {
  for (const Adopted& adopted : adopted_) {
    if (offset - adopted.offset < adopted.bytes) return adopted.begin + (offset - adopted.offset);
  }
  return view_ + offset;
}

unsigned Frames::Free(void* p) {
  if (!IsInside(p) || Offset(p) % kPageSize != 0) return 0;
  const size_t frame = Offset(p) / kPageSize;
  const unsigned n = FramesOf(frame);
  for (size_t i = frame; i < frame + n; ++i) {
    states_[i] = 0;
    std::fill(Words(i), Words(i) + kFrameWords, kPoison);
    std::copy(Words(i), Words(i) + kFrameWords, Noted(i));
    free_.push_back(i);
    poisoned_.push_back(i);
  }
  while (poisoned_.size() > kWatchedFree) poisoned_.pop_front();
  allocated_ -= n;
  return n;
}

size_t Frames::FindWrittenFree() {
  for (const size_t frame : poisoned_) {
    if (!IsPoisoned(frame)) return frame;
  }
  return kFrames;
}

void Frames::Protect(bool read_only) {
  const int access = read_only ? PROT_READ : PROT_READ | PROT_WRITE;
  TDP_CHECK(mprotect(view_, kArenaBytes, access) == 0);
  for (const Adopted& adopted : adopted_) {
    TDP_CHECK(mprotect(adopted.begin, adopted.bytes, access) == 0);
  }
}

void Frames::OnEntryWrite(Hpa entry, uint64_t value) {
  const uint64_t offset = entry.raw() - first_;
  if (offset < kArenaBytes) Noted(offset / kPageSize)[offset % kPageSize / 8] = value;
}

}  // namespace tdp::judge
