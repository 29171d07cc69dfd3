// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/compare_command.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/command_line.h"
#include "tdp/tools/experiments/exit_cost.h"
#include "tdp/tools/json_column.h"
#include "tdp/tools/mmu/machine_file.h"
#include "tdp/tools/options.h"
#include "tdp/tools/output_file.h"
#include "tdp/tools/printable_text.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/replay/cache_options.h"
#include "tdp/tools/replay/observe_options.h"
#include "tdp/tools/replay/replay.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/replay/run_json.h"
#include "tdp/tools/report/report_html.h"
#include "tdp/tools/report_output.h"
#include "tdp/tools/trace/open_trace.h"
#include "tdp/tools/trace_options.h"

namespace tdp::tools {
namespace {

constexpr char kUsage[] =
    "usage: tdp compare [OPTION...] [TRACE...]\n\n"
    "Where two-dimensional paging is better than a shadow, and where not: every TRACE natively,\n"
    "under EPT and with a shadow, with guest tables that stay as they are and with ones that "
    "change.\n"
    "Without a TRACE two programs are made: one with good locality (sequential), one with bad\n"
    "(random), the first half of each a warm-up. Cycles an access by cause, and the cost of an "
    "exit\n"
    "at which both are equal; with -o also the page that `tdp report` makes of it.\n\n";

struct CommandOptions {
  ReplayOptions machine;
  TraceInput input;
  ExitCost cost;
  ByteCount footprint = MiB(32);
  uint64_t accesses = 2'000'000;
  uint64_t churn = 1000;
  std::string output;
  bool help = false;
};

OptionParser MakeParser(CommandOptions* options) {
  OptionParser replay;
  AddReplayOptions(replay, &options->machine);
  OptionParser parser;
  for (const OptionParser::Option& option : replay.options()) {
    // The command itself sets these: they are what is compared.
    if (option.name == "paging" || option.name == "table-churn") continue;
    parser.Add(option.name, option.form, option.help, option.default_text, option.set);
  }
  AddInputOptions(parser, &options->input);
  AddExitCostOptions(parser, &options->cost);
  AddRegionOptions(parser, &options->machine.observe);
  parser.AddInteger("table-churn",
                    "accesses from one change of a guest table to the next, in those "
                    "runs that have them",
                    &options->churn, 1, ~uint64_t{0});
  parser.AddSize("footprint", "of the programs that are made", &options->footprint);
  parser.AddInteger("accesses", "of the programs that are made", &options->accesses, 1,
                    1'000'000'000'000);
  parser.AddString("output", "write the report page to this file; -o for short", &options->output,
                   "FILE");
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

struct Cell {
  std::string trace;
  ReplayOptions options;
  ReplayReport report;

  uint64_t translation() const { return report.mmu.translation_cycles(); }
  uint64_t page_faults() const { return report.page_faults * report.machine.page_fault_cycles; }
  ExitCounts exits() const {
    return CountByCause(report.violations, report.shadow_exits, report.nested_exits);
  }
  uint64_t total(const ExitPrices& prices) const {
    return translation() + page_faults() + CyclesOf(exits(), prices);
  }
};

std::vector<std::string> MadeTraces(const CommandOptions& options) {
  std::vector<std::string> traces;
  for (const char* kind : {"stride,stride=64", "gups"}) {
    traces.push_back(absl::StrCat("generate:", kind, ",footprint=", options.footprint,
                                  ",accesses=", options.accesses, ",seed=", options.machine.seed));
  }
  return traces;
}

OptionParser CellParser(ReplayOptions* replay, TraceInput* input) {
  OptionParser parser;
  AddReplayOptions(parser, replay);
  AddRegionOptions(parser, &replay->observe);
  AddInputOptions(parser, input);
  return parser;
}

absl::Status RunCell(const CommandOptions& options, Cell& cell) {
  TraceReaders readers;
  const TraceInput input = ForLevels(options.input, cell.options.guest_levels);
  TDP_ASSIGN_OR_RETURN(readers.emplace_back(), OpenTrace(cell.trace, input));
  Progress progress;
  TDP_ASSIGN_OR_RETURN(cell.report, Replay(readers, cell.options, progress));
  ReplayOptions replay = cell.options;
  TraceInput input_options = options.input;
  ReplayOptions default_replay;
  TraceInput default_input;
  std::vector<std::string> words = ChangedOptions(CellParser(&replay, &input_options),
                                                  CellParser(&default_replay, &default_input));
  if (cell.trace.starts_with('-')) words.emplace_back("--");
  words.push_back(cell.trace);
  cell.report.command =
      CommandLine("replay", std::vector<std::string_view>(words.begin(), words.end()));
  return absl::OkStatus();
}

std::vector<Cell> MakeCells(const CommandOptions& options, const std::vector<std::string>& traces) {
  std::vector<Cell> cells;
  for (const std::string& trace : traces) {
    for (const uint64_t churn : {uint64_t{0}, options.churn}) {
      for (const Paging paging : {Paging::kNative, Paging::kEpt, Paging::kShadow}) {
        Cell cell = {trace, options.machine, {}};
        cell.options.paging = paging;
        cell.options.table_churn = churn;
        cells.push_back(std::move(cell));
      }
    }
  }
  return cells;
}

// Returns the cycles of an exit at which EPT and shadow cost the same; above it EPT is better,
// since it has fewer exits.
std::string Crossover(const Cell& ept, const Cell& shadow) {
  const double more_walks = static_cast<double>(ept.translation() + ept.page_faults()) -
                            static_cast<double>(shadow.translation() + shadow.page_faults());
  const double more_exits =
      static_cast<double>(shadow.report.exits()) - static_cast<double>(ept.report.exits());
  if (more_exits == 0 && more_walks == 0) return "equal";
  if (more_exits <= 0) return more_walks <= 0 ? "EPT, always" : "shadow, always";
  if (more_walks <= 0) return "EPT, always";
  return absl::StrFormat("EPT from %.0f cycles an exit on", more_walks / more_exits);
}

// Returns a line for each price, or one for all, of the causes that there were.
std::string PricesText(const std::vector<Cell>& cells, const ExitPrices& prices,
                       const std::string& page_fault) {
  std::string out = "prices, in cycles\n";
  if (prices.front().source == prices.back().source) {
    absl::StrAppendFormat(&out, "  %-27s %6d  %s\n", "a VM exit", prices[0].cycles,
                          prices[0].source);
  } else {
    for (size_t cause = 0; cause < kExitCauses; ++cause) {
      const bool any = std::any_of(cells.begin(), cells.end(),
                                   [cause](const Cell& cell) { return cell.exits()[cause] != 0; });
      if (!any) continue;
      absl::StrAppendFormat(&out, "  %-27s %6d  %s\n", ExitCauseName(ExitCause(cause)),
                            prices[cause].cycles, prices[cause].source);
    }
  }
  absl::StrAppendFormat(&out, "  %-27s %6d  %s\n", "page fault in the guest",
                        cells[0].report.machine.page_fault_cycles, page_fault);
  return out;
}

std::string Better(const Cell& ept, const Cell& shadow, const ExitPrices& prices) {
  if (prices.front().source == prices.back().source) return Crossover(ept, shadow);
  const auto accesses = static_cast<double>(ept.report.accesses());
  const double more =
      (static_cast<double>(shadow.total(prices)) - static_cast<double>(ept.total(prices))) /
      accesses;
  return more == 0 ? "equal"
                   : absl::StrFormat("%s, by %.3f cycles an access", more > 0 ? "EPT" : "shadow",
                                     std::abs(more));
}

std::string Text(const std::vector<Cell>& cells, const ExitPrices& prices,
                 const std::string& page_fault) {
  std::string out =
      absl::StrFormat("cycles an access; machine: %s\n%s", cells[0].report.machine.name,
                      PricesText(cells, prices, page_fault));
  for (size_t i = 0; i < cells.size(); ++i) {
    const Cell& cell = cells[i];
    if (i % 6 == 0) absl::StrAppend(&out, "\n", Printable(cell.trace), "\n");
    if (i % 3 == 0) {
      absl::StrAppendFormat(&out, "  %-27s %12s %12s %12s %12s %12s\n",
                            cell.options.table_churn == 0
                                ? "tables stay"
                                : absl::StrCat("a change each ", cell.options.table_churn),
                            "translation", "page faults", "VM exits", "all", "exits");
    }
    const auto accesses = static_cast<double>(cell.report.accesses());
    absl::StrAppendFormat(&out, "    %-25s %12.3f %12.3f %12.3f %12.3f %12d\n",
                          PagingName(cell.options.paging),
                          static_cast<double>(cell.translation()) / accesses,
                          static_cast<double>(cell.page_faults()) / accesses,
                          static_cast<double>(CyclesOf(cell.exits(), prices)) / accesses,
                          static_cast<double>(cell.total(prices)) / accesses, cell.report.exits());
    if (i % 3 == 2) {
      absl::StrAppendFormat(&out, "    better of the two: %s\n",
                            Better(cells[i - 1], cell, prices));
    }
  }
  return out;
}

absl::Status WritePage(OutputFile& output, const std::vector<Cell>& cells) {
  nlohmann::ordered_json runs = nlohmann::ordered_json::array();
  for (const Cell& cell : cells) runs.push_back(RunJson(cell.report));
  TDP_ASSIGN_OR_RETURN(RunFile file, ReadRunFile("tdp compare", JsonText(runs)));
  TDP_RETURN_IF_ERROR(output.Write(ReportHtml({std::move(file)})));
  return output.Commit();
}

}  // namespace

absl::StatusOr<int> RunCompare(absl::Span<const std::string_view> arguments) {
  CommandOptions options;
  options.machine.ept_page = kLevel4K;
  options.machine.cache.machine = "skylake";
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(std::vector<std::string> traces, parser.Parse(arguments));
  if (options.help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  const CommandOptions defaults;
  if (!traces.empty() &&
      (options.footprint != defaults.footprint || options.accesses != defaults.accesses)) {
    return absl::InvalidArgumentError(
        "--footprint and --accesses are of the programs that are made without a TRACE");
  }
  if (traces.empty()) {
    traces = MadeTraces(options);
    // The cost of the first touches says nothing of the time after them.
    if (options.machine.observe.warmup == 0) options.machine.observe.warmup = options.accesses / 2;
  }
  for (const std::string& trace : traces) {
    TDP_RETURN_IF_ERROR(CheckIsReadAgain(trace));
    const TraceInput input = ForLevels(options.input, options.machine.guest_levels);
    TDP_RETURN_IF_ERROR(OpenTrace(trace, input).status());
  }
  TDP_RETURN_IF_ERROR(
      CheckOutputs({{"output", options.output}}, InputFiles(traces, options.machine.cache)));
  std::unique_ptr<OutputFile> page;
  if (!options.output.empty()) {
    TDP_ASSIGN_OR_RETURN(page, OutputFile::Create(options.output));
  }
  TDP_ASSIGN_OR_RETURN(const ExitPrices prices, PricesOf(options.cost, options.machine));
  TDP_ASSIGN_OR_RETURN(const std::string page_fault,
                       NameOfCost(options.machine.cache.machine, "page-fault"));
  std::vector<Cell> cells = MakeCells(options, traces);
  int status = kExitOk;
  for (Cell& cell : cells) {
    TDP_RETURN_IF_ERROR(RunCell(options, cell));
    if (cell.report.check.mismatches != 0) status = kExitMismatch;
  }
  if (page != nullptr) TDP_RETURN_IF_ERROR(WritePage(*page, cells));
  // The page may be on standard output.
  if (options.output != "-") std::fputs(Text(cells, prices, page_fault).c_str(), stdout);
  return status;
}

}  // namespace tdp::tools
