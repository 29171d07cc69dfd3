// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/replay_report.h"

#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "tdp/tools/replay/machine_report.h"
#include "tdp/tools/replay/option_use.h"
#include "tdp/tools/trace/skip_text.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kKinds[] = {"fetches", "loads", "stores", "modifies"};
constexpr std::string_view kLevels[] = {"4k", "2m", "1g"};

double Ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }
double Percent(uint64_t part, uint64_t whole) {
  return 100 * Ratio(static_cast<double>(part), static_cast<double>(whole));
}
double PerWalk(uint64_t references, const ReplayReport& report) {
  return Ratio(static_cast<double>(references), static_cast<double>(report.cpu.walks));
}

std::string SizeText(ByteCount bytes) {
  if (bytes != 0 && bytes % GiB(1) == 0) return absl::StrCat(bytes / GiB(1), " GiB");
  if (bytes != 0 && bytes % MiB(1) == 0) return absl::StrCat(bytes / MiB(1), " MiB");
  return absl::StrCat(bytes / KiB(1), " KiB");
}

// One line: what it is about, then what there is to say.
template <typename... Args>
void Line(std::string& out, std::string_view title, const absl::FormatSpec<Args...>& format,
          const Args&... args) {
  absl::StrAppendFormat(&out, "%-12s", title);
  absl::StrAppendFormat(&out, format, args...);
  out += '\n';
}

// Whether the CPUs walk one.
bool HasEpt(const ReplayOptions& options) {
  return options.paging == Paging::kEpt || options.paging == Paging::kNested;
}

void AddSetup(std::string& out, const ReplayReport& report) {
  const ReplayOptions& options = report.options;
  Line(out, "trace", "%s: %s accesses (%s fetches, %s loads, %s stores, %s modifies)", report.trace,
       WithCommas(report.accesses()), WithCommas(report.records[0]), WithCommas(report.records[1]),
       WithCommas(report.records[2]), WithCommas(report.records[3]));
  if (report.skipped.total() != 0) Line(out, "left out", "%s", SkipText(report.skipped));
  Line(out, "guest", "%s of RAM, pages up to %s, %d levels, frames %s", SizeText(options.ram),
       PageName(options.guest_page), options.guest_levels,
       options.shuffled ? "shuffled" : "in order");
  if (HasEpt(options)) {
    Line(out, "EPT", "pages up to %s, %d levels%s%s", PageName(options.ept_page),
         options.ept_levels, options.reverse_map ? ", with a reverse map" : "",
         options.paging == Paging::kNested ? ", of a hypervisor in the guest (EPT12)" : "");
  } else {
    Line(out, "EPT", "none");
  }
  for (const UnusedOption& option : UnusedOptions(options)) {
    if (option.given) Line(out, "not used", "--%s: %s", option.name, option.why);
  }
}

void AddWalks(std::string& out, const ReplayReport& report) {
  const sim::CpuCounters& cpu = report.cpu;
  Line(out, "TLB", "%s hits (%.2f %%), %s misses, caches \"%s\"", WithCommas(cpu.tlb_hits),
       Percent(cpu.tlb_hits, cpu.accesses()), WithCommas(cpu.tlb_misses()),
       report.options.cache.caches);
  Line(out, "", "%s walks more: %s of accesses begun again, %s for a dirty bit or a right",
       WithCommas(cpu.restarts + cpu.assists), WithCommas(cpu.restarts), WithCommas(cpu.assists));
  Line(out, "walks", "%.2f references each: %.2f to guest tables, %.2f to the EPT",
       report.references_per_walk(), PerWalk(cpu.references.guest_total(), report),
       PerWalk(cpu.references.ept_total(), report));
  if (cpu.walk_cycles != 0) {
    Line(out, "cycles", "%.2f a walk, %.3f an access (%s)", report.cycles_per_walk(),
         Ratio(static_cast<double>(cpu.walk_cycles), static_cast<double>(cpu.accesses())),
         report.options.cache.cost);
  }
}

