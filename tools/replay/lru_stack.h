// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Mattson's stack: for each use of a page, how many other pages were used since its last one. A
// fully associative LRU cache of n entries hits where that is less than n, for every n at once
// (Mattson et al., "Evaluation Techniques for Storage Hierarchies", IBM Systems Journal 1970; the
// tree is Bennett and Kruskal's, "LRU Stack Processing", 1975).

#ifndef TDP_TOOLS_REPLAY_LRU_STACK_H_
#define TDP_TOOLS_REPLAY_LRU_STACK_H_

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace tdp::tools {

// Pages have numbers that the caller gives out from 0 on, without gaps, so that what is known of
// them stands in arrays.
class LruStack {
 public:
  static constexpr uint64_t kNew = ~uint64_t{0};

  LruStack() { top_.fill(kNone); }

  // The number of other pages that were touched since `page` was; kNew at its first touch. It is on
  // top afterwards. Takes time in the logarithm of the number of pages, and less near the top.
  uint64_t Touch(uint32_t page) {
    if (top_[0] == page) return 0;
    if (top_[1] == page) {
      std::swap(top_[0], top_[1]);
      return 1;
    }
    const uint32_t last = top_.back();
    const size_t place = MoveToFront(page);
    return place < kTop ? place : TouchDeep(page, last);
  }

  // Puts `page`, one of the two on top, on top.
  void RaiseNext(uint32_t page) {
    if (top_[0] != page) std::swap(top_[0], top_[1]);
  }

  size_t pages() const { return time_.size(); }

 private:
  // Pages near the top stand in an array, in their order; each of the others has the time at which
  // it left the array, and a bit at that time in a map whose words a tree counts.
  static constexpr size_t kTop = 16;
  static constexpr uint32_t kNone = ~uint32_t{0};
  static constexpr uint32_t kInTop = ~uint32_t{0};
  static constexpr size_t kBits = 64;

  size_t MoveToFront(uint32_t page);
  uint64_t TouchDeep(uint32_t page, uint32_t last);
  void PushDown(uint32_t page);
  // Adds `by`, modulo 2^32, to the count of the word with number `word`.
  void Count(size_t word, uint32_t by);
  // Returns how many pages left the array at `time` or later.
  uint64_t CountFrom(size_t time) const;
  void Renumber();

  alignas(64) std::array<uint32_t, kTop> top_;
  std::vector<uint32_t> time_;     // by page: when it left the array, or kInTop
  std::vector<uint32_t> page_at_;  // by time
  std::vector<uint64_t> left_;     // by time, a bit: the page there has not come back
  std::vector<uint32_t> tree_;     // Fenwick over the words of `left_`, from 1
  size_t now_ = 0;                 // the next time
  uint32_t below_ = 0;             // pages that are not in the array
};

// Moves the pages above `page` down by one, and `page` above them; all, if it is not there. Where
// it was; kTop if it was not.
inline size_t LruStack::MoveToFront(uint32_t page) {
#ifdef __SSE2__
  // The whole array at once, since where a page stands cannot be predicted.
  auto* const top = reinterpret_cast<__m128i*>(top_.data());
  const __m128i v0 = _mm_load_si128(top);
  const __m128i v1 = _mm_load_si128(top + 1);
  const __m128i v2 = _mm_load_si128(top + 2);
  const __m128i v3 = _mm_load_si128(top + 3);
  const __m128i first = _mm_cvtsi32_si128(static_cast<int>(page));
  const __m128i all = _mm_shuffle_epi32(first, 0);
  const __m128i equal =
      _mm_packs_epi16(_mm_packs_epi32(_mm_cmpeq_epi32(v0, all), _mm_cmpeq_epi32(v1, all)),
                      _mm_packs_epi32(_mm_cmpeq_epi32(v2, all), _mm_cmpeq_epi32(v3, all)));
  const auto found = static_cast<uint32_t>(_mm_movemask_epi8(equal));
  const int place = std::countr_zero(found | uint32_t{1} << kTop);
  const __m128i places = _mm_set1_epi32(place);
  const auto below = [&places](int number) {
    return _mm_cmpgt_epi32(_mm_setr_epi32(number, number + 1, number + 2, number + 3), places);
  };
  const auto move = [](__m128i keep, __m128i old, __m128i moved) {
    return _mm_or_si128(_mm_and_si128(keep, old), _mm_andnot_si128(keep, moved));
  };
  const auto shift = [](__m128i before, __m128i old) {
    return _mm_or_si128(_mm_slli_si128(old, 4), _mm_srli_si128(before, 12));
  };
  _mm_store_si128(top, move(below(0), v0, _mm_or_si128(_mm_slli_si128(v0, 4), first)));
  _mm_store_si128(top + 1, move(below(4), v1, shift(v0, v1)));
  _mm_store_si128(top + 2, move(below(8), v2, shift(v1, v2)));
  _mm_store_si128(top + 3, move(below(12), v3, shift(v2, v3)));
  return static_cast<size_t>(place);
#else
  uint32_t moved = page;
  for (size_t i = 0; i < kTop; ++i) {
    std::swap(moved, top_[i]);
    if (moved == page) return i;
  }
  return kTop;
#endif
}

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_LRU_STACK_H_
