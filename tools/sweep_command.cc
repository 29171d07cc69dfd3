// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep_command.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "tdp/base/absl_mutex.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/command_line.h"
#include "tdp/tools/options.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/replay/cache_options.h"
#include "tdp/tools/replay/observe_options.h"
#include "tdp/tools/replay/replay.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/report_output.h"
#include "tdp/tools/sweep/job_pool.h"
#include "tdp/tools/sweep/sweep_identity.h"
#include "tdp/tools/sweep/sweep_journal.h"
#include "tdp/tools/sweep/sweep_plan.h"
#include "tdp/tools/sweep/sweep_summary.h"
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
  uint64_t jobs = 1;
  uint64_t seeds = 0;  // 0: --seed says which
  bool resume = false;
  bool summarize = false;
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
  parser.AddInteger("jobs", "cells that run at the same time, a thread or two each", &options->jobs,
                    1, 1024);
  parser.AddInteger("seeds",
                    "run every combination with the seeds 1 to N, and print means with 95 % "
                    "intervals; 0: --seed says which",
                    &options->seeds, 0, 10'000);
  parser.AddSwitch("summarize", "print means over the seeds, with 95 % intervals, of a sweep's CSV",
                   &options->summarize);
  parser.AddSwitch("merge", "put the files of all shards together", &options->merge);
  parser.AddString("csv", "write CSV to this file; without --csv and --json to standard output",
                   &options->csv, "FILE");
  AddJsonOption(parser, &options->json);
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
  AddRegionOptions(parser, &replay->observe);
  AddCheckOption(parser, &replay->check);
  AddInputOptions(parser, input);
  return parser;
}

// Returns the command that runs the cell alone.
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

absl::StatusOr<SweepResult> RunCell(const CommandOptions& options, const SweepCell& cell,
                                    Progress& progress) {
  TraceReaders readers;
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<TraceReader> reader,
                       OpenTrace(cell.trace, ForLevels(options.input, cell.options.guest_levels)));
  readers.push_back(std::move(reader));
  TDP_ASSIGN_OR_RETURN(ReplayReport report, Replay(readers, cell.options, progress));
  report.command = cell.command;
  return SweepResult{cell, std::move(report)};
}

// Sets what is the same in all cells. It stands in their tables, too.
void SetCommonOptions(const CommandOptions& options, SweepCell& cell) {
  cell.options.check = options.check;
  cell.options.observe = options.observe;
  OptionParser common;
  AddRegionOptions(common, &cell.options.observe);
  AddCheckOption(common, &cell.options.check);
  for (const OptionParser::Option& option : common.options()) {
    cell.values.emplace_back(option.name, option.default_text);
  }
  cell.command = CellCommand(options, cell);
}

std::vector<std::string> InputsOfSweep(std::vector<std::string> inputs,
                                       const std::vector<SweepCell>& cells) {
  for (const SweepCell& cell : cells) {
    for (std::string& file : InputFiles({}, cell.options.cache)) {
      if (std::find(inputs.begin(), inputs.end(), file) == inputs.end()) {
        inputs.push_back(std::move(file));
      }
    }
  }
  return inputs;
}

// Sets the identity of the sweep in each of its cells; `inputs` are all files that they read.
absl::Status SetIdentity(const CommandOptions& options, const std::vector<std::string>& inputs,
                         std::vector<SweepCell>& cells) {
  TraceInput input = options.input;
  OptionParser parser;
  AddInputOptions(parser, &input);
  std::vector<std::pair<std::string, std::string>> reading;
  for (const OptionParser::Option& option : parser.options()) {
    reading.emplace_back(option.name, option.default_text);
  }
  TDP_ASSIGN_OR_RETURN(const std::string identity, SweepIdentity(cells, reading, inputs));
  for (SweepCell& cell : cells) cell.sweep = identity;
  return absl::OkStatus();
}

// Opens every trace once, so that a name that is wrong is told before hours are spent.
absl::Status CheckTraces(const CommandOptions& options, const std::vector<std::string>& traces) {
  for (const std::string& trace : traces) {
    TDP_RETURN_IF_ERROR(CheckIsReadAgain(trace));
    // Who reads the tables of a sweep takes a line for a cell.
    if (trace.find('\n') != std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", trace, "\": a sweep takes no name with a newline"));
    }
    TDP_RETURN_IF_ERROR(OpenTrace(trace, ForLevels(options.input, 5)).status());
  }
  return absl::OkStatus();
}