void AddViolations(std::string& out, const ReplayReport& report) {
  const ViolationCounts& violations = report.violations;
  Line(out, "violations", "%s, %.0f ns each in the engine; %s spurious",
       WithCommas(violations.total()), report.nanoseconds_per_violation(),
       WithCommas(violations.spurious));
  Line(out, "", "%-12s %9s %9s %9s", "mapped as", "4 KiB", "2 MiB", "1 GiB");
  for (ViolationCause cause : kViolationCauses) {
    Line(out, "", "%-12s %9s %9s %9s", ViolationCauseName(cause),
         WithCommas(violations.fixed_by(cause, kLevel4K)),
         WithCommas(violations.fixed_by(cause, kLevel2M)),
         WithCommas(violations.fixed_by(cause, kLevel1G)));
  }
}

void AddShadowExits(std::string& out, const ReplayReport& report) {
  const ShadowCounts& exits = report.shadow_exits;
  Line(out, "exits", "%s: %s faults of the shadow, %s of the guest, %s table writes, %s INVLPG",
       WithCommas(exits.total()), WithCommas(exits.fixed + exits.spurious),
       WithCommas(exits.guest_faults), WithCommas(exits.table_writes),
       WithCommas(exits.invalidations));
}

void AddNestedExits(std::string& out, const ReplayReport& report) {
  const NestedCounts& exits = report.nested_exits;
  Line(out, "exits", "%s: %s reflected to the guest's hypervisor, %s fixed, %s spurious",
       WithCommas(exits.total()), WithCommas(exits.reflected), WithCommas(exits.fixed),
       WithCommas(exits.spurious));
}

void AddEptMaps(std::string& out, const ReplayReport& report) {
  const bool nested = report.options.paging == Paging::kNested;
  if (nested) {
    Line(out, "EPT12 maps", "%s pages of 4 KiB, %s of 2 MiB; %s of tables",
         WithCommas(report.ept12_leaves[0]), WithCommas(report.ept12_leaves[1]),
         SizeText(report.ept12_tables.bytes()));
  }
  Line(out, nested ? "EPT02 maps" : "EPT maps",
       "%s pages of 4 KiB, %s of 2 MiB, %s of 1 GiB; %s of tables",
       WithCommas(report.ept.leaves[0]), WithCommas(report.ept.leaves[1]),
       WithCommas(report.ept.leaves[2]), SizeText(report.ept.tables.bytes()));
}

void AddTables(std::string& out, const ReplayReport& report) {
  Line(out, "page faults", "%s in the guest", WithCommas(report.page_faults));
  if (report.options.paging == Paging::kEpt) AddViolations(out, report);
  if (report.options.paging == Paging::kShadow) AddShadowExits(out, report);
  if (report.options.paging == Paging::kNested) AddNestedExits(out, report);
  Line(out, "guest maps", "%s pages of 4 KiB, %s of 2 MiB; %s of tables",
       WithCommas(report.guest_leaves[0]), WithCommas(report.guest_leaves[1]),
       SizeText(report.guest_tables.bytes()));
  if (HasEpt(report.options)) AddEptMaps(out, report);
}

void AddResult(std::string& out, const ReplayReport& report) {
  const ColdCheck& check = report.check;
  Line(out, "time", "%.3f s, %s accesses a second", absl::ToDoubleSeconds(report.run_time),
       WithCommas(report.accesses_per_second()));
  Line(out, "check", "%s pages walked again from cold, %s accesses to ROM and MMIO: %s mismatches",
       WithCommas(check.pages), WithCommas(check.device_accesses), WithCommas(check.mismatches));
  if (check.mismatches != 0) Line(out, "", "the first: %s", check.first_mismatch);
}

