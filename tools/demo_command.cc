// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/demo_command.h"

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/level.h"
#include "tdp/base/status_macros.h"
#include "tdp/tools/command.h"
#include "tdp/tools/data/sqlite3_inserts.h"
#include "tdp/tools/options.h"
#include "tdp/tools/progress.h"
#include "tdp/tools/replay/replay.h"
#include "tdp/tools/replay/replay_options.h"
#include "tdp/tools/replay/replay_report.h"
#include "tdp/tools/trace/byte_source.h"
#include "tdp/tools/trace/open_trace.h"
#include "tdp/tools/trace/trace_reader.h"

namespace tdp::tools {
namespace {

// A first-level data TLB of its time: small enough for this program to miss in it.
constexpr char kTlb[] = "16x4+8x4+1x4";

struct Setup {
  Paging paging;
  Level guest_page;
  Level ept_page;
};

constexpr Setup kSetups[] = {
    {Paging::kNative, kLevel4K, kLevel4K}, {Paging::kNative, kLevel2M, kLevel4K},
    {Paging::kEpt, kLevel4K, kLevel4K},    {Paging::kEpt, kLevel4K, kLevel2M},
    {Paging::kEpt, kLevel2M, kLevel4K},    {Paging::kEpt, kLevel2M, kLevel2M},
};

// A replay with full walks and one with walk caches.
struct Row {
  ReplayReport bare;
  ReplayReport cached;
};

absl::StatusOr<ReplayReport> ReplayBundled(const Setup& setup, const char* caches) {
  TDP_ASSIGN_OR_RETURN(
      std::unique_ptr<ByteSource> source,
      OpenBytes("sqlite3_inserts", absl::MakeConstSpan(kSqlite3Inserts, kSqlite3InsertsBytes)));
  TDP_ASSIGN_OR_RETURN(std::unique_ptr<TraceReader> reader,
                       OpenTrace(std::move(source), {.format = TraceFormat::kBinary}));
  ReplayOptions options;
  options.paging = setup.paging;
  options.guest_page = setup.guest_page;
  options.ept_page = setup.ept_page;
  options.shuffled = true;
  options.cache = {.caches = caches, .tlb = kTlb, .cost = "skylake"};
  TraceReaders readers;
  readers.push_back(std::move(reader));
  Progress progress;
  return Replay(readers, options, progress);
}

std::string ShortPageName(Level level) { return level == kLevel4K ? "4K" : "2M"; }

std::string RowText(const Setup& setup, const Row& row) {
  const ReplayReport& bare = row.bare;
  const ReplayReport& cached = row.cached;
  const bool ept = setup.paging == Paging::kEpt;
  return absl::StrFormat(
      "%-6s  %5s  %3s %10s %9.2f %8.2f %9.1f %8.1f %11s %7s\n", PagingName(setup.paging),
      ShortPageName(setup.guest_page), ept ? ShortPageName(setup.ept_page) : "-",
      WithCommas(bare.cpu.tlb_misses()), bare.references_per_walk(), cached.references_per_walk(),
      bare.cycles_per_walk(), cached.cycles_per_walk(),
      ept ? WithCommas(cached.violations.total()) : "-",
      absl::StrCat((cached.guest_tables + cached.ept.tables).bytes() / KiB(1), "K"));
}

constexpr char kHeading[] =
    "            page         TLB  references a walk     cycles a walk         EPT\n"
    "paging  guest  EPT     misses      bare   cached      bare   cached  violations  tables\n";

constexpr char kReading[] =
    "What to read from it: a TLB miss costs a native guest one walk of its own tables, 4 "
    "references.\n"
    "Under EPT each of these is a guest-physical address that must be walked itself: 24, or 19 "
    "where\n"
    "one of the dimensions has 2M pages. Walk caches and a nested TLB (\"cached\") hide nearly all "
    "of\n"
    "that, until a program outgrows them. 2M pages in the EPT alone, which the guest never sees, "
    "make\n"
    "walks shorter, violations rare and tables small; 2M pages in both make TLB misses rare too.\n";

}  // namespace

absl::StatusOr<int> RunDemo(absl::Span<const std::string_view> arguments) {
  bool help = false;
  OptionParser parser;
  parser.AddSwitch("help", "show this", &help);
  TDP_ASSIGN_OR_RETURN(std::vector<std::string> rest, parser.Parse(arguments));
  if (help) {
    absl::PrintF("usage: tdp demo\n\nReplays the bundled trace natively and under EPT.\n\n%s",
                 parser.Help());
    return kExitOk;
  }
  if (!rest.empty()) return absl::InvalidArgumentError("takes no argument");

  uint64_t mismatches = 0;
  uint64_t pages = 0;
  std::string table = kHeading;
  double slowest = 0;
  uint64_t accesses = 0;
  for (const Setup& setup : kSetups) {
    Row row;
    TDP_ASSIGN_OR_RETURN(row.bare, ReplayBundled(setup, "tlb"));
    TDP_ASSIGN_OR_RETURN(row.cached, ReplayBundled(setup, "nested"));
    absl::StrAppend(&table, RowText(setup, row));
    for (const ReplayReport* report : {&row.bare, &row.cached}) {
      mismatches += report->check.mismatches;
      pages += report->check.pages;
      slowest = std::max(slowest, absl::ToDoubleSeconds(report->run_time));
      accesses = report->accesses();
    }
  }
  absl::PrintF(
      "%s memory accesses of the sqlite3 shell inserting rows, replayed on a software CPU with a\n"
      "64-entry TLB, each time on a new machine and in %.2f s at most.\n\n%s\n%s\n",
      WithCommas(accesses), slowest, table, kReading);
  absl::PrintF(
      "%s mappings walked again from cold and compared with the memory slots: %s mismatches.\n",
      WithCommas(pages), WithCommas(mismatches));
  return mismatches == 0 ? kExitOk : kExitMismatch;
}

}  // namespace tdp::tools