// Where cells go that nobody wants one by one.
constexpr char kNowhere[] = "/dev/null";

absl::StatusOr<int> RunCells(const CommandOptions& options, const std::vector<SweepCell>& cells) {
  const bool only_means = options.seeds != 0 && options.csv.empty() && options.json.empty();
  TDP_ASSIGN_OR_RETURN(SweepJournal journal,
                       SweepJournal::Create(only_means ? kNowhere : options.csv, options.json,
                                            cells, options.resume));
  std::vector<uint64_t> mine;
  for (const SweepCell& cell : cells) {
    if (options.shard.Has(cell.number) && !journal.Has(cell.number)) mine.push_back(cell.number);
  }
  journal.Expect(mine);
  absl::Mutex mutex;  // of the journal, the exit status and the line of progress
  int status = kExitOk;
  size_t done = 0;
  Progress all;
  const auto say = [&] {
    all.SetPrefix(absl::StrFormat("cell %d of %d%s", std::min(done + 1, mine.size()), mine.size(),
                                  options.jobs > 1 ? "" : ": "));
  };
  const auto run = [&](size_t job) -> absl::Status {
    // Where several cells run at a time, only their number is shown.
    Progress silent(false);
    if (AbslMutexLock lock(mutex); true) say();
    TDP_ASSIGN_OR_RETURN(const SweepResult result,
                         RunCell(options, cells[mine[job]], options.jobs > 1 ? silent : all));
    AbslMutexLock lock(mutex);
    ++done;
    if (result.report.check.mismatches != 0) status = kExitMismatch;
    return journal.Append(result);
  };
  TDP_RETURN_IF_ERROR(RunJobs(mine.size(), options.jobs, run));
  TDP_RETURN_IF_ERROR(journal.Finish());
  if (options.seeds == 0) return status;
  TDP_ASSIGN_OR_RETURN(const std::string means, SummarizeSweep("the sweep", journal.Csv()));
  std::fputs(means.c_str(), stdout);
  return status;
}

absl::Status CheckSeeds(CommandOptions& options) {
  if (options.seeds == 0) return absl::OkStatus();
  if (options.shard.count != 1) {
    return absl::InvalidArgumentError(
        "--seeds with --shard has no means: give --seed, --merge the parts and --summarize them");
  }
  if (options.csv == "-" || options.json == "-") {
    return absl::InvalidArgumentError(
        "--seeds has its means on standard output: --csv and --json=FILE need a file beside it");
  }
  if (options.resume && options.csv.empty()) {
    return absl::InvalidArgumentError("--seeds with --resume needs --csv, where the old cells are");
  }
  return options.plan.SetSeeds(options.seeds);
}

absl::StatusOr<int> Sweep(const CommandOptions& options, const std::vector<std::string>& traces) {
  TDP_ASSIGN_OR_RETURN(std::vector<SweepCell> cells, options.plan.Cells(traces));
  for (SweepCell& cell : cells) SetCommonOptions(options, cell);
  TDP_RETURN_IF_ERROR(CheckTraces(options, traces));
  const std::vector<std::string> inputs = InputsOfSweep(traces, cells);
  TDP_RETURN_IF_ERROR(CheckOutputs({{"csv", options.csv}, {"json", options.json}}, inputs));
  TDP_RETURN_IF_ERROR(SetIdentity(options, inputs, cells));
  if (const uint64_t all = options.plan.Combinations(traces); all != cells.size()) {
    absl::FPrintF(stderr,
                  "tdp sweep: %d combinations make %d replays: the others differ from them in "
                  "options without meaning alone\n",
                  all, cells.size());
  }
  return RunCells(options, cells);
}

absl::StatusOr<int> Summarize(const std::vector<std::string>& files) {
  if (files.size() != 1) return absl::InvalidArgumentError("--summarize takes one FILE");
  TDP_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, OpenByteSource(files[0]));
  TDP_ASSIGN_OR_RETURN(const std::string text, ReadAll(*source));
  TDP_ASSIGN_OR_RETURN(const std::string means, SummarizeSweep(files[0], text));
  std::fputs(means.c_str(), stdout);
  return kExitOk;
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
        "       tdp sweep --merge FILE...\n"
        "       tdp sweep --summarize FILE.csv\n\n"
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
  if (options.merge) return Merge(files);
  if (options.summarize) return Summarize(files);
  TDP_RETURN_IF_ERROR(CheckSeeds(options));
  return Sweep(options, files);
}

}  // namespace tdp::tools
