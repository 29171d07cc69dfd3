// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Records the pages that a replay uses: how often each, and a miss curve.

#ifndef TDP_TOOLS_REPLAY_PAGE_WATCH_H_
#define TDP_TOOLS_REPLAY_PAGE_WATCH_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "tdp/tools/replay/batch_channel.h"
#include "tdp/tools/replay/distance_counts.h"
#include "tdp/tools/replay/miss_sampler.h"
#include "tdp/tools/replay/observations.h"
#include "tdp/tools/replay/page_counts.h"
#include "tdp/tools/replay/page_profile.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Used by one thread.
class PageWatch {
 public:
  struct Options {
    bool counts = false;   // uses of each page
    bool sampled = false;  // distances estimated from parts of the run
    bool exact = false;    // every distance
    uint64_t warmup = 0;   // accesses that are counted nowhere
    uint64_t seed = 1;
  };

  // `takers`: CPUs or processes, each of which has the batch of its number in a round.
  PageWatch(const Options& options, size_t takers);

  bool idle() const { return !options_.counts && !has_curves(); }
  bool has_curves() const { return options_.sampled || options_.exact; }

  // The warm-up is that of the accesses in the order in which they were dealt out.
  void Add(const Round& round);

  // Returns the accesses of all takers by number of the 4 KiB page, if they were counted.
  absl::flat_hash_map<uint64_t, uint64_t> Accesses() const;
  // One for each page size, of all takers together; none unless `has_curves`. Ends the recording.
  std::vector<MissCurve> TakeCurves();

 private:
  struct Taker {
    std::optional<PageCounts> counts;
    std::optional<MissSampler> sampler;
    std::optional<PageProfile> profile;
  };

  void AddBatch(Taker& taker, absl::Span<const TraceRecord> batch) const;
  void EndWarmup();

  const Options options_;
  uint64_t warmup_left_;
  std::vector<Taker> takers_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_PAGE_WATCH_H_
