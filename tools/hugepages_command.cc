// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/hugepages_command.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/experiments/exit_cost.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/experiments/page_policy.h"
#include "tdp/tools/json_column.h"
#include "tdp/tools/options.h"
#include "tdp/tools/replay/cache_options.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/report_output.h"
#include "tdp/tools/trace_options.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr PagePolicy kPolicies[] = {PagePolicy::kSmall, PagePolicy::kLarge, PagePolicy::kSplit,
                                    PagePolicy::kZap, PagePolicy::kCollapse};
constexpr char kUsage[] =
    "usage: tdp hugepages [OPTION...] TRACE\n\n"
    "A guest that runs TRACE, again and again, under five policies of its host, interval by\n"
    "interval: 4 KiB leaves only (small); as large as --ept-page (large); large until all are\n"
    "split once, as for a dirty log (split); until all mappings are taken away once (zap); and\n"
    "split, then put together again (collapse). Cycles of exits and, with --machine or --cost, of\n"
    "page walks.\n\n";

struct CommandOptions {
  ReplayOptions machine;
  TraceInput input;
  ExitCost cost;
  PagePolicyOptions policy;
  std::string json;  // the file; empty without --json
  bool help = false;
};

struct PolicyRun {
  PagePolicy policy;
  std::vector<PagePolicySample> samples;
};

OptionParser MakeParser(CommandOptions* options) {
  OptionParser parser;
  AddReplayOptions(parser, &options->machine);
  AddInputOptions(parser, &options->input);
  AddExitCostOptions(parser, &options->cost);
  parser.AddInteger("interval", "accesses of an interval", &options->policy.every, 1,
                    1'000'000'000'000);
  parser.AddAlias("every", "interval");
  parser.AddInteger("intervals", "how many", &options->policy.intervals, 1, 1'000'000);
  parser.AddInteger("split-after", "intervals before the split or zap",
                    &options->policy.split_after, 1, 1'000'000);
  parser.AddInteger("collapse-after", "intervals from the split to the first collapse",
                    &options->policy.collapse_after, 0, 1'000'000);
  AddJsonOption(parser, &options->json);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

std::string Text(const std::vector<PolicyRun>& runs, uint64_t exit_cycles) {
  std::string out;
  for (const PolicyRun& run : runs) {
    absl::StrAppendFormat(&out, "%-10s%9s %8s %12s %10s %12s %10s %10s\n",
                          PagePolicyName(run.policy), "interval", "exits", "exit cycles", "walks",
                          "walk cycles", "4K leaves", "larger");
    for (size_t i = 0; i < run.samples.size(); ++i) {
      const PagePolicySample& s = run.samples[i];
      absl::StrAppendFormat(&out, "%10s%9d %8d %12d %10d %12d %10d %10d\n", "", i + 1, s.exits,
                            s.exits * exit_cycles, s.walks, s.walk_cycles, s.small_leaves,
                            s.large_leaves);
    }
    const auto sum = [&run](uint64_t PagePolicySample::*count) {
      uint64_t all = 0;
      for (const PagePolicySample& s : run.samples) all += s.*count;
      return all;
    };
    const uint64_t exits = sum(&PagePolicySample::exits);
    absl::StrAppendFormat(&out, "%10s%9s %8d %12d %10d %12d\n", "", "all", exits,
                          exits * exit_cycles, sum(&PagePolicySample::walks),
                          sum(&PagePolicySample::walk_cycles));
  }
  return out;
}

Json ToJson(const PolicyRun& run) {
  return {{"policy", PagePolicyName(run.policy)},
          {"exits", Column(run.samples, &PagePolicySample::exits)},
          {"walks", Column(run.samples, &PagePolicySample::walks)},
          {"ept_references", Column(run.samples, &PagePolicySample::ept_references)},
          {"walk_cycles", Column(run.samples, &PagePolicySample::walk_cycles)},
          {"small_leaves", Column(run.samples, &PagePolicySample::small_leaves)},
          {"large_leaves", Column(run.samples, &PagePolicySample::large_leaves)},
          {"collapsed", Column(run.samples, &PagePolicySample::collapsed)}};
}

}  // namespace

absl::StatusOr<int> RunHugepages(absl::Span<const std::string_view> arguments) {
  CommandOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> files, parser.Parse(arguments));
  if (options.help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  TDP_ASSIGN_OR_RETURN(const std::string trace_file, OneTrace(files, "hugepages"));
  TDP_RETURN_IF_ERROR(
      CheckOutputs({{"json", options.json}}, InputFiles(files, options.machine.cache)));
  TDP_ASSIGN_OR_RETURN(ReportOutput output, ReportOutput::Open(options.json));
  TDP_ASSIGN_OR_RETURN(const uint64_t exit_cycles, ExitCycles(options.cost, options.machine));
  std::vector<PolicyRun> runs;
  for (const PagePolicy policy : kPolicies) {
    LoopingTrace trace(trace_file, ForLevels(options.input, options.machine.guest_levels));
    runs.push_back({policy, {}});
    TDP_ASSIGN_OR_RETURN(runs.back().samples,
                         RunPagePolicy(trace, options.machine, options.policy, policy));
  }
  const auto json = [&] {
    Json all = Json::array();
    for (const PolicyRun& run : runs) all.push_back(ToJson(run));
    const Json whole = {{"trace", trace_file},
                        {"accesses_each", options.policy.every},
                        {"exit_cycles", exit_cycles},
                        {"policies", all}};
    return JsonText(whole, 2) + "\n";
  };
  TDP_RETURN_IF_ERROR(output.Write([&] { return Text(runs, exit_cycles); }, json));
  return kExitOk;
}

}  // namespace tdp::tools
