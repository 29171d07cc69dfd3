// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/machine_report.h"

#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/tools/json_column.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;
using sim::MmuCounters;

constexpr std::string_view kUses[] = {"fetches", "loads", "stores"};
constexpr std::string_view kServers[] = {"l1", "l2", "l3", "memory"};

// One cause of the cycles of translation.
struct Cause {
  const char* key;   // in JSON, before "_cycles"
  const char* text;  // in the report
  uint64_t events;
  uint64_t cycles;
};

std::vector<Cause> CausesOf(const ReplayReport& report) {
  const MmuCounters& mmu = report.mmu;
  const uint64_t l2_hits = mmu.l2_hits[0] + mmu.l2_hits[1] + mmu.l2_hits[2];
  const auto references = [&mmu](bool ept) {
    uint64_t sum = 0;
    for (size_t s = 0; s < MmuCounters::kServers; ++s) sum += mmu.ReferencesServed(ept, s);
    return sum;
  };
  std::vector<Cause> causes = {
      {"l2_tlb_hit", "second-level TLB hits", l2_hits, mmu.l2_hit_cycles},
      {"l2_tlb_miss", "second-level TLB misses", mmu.total_walks() - mmu.assists,
       mmu.l2_miss_cycles},
      {"guest_walk_cache", "walk caches, guest", mmu.total_walks(), mmu.guest_cache_cycles},
      {"ept_walk_cache", "walk caches, EPT", mmu.ept_walks, mmu.ept_cache_cycles},
      {"nested_tlb", "nested TLB", mmu.nested_tlb_lookups, mmu.nested_tlb_cycles},
      {"guest_table", "loads from guest tables", references(false), mmu.ReferenceCycles(false)},
      {"ept_table", "loads from the EPT", references(true), mmu.ReferenceCycles(true)},
      {"page_fault", "page faults", report.page_faults,
       report.page_faults * report.machine.page_fault_cycles},
      {"vm_exit", "VM exits", report.exits(), report.exits() * report.machine.vm_exit_cycles}};
  if (!report.per_process.empty()) {
    const uint64_t switches = report.processes.switches;
    causes.push_back(
        {"context_switch", "context switches", switches, switches * report.machine.switch_cycles});
  }
  return causes;
}

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

void AddUses(std::string& out, const MmuCounters& mmu) {
  absl::StrAppendFormat(&out, "%12s%-10s %14s %14s %14s %14s\n", "", "", "look-ups",
                        "L1 TLB misses", "walks", "walks/1,000");
  for (size_t use = 0; use < MmuCounters::kUses; ++use) {
    absl::StrAppendFormat(
        &out, "%12s%-10s %14s %14s %14s %14.3f\n", "", kUses[use], WithCommas(mmu.accesses[use]),
        WithCommas(mmu.accesses[use] - mmu.l1_hits[use]), WithCommas(mmu.walks[use]),
        1000 * Share(mmu.walks[use], mmu.accesses[use]));
  }
}

void AddServed(std::string& out, const MmuCounters& mmu) {
  absl::StrAppendFormat(&out, "%12s%-24s %12s %12s %12s %12s\n", "", "served by", "L1", "L2", "L3",
                        "memory");
  const auto line = [&out](const char* what, const auto& served) {
    absl::StrAppendFormat(&out, "%12s%-24s", "", what);
    for (size_t s = 0; s < MmuCounters::kServers; ++s) {
      absl::StrAppendFormat(&out, " %12s", WithCommas(served(s)));
    }
    out += '\n';
  };
  line("guest tables", [&mmu](size_t s) { return mmu.ReferencesServed(false, s); });
  line("EPT", [&mmu](size_t s) { return mmu.ReferencesServed(true, s); });
  line("the program", [&mmu](size_t s) { return mmu.program_served[s]; });
}

Json StackJson(const ReplayReport& report) {
  Json causes = Json::array();
  Json events = Json::array();
  Json cycles = Json::array();
  for (const Cause& cause : CausesOf(report)) {
    causes.push_back(cause.key);
    events.push_back(cause.events);
    cycles.push_back(cause.cycles);
  }
  return {{"causes", causes}, {"events", events}, {"cycles", cycles}};
}

