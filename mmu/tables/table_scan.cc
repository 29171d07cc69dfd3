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

// Each `OrOf64` returns the OR of 64 entries: most blocks of most tables hold nothing that is
// looked for.
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

// Returns which of the eight entries of a line have any of `bits`: four at a time, as the halves of
// one vector each.
uint64_t WhichOfLine(const uint64_t* line, uint64_t bits) {
  const auto* pairs = reinterpret_cast<const __m128i*>(line);
  const __m128i low_bits = _mm_set1_epi32(static_cast<int>(bits));
  const __m128i high_bits = _mm_set1_epi32(static_cast<int>(bits >> 32));
  int without = 0;
  for (int i = 0; i < 2; ++i) {
    const __m128 a = _mm_castsi128_ps(_mm_load_si128(pairs + 2 * i));
    const __m128 b = _mm_castsi128_ps(_mm_load_si128(pairs + 2 * i + 1));
    const __m128i low = _mm_castps_si128(_mm_shuffle_ps(a, b, _MM_SHUFFLE(2, 0, 2, 0)));
    const __m128i high = _mm_castps_si128(_mm_shuffle_ps(a, b, _MM_SHUFFLE(3, 1, 3, 1)));
    const __m128i found =
        _mm_or_si128(_mm_and_si128(low, low_bits), _mm_and_si128(high, high_bits));
    const __m128i none = _mm_cmpeq_epi32(found, _mm_setzero_si128());
    without |= _mm_movemask_ps(_mm_castsi128_ps(none)) << 4 * i;
  }
  std::atomic_signal_fence(std::memory_order_acquire);
  return static_cast<uint64_t>(without ^ 0xff);
}
#else
uint64_t LoadEntry(const uint64_t* entry) {
  return AtomicRef<uint64_t>(*const_cast<uint64_t*>(entry)).load(std::memory_order_acquire);
}

uint64_t OrOf64(const uint64_t* entries) {
  uint64_t all = 0;
  for (int i = 0; i < 64; ++i) all |= LoadEntry(entries + i);
  return all;
}

uint64_t WhichOfLine(const uint64_t* line, uint64_t bits) {
  uint64_t mask = 0;
  for (int i = 0; i < 8; ++i) {
    mask |= uint64_t{(LoadEntry(line + i) & bits) != 0} << i;
  }
  return mask;
}
#endif

// Returns which bytes of `bits` are not 0.
uint64_t WhichBytes(uint64_t bits) {
  bits |= bits >> 4;
  bits |= bits >> 2;
  bits |= bits >> 1;
  // The lowest bits of all bytes come to stand in the highest byte, in their order.
  return (bits & 0x0101010101010101) * 0x0102040810204080 >> 56;
}

}  // namespace

uint64_t FindIn64EntriesWith(const uint64_t* entries, EntryBits bits, uint64_t lines) {
  lines &= 0xff;
  SharedScan(entries);
  // More than two lines are mostly told from what is looked for faster as a whole.
  const uint64_t beyond_one = lines & (lines - 1);
  if ((beyond_one & (beyond_one - 1)) != 0) {
    if (!EptEntry(OrOf64(entries)).HasAny(bits)) return 0;
    SharedScan(entries);
  }
  uint64_t mask = 0;
  for (; lines != 0; lines &= lines - 1) {
    const int first = 8 * std::countr_zero(lines);
    mask |= WhichOfLine(entries + first, static_cast<uint64_t>(bits)) << first;
  }
  return mask;
}

uint64_t FindLinesInUse(const uint64_t* table) {
  uint64_t lines = 0;
  for (int block = 0; block < 8; ++block) {
    lines |= WhichBytes(FindIn64EntriesWith(table + 64 * block, EntryBits::kAny)) << 8 * block;
  }
  return lines;
}

}  // namespace tdp
