// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/replay/run_json.h"

#include <cstdint>
#include <string_view>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "tdp/backends/sim/level_array.h"
#include "tdp/backends/sim/reference_counts.h"
#include "tdp/base/version.h"
#include "tdp/tools/json_column.h"
#include "tdp/tools/options.h"
#include "tdp/tools/replay/machine_report.h"
#include "tdp/tools/replay/observe_options.h"
#include "tdp/tools/replay/option_use.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kKinds[] = {"fetches", "loads", "stores", "modifies"};
constexpr std::string_view kPages[] = {"4k", "2m", "1g"};

// Returns the value of an option: a number if the option is one.
Json ValueOf(const OptionParser::Option& option) {
  uint64_t whole = 0;
  double fraction = 0;
  if (option.form == "N" && absl::SimpleAtoi(option.default_text, &whole)) return whole;
  if (option.form == "X" && absl::SimpleAtod(option.default_text, &fraction)) return fraction;
  return option.default_text;
}

Json RecordsJson(const ReplayReport& report) {
  Json records = Json::object();
  for (size_t i = 0; i < std::size(kKinds); ++i) {
    records[std::string(kKinds[i])] = report.records[i];
  }
  return records;
}

Json LeftOutJson(const SkipCounts& skipped) {
  return {{"foreign", skipped.foreign},
          {"kernel", skipped.kernel},
          {"bad_address", skipped.bad_address},
          {"bad_size", skipped.bad_size},
          {"no_access", skipped.no_access}};
}

Json TlbJson(const ReplayReport& report) {
  const sim::CpuCounters& cpu = report.cpu;
  Json mpki = nullptr;
  if (report.records[0] != 0) mpki = report.misses_per_thousand_instructions();
  return {{"lookups", cpu.accesses()},
          {"hits", cpu.tlb_hits},
          {"misses", cpu.tlb_misses()},
          {"mpki", mpki}};
}

// References by level of the entry, 1 first, with their sum.
Json LevelsJson(const sim::LevelArray<uint64_t>& by_level) {
  Json levels = Json::object();
  uint64_t total = 0;
  for (size_t level = 1; level < by_level.size(); ++level) {
    levels[absl::StrCat("level_", level)] = by_level[level];
    total += by_level[level];
  }
  levels["total"] = total;
  return levels;
}

Json ReferencesJson(const sim::ReferenceCounts& references) {
  sim::LevelArray<uint64_t> ept{};
  Json grid = Json::array();
  for (const auto& row : references.ept) {
    Json cells = Json::array();
    for (size_t level = 1; level < row.size(); ++level) {
      ept[level] += row[level];
      cells.push_back(row[level]);
    }
    grid.push_back(cells);
  }
  return {{"guest", LevelsJson(references.guest)},
          {"ept", LevelsJson(ept)},
          {"ept_by_guest_level", grid}};
}

Json WalksJson(const ReplayReport& report) {
  const sim::CpuCounters& cpu = report.cpu;
  return {{"count", cpu.walks},
          {"restarts", cpu.restarts},
          {"assists", cpu.assists},
          {"references_per_walk", report.references_per_walk()},
          {"references", ReferencesJson(cpu.references)},
          {"guest_cache_hits", cpu.guest_cache_hits},
          {"ept_cache_hits", cpu.ept_cache_hits},
          {"nested_tlb_hits", cpu.nested_tlb_hits},
          {"cycles", cpu.walk_cycles},
          {"cycles_per_walk", report.cycles_per_walk()}};
}

Json ViolationsJson(const ReplayReport& report) {
  const ViolationCounts& violations = report.violations;
  Json by_cause = Json::object();
  for (ViolationCause cause : kViolationCauses) {
    Json pages = Json::object();
    for (int i = 0; i < 3; ++i) {
      pages[std::string(kPages[i])] = violations.fixed_by(cause, Level(i + 1));
    }
    by_cause[ViolationCauseKey(cause)] = pages;
  }
  return {{"total", violations.total()},
          {"spurious", violations.spurious},
          {"retry", violations.retry},
          {"mapped_around", violations.around},
          {"ns_each", report.nanoseconds_per_violation()},
          {"mapped", by_cause}};
}

Json ShadowExitsJson(const ShadowCounts& exits) {
  return {{"total", exits.total()},
          {"fixed", exits.fixed},
          {"spurious", exits.spurious},
          {"guest_faults", exits.guest_faults},
          {"table_writes", exits.table_writes},
          {"invalidations", exits.invalidations},
          {"cr3_writes", exits.cr3_writes}};
}

Json NestedExitsJson(const NestedCounts& exits) {
  return {{"total", exits.total()},
          {"reflected", exits.reflected},
          {"fixed", exits.fixed},
          {"spurious", exits.spurious}};
}

Json TablesJson(const ReplayReport& report) {
  return {
      {"guest_leaves",
       {{"4k", report.guest_leaves[0]},
        {"2m", report.guest_leaves[1]},
        {"1g", report.guest_leaves[2]}}},
      {"guest_table_bytes", report.guest_tables.bytes()},
      {"ept_leaves",
       {{"4k", report.ept.leaves[0]}, {"2m", report.ept.leaves[1]}, {"1g", report.ept.leaves[2]}}},
      {"ept_table_bytes", report.ept.tables.bytes()},
      {"ept12_leaves", {{"4k", report.ept12_leaves[0]}, {"2m", report.ept12_leaves[1]}}},
      {"ept12_table_bytes", report.ept12_tables.bytes()}};
}

