// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep_command.h"

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/command_line.h"
#include "tdp/tools/options.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/replay/observe_options.h"
#include "tdp/tools/replay/replay.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/sweep/sweep_journal.h"
#include "tdp/tools/sweep/sweep_plan.h"
#include "tdp/tools/sweep/sweep_table.h"
#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/open_trace.h"
#include "tdp/tools/trace/trace_reader.h"
#include "tdp/tools/trace_options.h"

namespace tdp::tools {
namespace {

struct CommandOptions {
  SweepPlan plan;
  Shard shard;
  TraceInput input;
  ColdCheckMode check = ColdCheckMode::kAll;
  ObserveOptions observe;
  std::string csv;
  std::string json;
  bool resume = false;
  bool merge = false;
  bool help = false;
};

OptionParser MakeParser(CommandOptions* options) {
  OptionParser parser;
  options->plan.AddOptions(parser);
  AddInputOptions(parser, &options->input);
  parser.Add("shard", "I/N", "run the I-th of N equal parts of the sweep", "1/1",
             [options](std::string_view text) -> absl::Status {
               TDP_ASSIGN_OR_RETURN(options->shard, ParseShard(text));
               return absl::OkStatus();
             });
  parser.AddSwitch("merge", "put the files of all shards together", &options->merge);
  parser.AddString("csv", "write CSV to this file; without --csv and --json to standard output",
                   &options->csv);
  parser.AddString("json", "write JSON to this file", &options->json);
  parser.AddSwitch("resume", "keep the cells that the files have already, and run the others",
                   &options->resume);
  AddRegionOptions(parser, &options->observe);
  AddCheckOption(parser, &options->check);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

OptionParser CellParser(ReplayOptions* replay, TraceInput* input) {
  OptionParser parser;
  AddReplayOptions(parser, replay);
  AddCheckOption(parser, &replay->check);
  AddInputOptions(parser, input);
  return parser;
}

// The command that runs the cell alone.
std::string CellCommand(const CommandOptions& options, const SweepCell& cell) {
  ReplayOptions replay = cell.options;
  TraceInput input = options.input;
  ReplayOptions default_replay;
  TraceInput default_input;
  std::vector<std::string> words =
      ChangedOptions(CellParser(&replay, &input), CellParser(&default_replay, &default_input));
  if (cell.trace.starts_with('-')) words.push_back("--");
  words.push_back(cell.trace);
  return CommandLine("replay", std::vector<std::string_view>(words.begin(), words.end()));
}

absl::StatusOr<SweepResult> RunCell(const CommandOptions& options, const SweepCell& cell) {
  TraceReaders readers;
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<TraceReader> reader,
                       OpenTrace(cell.trace, ForLevels(options.input, cell.options.guest_levels)));
  readers.push_back(std::move(reader));
  Progress progress;
  TDP_ASSIGN_OR_RETURN(ReplayReport report, Replay(readers, cell.options, progress));
  report.command = CellCommand(options, cell);
  return SweepResult{cell, std::move(report)};
}

// Opens every trace once, so that a name that is wrong is told before hours are spent.
absl::Status CheckTraces(const CommandOptions& options, const std::vector<std::string>& traces) {
  for (const std::string& trace : traces) {
    if (trace == "-") {
      return absl::InvalidArgumentError("a sweep reads its traces many times: not from \"-\"");
    }
    TDP_RETURN_IF_ERROR(OpenTrace(trace, ForLevels(options.input, 5)).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<int> Sweep(const CommandOptions& options, const std::vector<std::string>& traces) {
  TDP_ASSIGN_OR_RETURN(std::vector<SweepCell> cells, options.plan.Cells(traces));
  for (SweepCell& cell : cells) {
    cell.options.check = options.check;
    cell.options.observe = options.observe;
  }
  TDP_RETURN_IF_ERROR(CheckTraces(options, traces));
  if (const uint64_t all = options.plan.Combinations(traces); all != cells.size()) {
    absl::FPrintF(stderr,
                  "tdp sweep: %d combinations make %d replays: the others differ from them in "
                  "options without meaning alone\n",
                  all, cells.size());
  }
  TDP_ASSIGN_OR_RETURN(SweepJournal journal,
                       SweepJournal::Create(options.csv, options.json, cells, options.resume));
  int status = kExitOk;
  for (const SweepCell& cell : cells) {
    if (!options.shard.Has(cell.number) || journal.Has(cell.number)) continue;
    TDP_ASSIGN_OR_RETURN(SweepResult result, RunCell(options, cell));
    if (result.report.check.mismatches != 0) status = kExitMismatch;
    TDP_RETURN_IF_ERROR(journal.Append(result));
  }
  TDP_RETURN_IF_ERROR(journal.Finish());
  return status;
}

absl::StatusOr<int> Merge(const std::vector<std::string>& files) {
  std::vector<SweepPiece> pieces;
  for (const std::string& file : files) {
    TDP_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenByteSource(file));
    TDP_ASSIGN_OR_RETURN(std::string text, ReadAll(*source));
    // A shard with no cell of its own writes nothing.
    if (!text.empty()) pieces.push_back({file, std::move(text)});
  }
  if (pieces.empty()) return absl::InvalidArgumentError("the files are empty");
  TDP_ASSIGN_OR_RETURN(std::string whole, MergeSweep(pieces));
  std::fputs(whole.c_str(), stdout);
  return kExitOk;
}

}  // namespace

absl::StatusOr<int> RunSweep(absl::Span<const std::string_view> arguments) {
  CommandOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(std::vector<std::string> files, parser.Parse(arguments));
  if (options.help) {
    absl::PrintF(
        "usage: tdp sweep [OPTION...] TRACE...\n"
        "       tdp sweep --merge FILE...\n\n"
        "Replays every TRACE with every combination of the values given, a line of CSV for each,\n"
        "written when it is done.\n"
        "--shard splits the work over processes or machines; --merge puts their files, all CSV or\n"
        "all JSON, together on standard output.\n\n%s",
        parser.Help());
    return kExitOk;
  }
  if (files.empty()) {
    return absl::InvalidArgumentError(options.merge ? "--merge needs FILEs; see tdp sweep --help"
                                                    : "needs a TRACE; see tdp sweep --help");
  }
  return options.merge ? Merge(files) : Sweep(options, files);
}

}  // namespace tdp::tools
