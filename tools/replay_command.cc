// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay_command.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/command_line.h"
#include "tdp/tools/options.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/replay/cache_options.h"
#include "tdp/tools/replay/observe_options.h"
#include "tdp/tools/replay/process_options.h"
#include "tdp/tools/replay/replay.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/replay/run_json.h"
#include "tdp/tools/report_output.h"
#include "tdp/tools/trace/open_trace.h"
#include "tdp/tools/trace/physical_trace.h"
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace_options.h"

namespace tdp::tools {
namespace {

struct CommandOptions {
  ReplayOptions replay;
  TraceInput input;
  std::string physical_trace;
  std::string json;  // the file; empty without --json
  bool help = false;
};

OptionParser MakeParser(CommandOptions* options) {
  OptionParser parser;
  AddReplayOptions(parser, &options->replay);
  AddRegionOptions(parser, &options->replay.observe);
  AddRecordingOptions(parser, &options->replay.observe);
  AddCheckOption(parser, &options->replay.check);
  AddProcessOptions(parser, &options->replay.processes);
  AddInputOptions(parser, &options->input);
  parser.AddString("physical-trace",
                   "write the physical address of each access to this file, as Ramulator reads it",
                   &options->physical_trace, "FILE");
  AddJsonOption(parser, &options->json);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

absl::StatusOr<ReplayReport> ReplayFiles(const CommandOptions& options,
                                         const std::vector<std::string>& paths) {
  TraceReaders readers;
  const TraceInput input = ForLevels(options.input, options.replay.guest_levels);
  for (const std::string& path : paths) {
    TDP_ASSIGN_OR_RETURN(std::unique_ptr<TraceReader> reader, OpenTrace(path, input));
    readers.push_back(std::move(reader));
  }
  // Its line is gone when this returns, whether with a report or an error.
  Progress progress;
  if (options.physical_trace.empty()) return Replay(readers, options.replay, progress);
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<PhysicalTrace> physical,
                       PhysicalTrace::Create(options.physical_trace));
  TDP_ASSIGN_OR_RETURN(ReplayReport report,
                       Replay(readers, options.replay, progress, physical.get()));
  TDP_RETURN_IF_ERROR(physical->Close());
  return report;
}

}  // namespace

absl::StatusOr<int> RunReplay(absl::Span<const std::string_view> arguments) {
  CommandOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(std::vector<std::string> files, parser.Parse(arguments));
  if (options.help) {
    absl::PrintF(
        "usage: tdp replay [OPTION...] TRACE...\n\n"
        "Replays the recorded program TRACE (\"-\" for standard input) on a software CPU: guest\n"
        "virtual to guest physical by page tables that a small guest kernel builds, and on to "
        "host\n"
        "physical by the library's EPT. Exit status 1 if a check at the end finds a wrong "
        "mapping,\n"
        "2 for bad input.\n\n%s",
        parser.Help());
    return kExitOk;
  }
  if (files.empty()) {
    return absl::InvalidArgumentError("needs a TRACE; see tdp replay --help");
  }
  TDP_RETURN_IF_ERROR(CheckEachIsReadOnce(files));
  if (options.physical_trace == "-") {
    return absl::InvalidArgumentError("--physical-trace \"-\": standard output has the report");
  }
  TDP_RETURN_IF_ERROR(
      CheckOutputs({{"json", options.json}, {"physical-trace", options.physical_trace}},
                   InputFiles(files, options.replay.cache)));
  TDP_ASSIGN_OR_RETURN(ReportOutput output, ReportOutput::Open(options.json));
  TDP_ASSIGN_OR_RETURN(ReplayReport report, ReplayFiles(options, files));
  report.command = CommandLine("replay", arguments);
  TDP_RETURN_IF_ERROR(
      output.Write([&] { return ReportText(report); }, [&] { return ReportJson(report); }));
  return report.check.mismatches == 0 ? kExitOk : kExitMismatch;
}

}  // namespace tdp::tools