// [guest level][EPT level][server]; EPT level 0 is the guest's own entries, guest level 0 the final
// address.
Json GridJson(const MmuCounters& mmu) {
  Json references = Json::array();
  Json cycles = Json::array();
  for (size_t g = 0; g < MmuCounters::kLevels; ++g) {
    references.push_back(mmu.references[g]);
    cycles.push_back(mmu.reference_cycles[g]);
  }
  return {{"served_by", kServers}, {"references", references}, {"cycles", cycles}};
}

Json IntervalsJson(const ReplayReport& report) {
  const Observations& seen = report.observations;
  if (seen.interval == 0) return nullptr;
  const auto& all = seen.intervals;
  Json json = {{"accesses_each", seen.interval},
               {"accesses", Column(all, &Interval::accesses)},
               {"tlb_misses", Column(all, &Interval::tlb_misses)},
               {"walks", Column(all, &Interval::walks)},
               {"guest_references", Column(all, &Interval::guest_references)},
               {"ept_references", Column(all, &Interval::ept_references)},
               {"walk_cycles", Column(all, &Interval::walk_cycles)},
               {"page_faults", Column(all, &Interval::page_faults)},
               {"exits", Column(all, &Interval::exits)}};
  if (report.machine.name.empty()) return json;
  json["l1_tlb_hits"] = Column(all, &Interval::l1_tlb_hits);
  json["l2_tlb_hits"] = Column(all, &Interval::l2_tlb_hits);
  json["full_walks"] = Column(all, &Interval::full_walks);
  json["translation_cycles"] = Column(all, &Interval::translation_cycles);
  json["program_cycles"] = Column(all, &Interval::program_cycles);
  return json;
}

Json PagesJson(const ReplayReport& report) {
  const Observations& seen = report.observations;
  if (seen.top_pages.empty()) return nullptr;
  Json gva = Json::array();
  Json accesses = Json::array();
  Json walks = Json::array();
  for (const PageUse& page : seen.top_pages) {
    gva.push_back(page.gva);
    accesses.push_back(page.accesses);
    walks.push_back(page.walks);
  }
  Json json = {
      {"page_bytes", 4096}, {"touched", seen.touched_pages}, {"gva", gva}, {"accesses", accesses}};
  if (!report.machine.name.empty()) json["walks"] = walks;
  return json;
}

Json CurvesJson(const std::vector<MissCurve>& curves) {
  if (curves.empty()) return nullptr;
  Json json = Json::array();
  for (const MissCurve& curve : curves) {
    json.push_back({{"page_bytes", curve.page_bytes},
                    {"pages", curve.pages},
                    {"entries", curve.entries},
                    {"misses", curve.misses},
                    {"sampled", curve.sampled}});
  }
  return json;
}

void AddIntervals(std::string& out, const Observations& seen) {
  if (seen.intervals.empty()) return;
  std::vector<double> rates;
  for (const Interval& interval : seen.intervals) {
    rates.push_back(1e6 * Share(interval.tlb_misses, interval.accesses));
  }
  std::sort(rates.begin(), rates.end());
  absl::StrAppendFormat(&out,
                        "%-12s%d of %s accesses; TLB misses a million accesses: least %.0f, median "
                        "%.0f, most %.0f\n",
                        "intervals", rates.size(), WithCommas(seen.interval), rates.front(),
                        rates[rates.size() / 2], rates.back());
}

void AddPages(std::string& out, const ReplayReport& report) {
  const Observations& seen = report.observations;
  if (seen.top_pages.empty()) return;
  const bool machine = !report.machine.name.empty();
  absl::StrAppendFormat(&out, "%-12s%s touched; %-18s %14s %8s%s\n", "pages",
                        WithCommas(seen.touched_pages), "the most used:", "accesses", "share",
                        machine ? "          walks" : "");
  for (const PageUse& page : seen.top_pages) {
    absl::StrAppendFormat(&out, "%12s%#18x %24s %7.2f%%", "", page.gva, WithCommas(page.accesses),
                          100 * Share(page.accesses, report.accesses()));
    if (machine) absl::StrAppendFormat(&out, " %14s", WithCommas(page.walks));
    out += '\n';
  }
}

