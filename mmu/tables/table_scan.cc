// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/table_scan.h"

#include <atomic>
#include <bit>
#include <cstdint>

// SSE2 is part of x86-64. ThreadSanitizer sees no atomicity in a vector load, so it gets the loop.
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
#define TDP_SCAN_SSE2 1
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#undef TDP_SCAN_SSE2
#endif
#endif
#endif

#ifdef TDP_SCAN_SSE2
#include <emmintrin.h>
#endif

#include "tdp/base/sync.h"

namespace tdp {
namespace {

uint64_t LoadEntry(const uint64_t* entry) {
  return AtomicRef<uint64_t>(*const_cast<uint64_t*>(entry)).load(std::memory_order_acquire);
}

// Returns which of 64 entries have any of `bits`, of those that are in `lines`.
uint64_t WhichInLines(const uint64_t* entries, uint64_t bits, uint64_t lines) {
  uint64_t mask = 0;
  for (; lines != 0; lines &= lines - 1) {
    const int first = 8 * std::countr_zero(lines);
    for (int i = first; i < first + 8; ++i) {
      mask |= uint64_t{(LoadEntry(entries + i) & bits) != 0} << i;
    }
  }
  return mask;
}

// The OR of 64 entries: most blocks of most tables hold nothing that is looked for.
#ifdef TDP_SCAN_SSE2
// Each 8 bytes of an aligned vector load are read at once on every x86-64 (SDM vol. 3A, 9.1.1); no
// more is needed, as each entry is judged by itself.
uint64_t OrOf64(const uint64_t* entries) {
  const auto* vectors = reinterpret_cast<const __m128i*>(entries);
  __m128i even = _mm_setzero_si128();
  __m128i odd = _mm_setzero_si128();
  for (int i = 0; i < 32; i += 2) {
    even = _mm_or_si128(even, _mm_load_si128(vectors + i));
    odd = _mm_or_si128(odd, _mm_load_si128(vectors + i + 1));
  }
  // x86 loads acquire; this keeps the compiler from moving later ones above them.
  std::atomic_signal_fence(std::memory_order_acquire);
  even = _mm_or_si128(even, odd);
  even = _mm_or_si128(even, _mm_unpackhi_epi64(even, even));
  return static_cast<uint64_t>(_mm_cvtsi128_si64(even));
}

// Returns which of 64 entries have any of `bits`: four at a time, as the halves of one vector each.
uint64_t WhichOf64(const uint64_t* entries, uint64_t bits) {
  const auto* pairs = reinterpret_cast<const __m128i*>(entries);
  const __m128i low_bits = _mm_set1_epi32(static_cast<int>(bits));
  const __m128i high_bits = _mm_set1_epi32(static_cast<int>(bits >> 32));
  uint64_t without = 0;
  for (int i = 0; i < 16; ++i) {
    const __m128 a = _mm_castsi128_ps(_mm_load_si128(pairs + 2 * i));
    const __m128 b = _mm_castsi128_ps(_mm_load_si128(pairs + 2 * i + 1));
    const __m128i low = _mm_castps_si128(_mm_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)));
    const __m128i high = _mm_castps_si128(_mm_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)));
    const __m128i found =
        _mm_or_si128(_mm_and_si128(low, low_bits), _mm_and_si128(high, high_bits));
    const __m128i none = _mm_cmpeq_epi32(found, _mm_setzero_si128());
    without |= static_cast<uint64_t>(_mm_movemask_ps(_mm_castsi128_ps(none))) << 4 * i;
  }
  std::atomic_signal_fence(std::memory_order_acquire);
  return ~without;
}
#else
uint64_t OrOf64(const uint64_t* entries) {
  uint64_t all = 0;
  for (int i = 0; i < 64; ++i) all |= LoadEntry(entries + i);
  return all;
}

uint64_t WhichOf64(const uint64_t* entries, uint64_t bits) {
  uint64_t mask = 0;
  for (int i = 0; i < 64; ++i) {
    mask |= uint64_t{(LoadEntry(entries + i) & bits) != 0} << i;
  }
  return mask;
}
#endif

// Bits of the word `word` that stand for entries `first` to `last`.
uint64_t Inside(int word, int first, int last) {
  const int low = first - word * 64;
  const int high = last - word * 64;
  uint64_t mask = ~uint64_t{0};
  if (low > 0) mask &= ~uint64_t{0} << low;
  if (high < 63) mask &= ~uint64_t{0} >> (63 - high);
  return mask;
}

}  // namespace

uint64_t FindIn64EntriesWith(const uint64_t* entries, EntryBits bits, uint64_t lines) {
  lines &= 0xff;
  // More than two lines are found faster with the others than one by one.
  const uint64_t beyond_one = lines & (lines - 1);
  if ((beyond_one & (beyond_one - 1)) == 0) {
    return WhichInLines(entries, static_cast<uint64_t>(bits), lines);
  }
  SharedScan(entries);
  if (!EptEntry(OrOf64(entries)).HasAny(bits)) return 0;
  SharedScan(entries);
  return WhichOf64(entries, static_cast<uint64_t>(bits));
}

TableMask FindEntriesWith(const uint64_t* table, EntryBits bits, int first, int last,
                          uint64_t lines) {
  TableMask mask;
  for (int word = first / 64; word <= last / 64; ++word) {
    const uint64_t in_word = lines >> 8 * word & 0xff;
    if (in_word == 0) continue;
    const uint64_t found = FindIn64EntriesWith(table + word * 64, bits, in_word);
    mask.set_word(word, found & Inside(word, first, last));
  }
  return mask;
}

uint64_t FindLinesInUse(const uint64_t* table) {
  uint64_t lines = 0;
  for (int word = 0; word < TableMask::kWords; ++word) {
    const uint64_t found = FindIn64EntriesWith(table + word * 64, EntryBits::kAny);
    for (int line = 0; line < 8; ++line) {
      lines |= uint64_t{(found >> 8 * line & 0xff) != 0} << (8 * word + line);
    }
  }
  return lines;
}

}  // namespace tdp
