// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/migrate_command.h"

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
#include "tdp/tools/experiments/migration.h"
#include "tdp/tools/json_column.h"
#include "tdp/tools/options.h"
#include "tdp/tools/replay/cache_options.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/report_output.h"
#include "tdp/tools/trace_options.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;

struct CommandOptions {
  ReplayOptions machine;
  TraceInput input;
  ExitCost cost;
  MigrationOptions migration;
  std::vector<Logging> loggings = {Logging::kWriteProtection, Logging::kDirtyBits, Logging::kPml,
                                   Logging::kRing};
  double accesses = 1000;  // millions a second
  double bandwidth = 10;   // gigabits a second
  double downtime = 300;   // milliseconds
  std::string json;        // the file; empty without --json
  bool help = false;
};

OptionParser MakeParser(CommandOptions* options) {
  OptionParser parser;
  AddReplayOptions(parser, &options->machine);
  AddInputOptions(parser, &options->input);
  AddExitCostOptions(parser, &options->cost);
  parser.Add(
      "logging", "all|write-protection|dirty-bits|pml|ring", "how written pages are found", "all",
      [options](std::string_view text) -> absl::Status {
        if (text == "all") return absl::OkStatus();
        for (const Logging logging :
             {Logging::kWriteProtection, Logging::kDirtyBits, Logging::kPml, Logging::kRing}) {
          if (text != LoggingName(logging)) continue;
          options->loggings = {logging};
          return absl::OkStatus();
        }
        return absl::InvalidArgumentError("must be all|write-protection|dirty-bits|pml|ring");
      });
  parser.AddNumber("guest-speed", "accesses of the running guest, millions a second",
                   &options->accesses, 0.001, 1e6);
  parser.AddNumber("bandwidth", "of the link, gigabits a second", &options->bandwidth, 1e-6, 1e6);
  parser.AddNumber("downtime", "milliseconds that the guest may be stopped", &options->downtime, 0,
                   1e6);
  parser.AddInteger("rounds", "most rounds with the guest running", &options->migration.max_rounds,
                    1, 10'000);
  parser.AddInteger("warmup", "accesses that are made first and counted nowhere",
                    &options->migration.warmup, 0, ~uint64_t{0});
  parser.AddInteger("ring-entries", "of the dirty ring, a power of two above 576",
                    &options->migration.ring_entries, 1024, 65536);
  AddJsonOption(parser, &options->json);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

Json ToJson(const Migration& migration) {
  return {{"logging", LoggingName(migration.logging)},
          {"converged", migration.converged},
          {"guest_pages", migration.guest_pages},
          {"sent_pages", migration.pages()},
          {"seconds", migration.seconds()},
          {"downtime_seconds", migration.downtime_seconds},
          {"accesses", migration.accesses()},
          {"exits", migration.exits()},
          {"differing_pages", migration.differing_pages},
          {"rounds",
           {{"pages", Column(migration.rounds, &MigrationRound::pages)},
            {"seconds", Column(migration.rounds, &MigrationRound::seconds)},
            {"accesses", Column(migration.rounds, &MigrationRound::accesses)},
            {"exits", Column(migration.rounds, &MigrationRound::exits)},
            {"dirty_pages", Column(migration.rounds, &MigrationRound::dirty)}}}};
}

// Returns how much slower the guest ran for its exits.
double Slowdown(const Migration& migration, const MigrationOptions& options) {
  const double work = static_cast<double>(migration.accesses()) / options.accesses_per_second;
  const double lost = static_cast<double>(migration.exits()) * options.exit_seconds;
  return work == 0 ? 0 : 100 * lost / (work + lost);
}

std::string Text(const std::vector<Migration>& migrations, const MigrationOptions& options) {
  std::string out =
      absl::StrFormat("%-18s %6s %10s %10s %9s %12s %10s %9s  %s\n", "logging", "rounds", "sent",
                      "guest has", "seconds", "downtime ms", "exits", "slower", "copy");
  for (const Migration& m : migrations) {
    absl::StrAppendFormat(
        &out, "%-18s %6d %10d %10d %9.4f %12.3f %10d %8.2f%%  %s%s\n", LoggingName(m.logging),
        m.rounds.size() - 1, m.pages(), m.guest_pages, m.seconds(), 1000 * m.downtime_seconds,
        m.exits(), Slowdown(m, options),
        m.differing_pages == 0 ? "equal" : absl::StrCat(m.differing_pages, " PAGES DIFFER"),
        m.converged ? "" : ", did not converge");
  }
  out += "\nround by round (pages sent, dirty afterwards, exits):\n";
  for (const Migration& m : migrations) {
    absl::StrAppendFormat(&out, "%-18s", LoggingName(m.logging));
    for (size_t i = 0; i < m.rounds.size() && i < 8; ++i) {
      const MigrationRound& round = m.rounds[i];
      absl::StrAppend(&out, i == 0 ? " " : "; ", round.pages);
      if (i + 1 != m.rounds.size()) absl::StrAppend(&out, ", ", round.dirty, ", ", round.exits);
    }
    out += m.rounds.size() > 8 ? "; …\n" : "\n";
  }
  return out;
}

}  // namespace

absl::StatusOr<int> RunMigrate(absl::Span<const std::string_view> arguments) {
  CommandOptions options;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(std::vector<std::string> files, parser.Parse(arguments));
  if (options.help) {
    absl::PrintF(
        "usage: tdp migrate [OPTION...] TRACE\n\n"
        "Migrates a guest that runs TRACE, again and again, by pre-copy: all of its memory is "
        "sent\n"
        "while it runs, then what it wrote meanwhile, until the rest is sent with the guest "
        "stopped.\n"
        "Time is counted from the guest's speed, the link's bandwidth and what an exit costs. The\n"
        "copy is made for real: exit status 1 if a page of it differs at the end.\n\n%s",
        parser.Help());
    return kExitOk;
  }
  TDP_ASSIGN_OR_RETURN(const std::string trace_file, OneTrace(files, "migrate"));
  TDP_RETURN_IF_ERROR(
      CheckOutputs({{"json", options.json}}, InputFiles(files, options.machine.cache)));
  TDP_ASSIGN_OR_RETURN(ReportOutput output, ReportOutput::Open(options.json));
  MigrationOptions& migration = options.migration;
  migration.accesses_per_second = options.accesses * 1e6;
  migration.bytes_per_second = options.bandwidth * 1e9 / 8;
  migration.downtime_seconds = options.downtime / 1e3;
  TDP_ASSIGN_OR_RETURN(migration.exit_seconds, ExitSeconds(options.cost, options.machine));
  std::vector<Migration> migrations;
  int status = kExitOk;
  for (const Logging logging : options.loggings) {
    LoopingTrace trace(trace_file, ForLevels(options.input, options.machine.guest_levels));
    TDP_ASSIGN_OR_RETURN(Migration done, Migrate(trace, options.machine, migration, logging));
    if (done.differing_pages != 0) status = kExitMismatch;
    migrations.push_back(std::move(done));
  }
  const auto json = [&] {
    Json all = Json::array();
    for (const Migration& m : migrations) all.push_back(ToJson(m));
    const Json whole = {{"trace", trace_file},
                        {"accesses_per_second", migration.accesses_per_second},
                        {"bytes_per_second", migration.bytes_per_second},
                        {"exit_seconds", migration.exit_seconds},
                        {"downtime_limit_seconds", migration.downtime_seconds},
                        {"migrations", all}};
    return JsonText(whole, 2) + "\n";
  };
  TDP_RETURN_IF_ERROR(output.Write([&] { return Text(migrations, migration); }, json));
  return status;
}

}  // namespace tdp::tools