// The key of an option in the JSON report.
std::string_view OptionKey(std::string_view name) {
  static constexpr std::pair<std::string_view, std::string_view> kKeys[] = {
      {"ept-page", "ept_page_bytes"},   {"ept-levels", "ept_levels"},
      {"reverse-map", "reverse_map"},   {"fragmentation", "host_fragmentation"},
      {"program-data", "program_data"}, {"thp", "huge_host_pages"},
      {"fault-around", "fault_around"}, {"guest-fragmentation", "guest_fragmentation"}};
  for (const auto& [option, key] : kKeys) {
    if (option == name) return key;
  }
  return name;
}

// What an option without meaning was set to is nobody's business: null.
Json OptionsJson(const ReplayOptions& options) {
  Json json = {{"paging", PagingName(options.paging)},
               {"guest_page_bytes", options.guest_page.bytes()},
               {"guest_levels", options.guest_levels},
               {"ept_page_bytes", options.ept_page.bytes()},
               {"ept_levels", options.ept_levels},
               {"reverse_map", options.reverse_map},
               {"ram_bytes", options.ram},
               {"frames", options.shuffled ? "shuffled" : "sequential"},
               {"guest_fragmentation", options.guest_fragmentation},
               {"host_fragmentation", options.host_fragmentation},
               {"huge_host_pages", options.huge_host_pages},
               {"fault_around", options.fault_around},
               {"caches", options.cache.caches},
               {"tlb", options.cache.tlb},
               {"cost", options.cache.cost},
               {"machine", options.cache.machine},
               {"program_data", options.cache.program_data},
               {"table_churn", options.table_churn},
               {"cpus", options.cpus},
               {"quantum", options.quantum},
               {"seed", options.seed}};
  for (const UnusedOption& option : UnusedOptions(options)) {
    json[std::string(OptionKey(option.name))] = nullptr;
  }
  return json;
}

Json ReferencesJson(const sim::ReferenceCounts& references) {
  Json guest = Json::object();
  Json ept = Json::object();
  for (int level = 1; level < sim::ReferenceCounts::kLevels; ++level) {
    guest[absl::StrCat("level_", level)] = references.guest[level];
    uint64_t sum = 0;
    for (const auto& row : references.ept) sum += row[level];
    ept[absl::StrCat("level_", level)] = sum;
  }
  guest["total"] = references.guest_total();
  ept["total"] = references.ept_total();
  return {{"guest", guest}, {"ept", ept}};
}

Json ViolationsJson(const ReplayReport& report) {
  const ViolationCounts& violations = report.violations;
  Json by_cause = Json::object();
  for (ViolationCause cause : kViolationCauses) {
    Json levels = Json::object();
    for (int i = 0; i < 3; ++i) {
      levels[std::string(kLevels[i])] = violations.fixed_by(cause, Level(i + 1));
    }
    by_cause[ViolationCauseName(cause)] = levels;
  }
  return {{"total", violations.total()},
          {"spurious", violations.spurious},
          {"retry", violations.retry},
          {"mapped_around", violations.around},
          {"ns_each", report.nanoseconds_per_violation()},
          {"mapped_by_cause_and_page", by_cause}};
}

Json ShadowExitsJson(const ShadowCounts& exits) {
  return {{"total", exits.total()},
          {"fixed", exits.fixed},
          {"spurious", exits.spurious},
          {"guest_faults", exits.guest_faults},
          {"table_writes", exits.table_writes},
          {"invalidations", exits.invalidations}};
}

Json NestedExitsJson(const NestedCounts& exits) {
  return {{"total", exits.total()},
          {"reflected", exits.reflected},
          {"fixed", exits.fixed},
          {"spurious", exits.spurious}};
}