void AddCurves(std::string& out, const Observations& seen) {
  for (const MissCurve& curve : seen.miss_curves) {
    absl::StrAppendFormat(&out, "%-12s%s, %s%s pages: misses of a TLB of n entries\n", "miss curve",
                          curve.page_bytes == 4096         ? "4 KiB"
                          : curve.page_bytes == 4096 * 512 ? "2 MiB"
                                                           : "1 GiB",
                          curve.sampled ? "sampled, about " : "", WithCommas(curve.pages));
    for (size_t i = 0; i < curve.entries.size(); ++i) {
      // Powers of two; JSON has the sizes between them too.
      if ((curve.entries[i] & (curve.entries[i] - 1)) != 0) continue;
      absl::StrAppendFormat(&out, "%12s%8d %14s\n", "", curve.entries[i],
                            WithCommas(curve.misses[i]));
    }
  }
}

}  // namespace

std::string MachineText(const ReplayReport& report) {
  if (report.machine.name.empty()) return "";
  const MmuCounters& mmu = report.mmu;
  std::string out = absl::StrFormat("%-12s%s\n", "machine", report.machine.name);
  AddUses(out, mmu);
  absl::StrAppendFormat(
      &out, "%12s%s walks for a first store, %s from the root; %.2f references each\n", "",
      WithCommas(mmu.assists), WithCommas(mmu.full_walks), report.references_per_walk());
  absl::StrAppendFormat(&out, "%12s%-24s %14s %16s %12s\n", "", "cycles by cause", "events",
                        "cycles", "an access");
  uint64_t all = 0;
  for (const Cause& cause : CausesOf(report)) {
    all += cause.cycles;
    absl::StrAppendFormat(&out, "%12s%-24s %14s %16s %12.4f\n", "", cause.text,
                          WithCommas(cause.events), WithCommas(cause.cycles),
                          Share(cause.cycles, mmu.total_accesses()));
  }
  absl::StrAppendFormat(&out, "%12s%-24s %14s %16s %12.4f\n", "", "all", "", WithCommas(all),
                        Share(all, mmu.total_accesses()));
  if (mmu.program_cycles != 0) {
    absl::StrAppendFormat(&out, "%12s%-24s %14s %16s %12.4f\n", "", "(the program's data)", "",
                          WithCommas(mmu.program_cycles),
                          Share(mmu.program_cycles, mmu.total_accesses()));
  }
  AddServed(out, mmu);
  return out;
}

std::string ObservationsText(const ReplayReport& report) {
  std::string out;
  if (report.observations.warmup != 0) {
    absl::StrAppendFormat(&out, "%-12s%s accesses before, not counted\n", "warm-up",
                          WithCommas(report.observations.warmup));
  }
  AddIntervals(out, report.observations);
  AddPages(out, report);
  AddCurves(out, report.observations);
  return out;
}

Json MachineJson(const ReplayReport& report) {
  if (report.machine.name.empty()) return nullptr;
  const MmuCounters& mmu = report.mmu;
  return {{"name", report.machine.name},
          {"uses", kUses},
          {"accesses", mmu.accesses},
          {"l1_tlb_hits", mmu.l1_hits},
          {"l2_tlb_hits", mmu.l2_hits},
          {"walks", mmu.walks},
          {"assists", mmu.assists},
          {"full_walks", mmu.full_walks},
          {"nested_tlb_lookups", mmu.nested_tlb_lookups},
          {"nested_tlb_hits", mmu.nested_tlb_hits},
          {"ept_walks", mmu.ept_walks},
          {"translation_cycles", mmu.translation_cycles()},
          {"stack", StackJson(report)},
          {"walk_grid", GridJson(mmu)},
          {"program_served", mmu.program_served},
          {"program_cycles", mmu.program_cycles},
          {"vm_exit_cycles_each", report.machine.vm_exit_cycles},
          {"page_fault_cycles_each", report.machine.page_fault_cycles}};
}

void AddObservationsJson(const ReplayReport& report, Json& json) {
  json["warmup_accesses"] = report.observations.warmup;
  json["intervals"] = IntervalsJson(report);
  json["pages"] = PagesJson(report);
  json["miss_curves"] = CurvesJson(report.observations.miss_curves);
}

}  // namespace tdp::tools
