// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// When a host breaks large pages up and puts them together again, and what that costs and brings.

#ifndef TDP_TOOLS_EXPERIMENTS_PAGE_POLICY_H_
#define TDP_TOOLS_EXPERIMENTS_PAGE_POLICY_H_

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

enum class PagePolicy : uint8_t {
  kSmall,     // never larger than 4 KiB
  kLarge,     // as large as the machine's, all the time
  kSplit,     // large, until all are split once
  kZap,       // large, until all mappings are taken away once
  kCollapse,  // as kSplit, then put together again interval by interval
};
const char* PagePolicyName(PagePolicy policy);

struct PagePolicyOptions {
  uint64_t every = 1'000'000;  // accesses of an interval
  uint64_t intervals = 10;
  uint64_t split_after = 3;     // intervals before the split or zap
  uint64_t collapse_after = 3;  // intervals from the split to the first collapse
};

// One interval, and what stands in the EPT at its end.
struct PagePolicySample {
  uint64_t exits = 0;
  uint64_t walks = 0;
  uint64_t ept_references = 0;
  uint64_t walk_cycles = 0;
  uint64_t small_leaves = 0;  // of 4 KiB
  uint64_t large_leaves = 0;  // of 2 MiB and 1 GiB
  uint64_t collapsed = 0;     // tables that became a leaf at its end
};

// InvalidArgument for options that do not go together; the errors of trace, machine and engine.
absl::StatusOr<std::vector<PagePolicySample>> RunPagePolicy(LoopingTrace& trace,
                                                            const ReplayOptions& machine,
                                                            const PagePolicyOptions& options,
                                                            PagePolicy policy);

}  // namespace tdp::tools

#endif  // TDP_TOOLS_EXPERIMENTS_PAGE_POLICY_H_