Json TablesJson(const ReplayReport& report) {
  return {
      {"guest_leaves", {{"4k", report.guest_leaves[0]}, {"2m", report.guest_leaves[1]}}},
      {"guest_table_bytes", report.guest_tables.bytes()},
      {"ept_leaves",
       {{"4k", report.ept.leaves[0]}, {"2m", report.ept.leaves[1]}, {"1g", report.ept.leaves[2]}}},
      {"ept_table_bytes", report.ept.tables.bytes()},
      {"ept12_leaves", {{"4k", report.ept12_leaves[0]}, {"2m", report.ept12_leaves[1]}}},
      {"ept12_table_bytes", report.ept12_tables.bytes()}};
}

}  // namespace

uint64_t ReplayReport::accesses_per_second() const {
  return static_cast<uint64_t>(
      Ratio(static_cast<double>(accesses()), absl::ToDoubleSeconds(run_time)));
}

double ReplayReport::references_per_walk() const { return PerWalk(cpu.references.total(), *this); }

double ReplayReport::cycles_per_walk() const { return PerWalk(cpu.walk_cycles, *this); }

double ReplayReport::nanoseconds_per_violation() const {
  return Ratio(absl::ToDoubleNanoseconds(violations.time), static_cast<double>(violations.total()));
}

std::string ReportText(const ReplayReport& report) {
  std::string out;
  AddSetup(out, report);
  if (report.machine.name.empty()) {
    AddWalks(out, report);
  } else {
    out += MachineText(report);
  }
  out += ObservationsText(report);
  AddTables(out, report);
  AddResult(out, report);
  return out;
}

std::string ReportJson(const ReplayReport& report) {
  Json records = Json::object();
  for (int i = 0; i < 4; ++i) records[std::string(kKinds[i])] = report.records[i];
  const sim::CpuCounters& cpu = report.cpu;
  Json json = {
      {"trace", report.trace},
      {"options", OptionsJson(report.options)},
      {"accesses", report.accesses()},
      {"records", records},
      {"left_out",
       {{"foreign", report.skipped.foreign},
        {"kernel", report.skipped.kernel},
        {"bad_address", report.skipped.bad_address},
        {"bad_size", report.skipped.bad_size},
        {"no_access", report.skipped.no_access}}},
      {"tlb", {{"lookups", cpu.accesses()}, {"hits", cpu.tlb_hits}, {"misses", cpu.tlb_misses()}}},
      {"walks",
       {{"count", cpu.walks},
        {"restarts", cpu.restarts},
        {"assists", cpu.assists},
        {"references_each", report.references_per_walk()},
        {"references", ReferencesJson(cpu.references)},
        {"guest_cache_hits", cpu.guest_cache_hits},
        {"ept_cache_hits", cpu.ept_cache_hits},
        {"nested_tlb_hits", cpu.nested_tlb_hits},
        {"cycles", cpu.walk_cycles}}},
      {"page_faults", report.page_faults},
      {"violations", ViolationsJson(report)},
      {"shadow_exits", ShadowExitsJson(report.shadow_exits)},
      {"nested_exits", NestedExitsJson(report.nested_exits)},
      {"tables", TablesJson(report)},
      {"seconds", absl::ToDoubleSeconds(report.run_time)},
      {"accesses_per_second", report.accesses_per_second()},
      {"check_seconds", absl::ToDoubleSeconds(report.check_time)},
      {"check",
       {{"left_out", report.check.left_out},
        {"pages", report.check.pages},
        {"untouched", report.check.untouched},
        {"device_accesses", report.check.device_accesses},
        {"mismatches", report.check.mismatches},
        {"first_mismatch", report.check.first_mismatch}}}};
  json["machine"] = MachineJson(report);
  AddObservationsJson(report, json);
  return json.dump(2) + "\n";
}

std::string WithCommas(uint64_t n) {
  std::string text = absl::StrCat(n);
  for (ptrdiff_t i = static_cast<ptrdiff_t>(text.size()) - 3; i > 0; i -= 3) {
    text.insert(static_cast<size_t>(i), 1, ',');
  }
  return text;
}

}  // namespace tdp::tools
