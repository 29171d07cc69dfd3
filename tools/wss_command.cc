// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/wss_command.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/experiments/looping_trace.h"
#include "tdp/tools/experiments/working_set.h"
#include "tdp/tools/json_column.h"
#include "tdp/tools/options.h"
#include "tdp/tools/replay/cache_options.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/report_output.h"
#include "tdp/tools/trace_options.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kUsage[] =
    "usage: tdp wss [OPTION...] TRACE\n\n"
    "The working set of a guest that runs TRACE, again and again: what its host sees by scanning\n"
    "the A bits of the EPT, beside the pages that the program has really touched since the last\n"
    "scan. In pages of 4 KiB.\n\n";

struct CommandOptions {
  ReplayOptions machine;
  TraceInput input;
  WorkingSetOptions scan;
  std::string json;  // the file; empty without --json
  bool help = false;
};

OptionParser MakeParser(CommandOptions* options) {
  OptionParser parser;
  AddReplayOptions(parser, &options->machine);
  AddInputOptions(parser, &options->input);
  parser.AddInteger("interval", "accesses from one scan to the next", &options->scan.every, 1,
                    1'000'000'000'000);
  parser.AddAlias("every", "interval");
  parser.AddInteger("intervals", "how many, each with a scan at its end", &options->scan.samples, 1,
                    1'000'000);
  parser.AddAlias("samples", "intervals");
  parser.AddChoice("flush", "whether each scan drops the CPU's translations", &options->scan.flush,
                   {{"off", false}, {"on", true}});
  AddJsonOption(parser, &options->json);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

std::string Text(const std::vector<WorkingSetSample>& samples) {
  std::string out = absl::StrFormat("%6s %12s %12s %12s %12s %12s %12s\n", "scan", "true pages",
                                    "young pages", "missed", "idle", "young tables", "walks");
  for (size_t i = 0; i < samples.size(); ++i) {
    const WorkingSetSample& s = samples[i];
    absl::StrAppendFormat(&out, "%6d %12d %12d %12d %12d %12d %12d\n", i + 1, s.true_pages,
                          s.young_pages, s.missed_pages, s.idle_pages, s.young_tables, s.walks);
  }
  return out;
}

Json ToJson(const CommandOptions& options, const std::string& trace,
            const std::vector<WorkingSetSample>& samples) {
  return {{"trace", trace},
          {"accesses_each", options.scan.every},
          {"flush", options.scan.flush},
          {"true_pages", Column(samples, &WorkingSetSample::true_pages)},
          {"young_pages", Column(samples, &WorkingSetSample::young_pages)},
          {"missed_pages", Column(samples, &WorkingSetSample::missed_pages)},
          {"idle_pages", Column(samples, &WorkingSetSample::idle_pages)},
          {"young_tables", Column(samples, &WorkingSetSample::young_tables)},
          {"walks", Column(samples, &WorkingSetSample::walks)}};
}

}  // namespace

absl::StatusOr<int> RunWss(absl::Span<const std::string_view> arguments) {
  CommandOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> files, parser.Parse(arguments));
  if (options.help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  TDP_ASSIGN_OR_RETURN(const std::string trace_file, OneTrace(files, "wss"));
  TDP_RETURN_IF_ERROR(
      CheckOutputs({{"json", options.json}}, InputFiles(files, options.machine.cache)));
  TDP_ASSIGN_OR_RETURN(ReportOutput output, ReportOutput::Open(options.json));
  LoopingTrace trace(trace_file, ForLevels(options.input, options.machine.guest_levels));
  TDP_ASSIGN_OR_RETURN(const std::vector<WorkingSetSample> samples,
                       MeasureWorkingSet(trace, options.machine, options.scan));
  TDP_RETURN_IF_ERROR(
      output.Write([&] { return Text(samples); },
                   [&] { return JsonText(ToJson(options, trace_file, samples), 2) + "\n"; }));
  return kExitOk;
}

}  // namespace tdp::tools
