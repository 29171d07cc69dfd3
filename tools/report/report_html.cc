// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/report/report_html.h"

#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "nlohmann/json.hpp"
#include "tdp/base/status_macros.h"
#include "tdp/tools/experiments/exit_cost.h"
#include "tdp/tools/json_column.h"
#include "tdp/tools/regions/json_text.h"
#include "tdp/tools/replay/run_json.h"
#include "tdp/tools/report/report_parts.h"
#include "tdp/tools/report/run_types.h"

namespace tdp::tools {
namespace {

using Json = nlohmann::json;

// Fields without which the page could show nothing of a run.
constexpr const char* kNeeded[] = {"command", "trace",      "options",      "accesses",
                                   "records", "tlb",        "walks",        "page_faults",
                                   "exits",   "violations", "shadow_exits", "nested_exits",
                                   "tables",  "per_cpu",    "check"};

absl::Status CheckRun(const Json& run) {
  if (!run.is_object() || !run.contains("schema") || run["schema"] != "tdp-run") {
    return absl::InvalidArgumentError("not a run of tdp: its schema is not tdp-run");
  }
  const Json version = run.value("schema_version", Json());
  if (!version.is_number_unsigned() || version > kRunSchemaVersion) {
    return absl::InvalidArgumentError(absl::StrCat("schema_version ", version.dump(),
                                                   ": this tdp knows up to ", kRunSchemaVersion));
  }
  for (const char* name : kNeeded) {
    if (!run.contains(name)) return absl::InvalidArgumentError(absl::StrCat("has no field ", name));
  }
  return CheckRunTypes(run);
}

bool IsBenchmarks(const Json& file) {
  return file.is_object() && file.contains("benchmarks") && file.contains("context");
}

absl::Status CheckBenchmarks(const Json& file) {
  const Json& all = file["benchmarks"];
  if (!file["context"].is_object() || !all.is_array() || all.empty()) {
    return absl::InvalidArgumentError("Google Benchmark's, but without a benchmark");
  }
  for (size_t i = 0; i < all.size(); ++i) {
    const bool failed = all[i].is_object() && all[i].value("error_occurred", Json()) == true;
    const bool fine = all[i].is_object() && all[i].value("name", Json()).is_string() &&
                      (failed || all[i].value("cpu_time", Json()).is_number());
    if (!fine) {
      return absl::InvalidArgumentError(
          absl::StrCat("benchmark ", i, ": has no name or no cpu_time"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckRuns(const Json& file) {
  if (IsBenchmarks(file)) return CheckBenchmarks(file);
  if (!file.is_array()) return CheckRun(file);
  if (file.empty()) return absl::InvalidArgumentError("a sweep without a cell");
  for (size_t i = 0; i < file.size(); ++i) {
    const absl::Status status = CheckRun(file[i]);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("run ", i, ": ", status.message()));
    }
  }
  return absl::OkStatus();
}

// The fields of a run that count the exits of each cause, in the order of `ExitCause`.
constexpr const char* kExitFields[kExitCauses] = {"violations.total",
                                                  "shadow_exits.fixed shadow_exits.spurious",
                                                  "shadow_exits.guest_faults",
                                                  "shadow_exits.table_writes",
                                                  "shadow_exits.invalidations",
                                                  "shadow_exits.cr3_writes",
                                                  "nested_exits.fixed nested_exits.spurious",
                                                  "nested_exits.reflected"};

// Returns what the page's sliders of prices begin with.
std::string PricesJson() {
  const ExitPrices prices = LinuxBootPrices();
  Json causes = Json::array();
  for (size_t cause = 0; cause < kExitCauses; ++cause) {
    causes.push_back(
        {{"name", ExitCauseName(static_cast<ExitCause>(cause))},
         {"cycles", prices[cause].cycles},
         {"source", prices[cause].source},
         {"fields", std::vector<std::string>(absl::StrSplit(kExitFields[cause], ' '))}});
  }
  return causes.dump();
}

}  // namespace

absl::StatusOr<RunFile> ReadRunFile(std::string name, std::string_view text) {
  const auto in_file = [&name](const absl::Status& status, const char* between) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, between, absl::CHexEscape(status.message())));
  };
  const absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return in_file(json.status(), ":");  // which begins with line and column
  if (absl::Status status = CheckRuns(*json); !status.ok()) return in_file(status, ": ");
  // Anew, since options and figures are shown in the order of the file.
  auto ordered = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false,
                                               /*ignore_comments=*/true);
  if (IsBenchmarks(*json)) ordered["file"] = name;
  return RunFile{std::move(name), JsonText(ordered)};
}

std::string ReportHtml(const std::vector<RunFile>& files) {
  std::string runs = "[";
  for (const RunFile& file : files) absl::StrAppend(&runs, runs == "[" ? "" : ",\n", file.json);
  runs += "]";
  // Inside a string of JSON, the only place where it can be, "<" may be written so; as it stands it
  // could end the script element.
  absl::StrReplaceAll({{"<", "\\u003c"}}, &runs);
  return absl::StrReplaceAll(kReportHtml, {{"@CSS@", kReportCss},
                                           {"@RUNS@", runs},
                                           {"@PRICES@", PricesJson()},
                                           {"@SCRIPT@", kReportScript}});
}

}  // namespace tdp::tools
