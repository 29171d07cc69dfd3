// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// How often each 4 KiB page is used.

#ifndef TDP_TOOLS_REPLAY_PAGE_COUNTS_H_
#define TDP_TOOLS_REPLAY_PAGE_COUNTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

class PageCounts {
 public:
  // Counts the accesses of `records`, each by the page of its first byte.
  void Add(absl::Span<const TraceRecord> records);
  void Clear();

  // Accesses by number of the page, of those that had any.
  absl::flat_hash_map<uint64_t, uint64_t> accesses() const;

 private:
  // The uses of a page since it came here, at a place that the low bits of its number say.
  struct Recent {
    uint64_t number = 0;
    uint64_t uses = 0;
  };
  static constexpr size_t kRecent = 2048;

  // Makes room at `recent` for another page.
  void Replace(Recent& recent, uint64_t number);

  // Accesses take the one and the other in turn: a count that was just stored is not read at once,
  // which the CPU would have to wait for.
  std::array<std::vector<Recent>, 2> recent_ = {std::vector<Recent>(kRecent),
                                                std::vector<Recent>(kRecent)};
  absl::flat_hash_map<uint64_t, uint64_t> accesses_;  // those that are not in `recent_`
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_PAGE_COUNTS_H_
