// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/overcommit_command.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/experiments/balloon.h"
#include "tdp/tools/experiments/exit_cost.h"
#include "tdp/tools/experiments/overcommit.h"
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
    "usage: tdp overcommit [OPTION...] TRACE\n\n"
    "A guest that runs TRACE, again and again, in less host memory than it uses: when a page "
    "comes,\n"
    "another goes to the host's swap area. Time is counted from the guest's speed, from what an\n"
    "exit costs and from what it takes to bring a page back. Pages are moved for real, and with\n"
    "--check all the guest's pages are compared at the end with those of one that had all memory:\n"
    "exit status 1 if one differs. --ept-page is 4k here. With --balloon the same guest runs a "
    "last\n"
    "time with no more than that memory of its own, the rest in a balloon: it swaps by itself.\n\n";

struct CommandOptions {
  ReplayOptions machine;
  TraceInput input;
  ExitCost cost;
  OvercommitOptions guest;
  std::vector<Reclaim> reclaims = {Reclaim::kFifo, Reclaim::kClock, Reclaim::kRandom};
  double speed = 1000;   // millions of accesses a second
  double swap_in = 100;  // microseconds
  bool balloon = false;
  ColdCheckMode check = ColdCheckMode::kOff;
  std::string json;  // the file; empty without --json
  bool help = false;
};

OptionParser MakeParser(CommandOptions* options) {
  OptionParser parser;
  AddReplayOptions(parser, &options->machine);
  AddInputOptions(parser, &options->input);
  AddExitCostOptions(parser, &options->cost);
  parser.AddSize("resident", "host memory for the guest, at least 512k", &options->guest.resident);
  parser.Add("reclaim", "all|fifo|clock|random",
             "which page goes: the oldest, the oldest that was "
             "not used lately (by its A bit), any",
             "all", [options](std::string_view text) -> absl::Status {
               if (text == "all") return absl::OkStatus();
               for (const Reclaim reclaim : {Reclaim::kFifo, Reclaim::kClock, Reclaim::kRandom}) {
                 if (text != ReclaimName(reclaim)) continue;
                 options->reclaims = {reclaim};
                 return absl::OkStatus();
               }
               return absl::InvalidArgumentError("must be all|fifo|clock|random");
             });
  parser.AddSwitch("balloon", "also with a balloon, which leaves --resident to the guest",
                   &options->balloon);
  parser.AddInteger("accesses", "that the guest makes", &options->guest.accesses, 1,
                    1'000'000'000'000);
  parser.AddNumber("guest-speed", "accesses of the running guest, millions a second",
                   &options->speed, 0.001, 1e6);
  parser.AddNumber("swap-in", "microseconds until a page is back; 100 is assumed, as of a fast SSD",
                   &options->swap_in, 0, 1e9);
  AddCheckOption(parser, &options->check, "how many of the pages are compared at the end");
  AddJsonOption(parser, &options->json);
  parser.AddSwitch("help", "show this", &options->help);
  return parser;
}

Json ToJson(const Overcommit& o) {
  return {{"reclaim", ReclaimName(o.reclaim)},
          {"resident_bytes", o.resident},
          {"guest_pages", o.guest_pages},
          {"swap_ins", o.swap_ins},
          {"swap_outs", o.swap_outs},
          {"second_chances", o.second_chances},
          {"exits", o.exits},
          {"differing_pages", o.differing_pages},
          {"seconds", o.seconds}};
}

std::string Text(const std::vector<Overcommit>& all, bool checked) {
  std::string out =
      absl::StrFormat("%-8s %10s %10s %10s %10s %10s %10s  %s\n", "reclaim", "pages", "resident",
                      "swap-ins", "swap-outs", "exits", "seconds", "memory");
  for (const Overcommit& o : all) {
    absl::StrAppendFormat(
        &out, "%-8s %10d %10d %10d %10d %10d %10.4f  %s\n", ReclaimName(o.reclaim), o.guest_pages,
        o.resident / kPageSize, o.swap_ins, o.swap_outs, o.exits, o.seconds,
        !checked                 ? "not compared"
        : o.differing_pages == 0 ? "equal"
                                 : absl::StrCat(o.differing_pages, " PAGES DIFFER"));
  }
  return out;
}

}  // namespace

absl::StatusOr<int> RunOvercommit(absl::Span<const std::string_view> arguments) {
  CommandOptions options;
  options.machine.ept_page = kLevel4K;
  const OptionParser parser = MakeParser(&options);
  TDP_ASSIGN_OR_RETURN(const std::vector<std::string> files, parser.Parse(arguments));
  if (options.help) {
    std::fputs(absl::StrCat(kUsage, parser.Help()).c_str(), stdout);
    return kExitOk;
  }
  TDP_ASSIGN_OR_RETURN(const std::string trace_file, OneTrace(files, "overcommit"));
  TDP_RETURN_IF_ERROR(
      CheckOutputs({{"json", options.json}}, InputFiles(files, options.machine.cache)));
  TDP_ASSIGN_OR_RETURN(ReportOutput output, ReportOutput::Open(options.json));
  OvercommitOptions& guest = options.guest;
  guest.seed = options.machine.seed;
  guest.accesses_per_second = options.speed * 1e6;
  guest.swap_in_seconds = options.swap_in / 1e6;
  TDP_ASSIGN_OR_RETURN(guest.exit_seconds, ExitSeconds(options.cost, options.machine));
  const TraceInput input = ForLevels(options.input, options.machine.guest_levels);
  std::vector<Overcommit> all;
  int status = kExitOk;
  if (options.balloon) options.reclaims.push_back(Reclaim::kBalloon);
  for (const Reclaim reclaim : options.reclaims) {
    guest.reclaim = reclaim;
    const auto run = reclaim == Reclaim::kBalloon ? RunBallooned : RunOvercommitted;
    TDP_ASSIGN_OR_RETURN(all.emplace_back(),
                         run(trace_file, input, options.machine, guest, options.check));
    if (all.back().differing_pages != 0) status = kExitMismatch;
  }
  const bool checked = options.check != ColdCheckMode::kOff;
  const auto json = [&] {
    Json runs = Json::array();
    for (const Overcommit& o : all) runs.push_back(ToJson(o));
    const Json whole = {{"trace", trace_file},
                        {"accesses", guest.accesses},
                        {"accesses_per_second", guest.accesses_per_second},
                        {"exit_seconds", guest.exit_seconds},
                        {"swap_in_seconds", guest.swap_in_seconds},
                        {"checked", checked},
                        {"runs", runs}};
    return JsonText(whole, 2) + "\n";
  };
  TDP_RETURN_IF_ERROR(output.Write([&] { return Text(all, checked); }, json));
  return status;
}

}  // namespace tdp::tools