Json PerCpuJson(const std::vector<CpuReport>& cpus) {
  Json all = Json::array();
  for (const CpuReport& cpu : cpus) {
    const sim::CpuCounters& counters = cpu.counters;
    all.push_back({{"lookups", counters.accesses()},
                   {"hits", counters.tlb_hits},
                   {"misses", counters.tlb_misses()},
                   {"walks", counters.walks},
                   {"guest_references", counters.references.guest_total()},
                   {"ept_references", counters.references.ept_total()},
                   {"cycles", counters.walk_cycles},
                   {"page_faults", cpu.page_faults},
                   {"exits", cpu.exits}});
  }
  return all;
}

Json ProcessesJson(const ReplayReport& report) {
  if (report.per_process.empty()) return nullptr;
  const ProcessCounts& counts = report.processes;
  const auto& each = report.per_process;
  return {{"switches", counts.switches},
          {"flushes", counts.flushes},
          {"shootdowns", counts.shootdowns},
          {"ipis", counts.ipis},
          {"deferred_flushes", counts.deferred},
          {"kernel_accesses", counts.kernel_accesses},
          {"accesses", Column(each, &ProcessReport::accesses)},
          {"tlb_misses", Column(each, &ProcessReport::tlb_misses)},
          {"walks", Column(each, &ProcessReport::walks)},
          {"page_faults", Column(each, &ProcessReport::page_faults)}};
}

Json CheckJson(const ColdCheck& check) {
  return {{"left_out", check.left_out},     {"pages", check.pages},
          {"untouched", check.untouched},   {"device_accesses", check.device_accesses},
          {"mismatches", check.mismatches}, {"first_mismatch", check.first_mismatch}};
}

// Returns the text of one figure; nothing for what there is not.
std::string FigureText(const Json& value) {
  if (value.is_null()) return "";
  if (value.is_string()) return value.get<std::string>();
  if (value.is_number_float()) return absl::StrFormat("%.4f", value.get<double>());
  return JsonText(value);
}

void AddFigures(const std::string& path, const Json& value,
                std::vector<std::pair<std::string, std::string>>& figures) {
  if (value.is_array()) return;
  if (!value.is_object()) {
    figures.emplace_back(path, FigureText(value));
    return;
  }
  for (const auto& [key, field] : value.items()) {
    AddFigures(absl::StrCat(path, path.empty() ? "" : "_", key), field, figures);
  }
}

}  // namespace

Json OptionsJson(const ReplayOptions& options) {
  ReplayOptions copy = options;
  OptionParser parser;  // whose defaults are the values
  AddReplayOptions(parser, &copy);
  AddRegionOptions(parser, &copy.observe);
  AddCheckOption(parser, &copy.check);
  if (options.processes.count != 0) AddProcessOptions(parser, &copy.processes);
  Json json = Json::object();
  for (const OptionParser::Option& option : parser.options()) json[option.name] = ValueOf(option);
  // The value of an option without meaning would mislead.
  for (const UnusedOption& option : UnusedOptions(options)) {
    json[std::string(option.name)] = nullptr;
  }
  return json;
}

Json RunJson(const ReplayReport& report) {
  Json run = {{"schema", "tdp-run"},
              {"schema_version", kRunSchemaVersion},
              {"tdp_version",
               absl::StrCat(TDP_VERSION_MAJOR, ".", TDP_VERSION_MINOR, ".", TDP_VERSION_PATCH)},
              {"command", report.command},
              {"trace", report.trace},
              {"options", OptionsJson(report.options)},
              {"accesses", report.accesses()},
              {"records", RecordsJson(report)},
              {"left_out", LeftOutJson(report.skipped)},
              {"tlb", TlbJson(report)},
              {"walks", WalksJson(report)},
              {"page_faults", report.page_faults},
              {"exits", report.exits()},
              {"violations", ViolationsJson(report)},
              {"shadow_exits", ShadowExitsJson(report.shadow_exits)},
              {"nested_exits", NestedExitsJson(report.nested_exits)},
              {"tables", TablesJson(report)},
              {"per_cpu", PerCpuJson(report.per_cpu)},
              {"seconds", absl::ToDoubleSeconds(report.run_time)},
              {"accesses_per_second", report.accesses_per_second()},
              {"check_seconds", absl::ToDoubleSeconds(report.check_time)},
              {"check", CheckJson(report.check)}};
  run["processes"] = ProcessesJson(report);
  run["machine"] = MachineJson(report);
  AddObservationsJson(report, run);
  return run;
}

std::string ReportJson(const ReplayReport& report) { return JsonText(RunJson(report), 2) + "\n"; }

std::vector<std::pair<std::string, std::string>> RunFigures(const ReplayReport& report) {
  Json run = RunJson(report);
  // These say what was run, not what came of it; and what not all runs have is no column of a
  // table.
  for (const char* key :
       {"schema", "schema_version", "tdp_version", "command", "trace", "options", "processes",
        "machine", "warmup_accesses", "intervals", "pages", "miss_curves"}) {
    run.erase(key);
  }
  std::vector<std::pair<std::string, std::string>> figures;
  AddFigures("", run, figures);
  return figures;
}

}  // namespace tdp::tools
