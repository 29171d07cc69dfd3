// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/experiments/page_policy.h"

#include <memory>

#include "absl/status/status.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/vm.h"
#include "tdp/tools/experiments/guest_run.h"
#include "tdp/tools/replay/ept_census.h"

namespace tdp::tools {
namespace {

// Does what the host does at the end of an interval.
absl::Status Act(PagePolicy policy, const PagePolicyOptions& options, uint64_t done, Vm& vm,
                 PageCount all, uint64_t& collapsed) {
  const bool now = done == options.split_after;
  if (now && (policy == PagePolicy::kSplit || policy == PagePolicy::kCollapse)) {
    TDP_ASSIGN_OR_RETURN(PendingFlush flush, vm.SplitRange(Gfn(0), all));
    flush.Settle();
    return absl::OkStatus();
  }
  if (now && policy == PagePolicy::kZap) {
    TDP_ASSIGN_OR_RETURN(PendingFlush flush, vm.ZapRange(Gfn(0), all));
    flush.Settle();
    return absl::OkStatus();
  }
  if (policy != PagePolicy::kCollapse || done < options.split_after + options.collapse_after) {
    return absl::OkStatus();
  }
  TDP_ASSIGN_OR_RETURN(collapsed, vm.CollapseRange(Gfn(0), all));
  return absl::OkStatus();
}

}  // namespace

const char* PagePolicyName(PagePolicy policy) {
  static constexpr const char* kNames[] = {"small", "large", "split", "zap", "collapse"};
  return kNames[static_cast<size_t>(policy)];
}

absl::StatusOr<std::vector<PagePolicySample>> RunPagePolicy(LoopingTrace& trace,
                                                            const ReplayOptions& machine,
                                                            const PagePolicyOptions& options,
                                                            PagePolicy policy) {
  ReplayOptions with_policy = machine;
  if (machine.ept_page == kLevel4K) {
    return absl::InvalidArgumentError("--ept-page 4k leaves no policy a choice");
  }
  if (policy == PagePolicy::kSmall) with_policy.ept_page = kLevel4K;
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<GuestRun> run, GuestRun::Create(trace, with_policy));
  Machine& host = run->machine();
  const PageCount all = PageCount::FromBytes(MemoryMap::kAboveHole + machine.ram);
  std::vector<PagePolicySample> samples;
  Totals before;
  for (uint64_t done = 1; done <= options.intervals; ++done) {
    TDP_RETURN_IF_ERROR(run->Advance(options.every));
    const Totals now = run->totals();
    PagePolicySample sample;
    sample.exits = now.violations.total() - before.violations.total();
    sample.walks = now.cpu.walks - before.cpu.walks;
    sample.ept_references = now.cpu.references.ept_total() - before.cpu.references.ept_total();
    sample.walk_cycles = now.cpu.walk_cycles - before.cpu.walk_cycles;
    before = now;
    TDP_RETURN_IF_ERROR(Act(policy, options, done, host.vm(), all, sample.collapsed));
    const EptCensus census = CountEpt(host.vm().eptp(), host.host().direct_map_offset());
    sample.small_leaves = census.leaves[0];
    sample.large_leaves = census.leaves[1] + census.leaves[2];
    samples.push_back(sample);
  }
  return samples;
}

}  // namespace tdp::tools
