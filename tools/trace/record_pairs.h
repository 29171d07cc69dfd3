// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Trace records two or four at a time, for loops that look at every record of a trace.

#ifndef TDP_TOOLS_TRACE_RECORD_PAIRS_H_
#define TDP_TOOLS_TRACE_RECORD_PAIRS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"
#include "tdp/tools/trace/trace_record.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

namespace tdp::tools {

// The words of two records. Its operators work on both, in one instruction each.
using RecordPair = uint64_t __attribute__((vector_size(16)));

// Calls `visit(pair)` for each two of `records`; the last of an odd number comes with a zero.
template <typename Visit>
void ForEachPair(absl::Span<const TraceRecord> records, Visit visit) {
  size_t next = 0;
  for (; next + 2 <= records.size(); next += 2) {
    RecordPair pair;
    std::memcpy(&pair, &records[next], sizeof(pair));
    visit(pair);
  }
  if (next < records.size()) visit(RecordPair{records[next].raw(), 0});
}

// The upper halves of four records, in any order: kind, size and the address from bit 32 on.
using UpperHalves = uint32_t __attribute__((vector_size(16)));

inline UpperHalves UpperHalvesOf(const TraceRecord* records) {
#ifdef __SSE2__
  const auto* const words = reinterpret_cast<const float*>(records);
  constexpr int kOdd = 0b11'01'11'01;
  return reinterpret_cast<UpperHalves>(
      _mm_shuffle_ps(_mm_loadu_ps(words), _mm_loadu_ps(words + 4), kOdd));
#else
  UpperHalves halves;
  for (int i = 0; i < 4; ++i) halves[i] = static_cast<uint32_t>(records[i].raw() >> 32);
  return halves;
#endif
}

// Calls `visit(halves)` for each four of `records`; zeros stand for those that the last four lack.
template <typename Visit>
void ForEachUpperHalves(absl::Span<const TraceRecord> records, Visit visit) {
  size_t next = 0;
  for (; next + 8 <= records.size(); next += 8) {
    visit(UpperHalvesOf(&records[next]));
    visit(UpperHalvesOf(&records[next + 4]));
  }
  for (; next < records.size(); ++next) {
    visit(UpperHalves{static_cast<uint32_t>(records[next].raw() >> 32)});
  }
}

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_RECORD_PAIRS_H_
