// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Trace records two at a time, for loops that look at every record of a trace.

#ifndef TDP_TOOLS_TRACE_RECORD_PAIRS_H_
#define TDP_TOOLS_TRACE_RECORD_PAIRS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "absl/types/span.h"
#include "tdp/tools/trace/trace_record.h"

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

}  // namespace tdp::tools

#endif  // TDP_TOOLS_TRACE_RECORD_PAIRS_H_
