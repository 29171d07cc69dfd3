// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One page in eight, chosen by a hash of its number: every access to a chosen page is seen, none to
// another one.

#ifndef TDP_TOOLS_REPLAY_PAGE_FILTER_H_
#define TDP_TOOLS_REPLAY_PAGE_FILTER_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/types/span.h"
#include "tdp/tools/trace/trace_record.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace tdp::tools {

// Pages of 2^`kShift` bytes.
template <int kShift>
class PageFilter {
 public:
  static constexpr uint64_t kOneOf = 8;

  // Returns whether the page of this number is chosen. Its low 32 bits decide.
  static constexpr bool Chooses(uint64_t page) {
    const auto low = static_cast<int32_t>(static_cast<int16_t>(page));
    const auto high = static_cast<int32_t>(static_cast<int16_t>(page >> 16));
    const auto sum = static_cast<uint32_t>(low * kLow + high * kHigh);
    return static_cast<int32_t>(sum ^ sum << kFold) < kLimit;
  }

  // Calls `each` with the number of the page of each access to a chosen one, in order.
  template <typename Each>
  static void ForEach(absl::Span<const TraceRecord> records, Each each) {
    size_t i = 0;
#ifdef __SSE2__
    for (; i + kGroup <= records.size(); i += kGroup) {
      for (uint32_t chosen = ChosenOf(&records[i]); chosen != 0; chosen &= chosen - 1) {
        each(PageOf(records[i + static_cast<size_t>(std::countr_zero(chosen))]));
      }
    }
#endif
    for (; i < records.size(); ++i) {
      if (Chooses(PageOf(records[i]))) each(PageOf(records[i]));
    }
  }

 private:
  static constexpr size_t kGroup = 16;
  static constexpr int32_t kLow = 0x7965;
  static constexpr int32_t kHigh = -0x61c9;
  static constexpr int kFold = 15;
  static constexpr int32_t kLimit =
      std::numeric_limits<int32_t>::min() + static_cast<int32_t>((uint64_t{1} << 32) / kOneOf);

  static uint64_t PageOf(TraceRecord record) { return record.gva().raw() >> kShift; }

#ifdef __SSE2__
  // `Chooses` of four records: all bits of a lane, or none.
  static __m128i ChosenOfFour(const TraceRecord* records) {
    const auto* words = reinterpret_cast<const __m128i*>(records);
    const __m128i first = _mm_srli_epi64(_mm_loadu_si128(words), kShift);
    const __m128i second = _mm_srli_epi64(_mm_loadu_si128(words + 1), kShift);
    const __m128i pages = _mm_castps_si128(
        _mm_shuffle_ps(_mm_castsi128_ps(first), _mm_castsi128_ps(second), 0b10'00'10'00));
    const __m128i factors = _mm_set1_epi32(
        static_cast<int32_t>(static_cast<uint32_t>(kHigh) << 16 | static_cast<uint32_t>(kLow)));
    const __m128i sums = _mm_madd_epi16(pages, factors);
    return _mm_cmplt_epi32(_mm_xor_si128(sums, _mm_slli_epi32(sums, kFold)),
                           _mm_set1_epi32(kLimit));
  }

  // Returns a bit for each record of a group.
  static uint32_t ChosenOf(const TraceRecord* records) {
    const __m128i low = _mm_packs_epi32(ChosenOfFour(records), ChosenOfFour(records + 4));
    const __m128i high = _mm_packs_epi32(ChosenOfFour(records + 8), ChosenOfFour(records + 12));
    return static_cast<uint32_t>(_mm_movemask_epi8(_mm_packs_epi16(low, high)));
  }
#endif
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_PAGE_FILTER_H_
