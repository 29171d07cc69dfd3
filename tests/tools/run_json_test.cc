// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests ask what runs look like in files: the schema of their JSON, and one spelling
// everywhere.

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tdp/tests/tools/json_schema.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

JsonSchema RunSchema() { return JsonSchema(Json::parse(ReadWholeFile("docs/run.schema.json"))); }

std::string TraceOf(int pages) {
  std::vector<TraceRecord> records;
  for (int i = 0; i < pages; ++i) {
    const Gva gva(0x400000 + uint64_t{0x1000} * i);
    records.push_back(TraceRecord::Make(gva, AccessKind::kFetch, 1));
    records.push_back(TraceRecord::Make(gva + 64, AccessKind::kStore, 3));
  }
  return "'" + WriteFile("run.trc", Words(records)) + "'";
}

std::string Tdp(const std::string& arguments) {
  const ProgramResult result = RunProgram("tools/tdp " + arguments);
  EXPECT_EQ(result.status, 0) << arguments << ": " << result.err;
  return result.out;
}

Json Replay(const std::string& arguments) { return Json::parse(Tdp("replay --json " + arguments)); }

// Collects the paths of the fields that are no lists, with underscores between their parts.
void Paths(const std::string& path, const Json& value, std::vector<std::string>& paths) {
  if (value.is_array()) return;
  if (!value.is_object()) return paths.push_back(path);
  for (const auto& [key, field] : value.items()) {
    Paths(absl::StrCat(path, path.empty() ? "" : "_", key), field, paths);
  }
}

TEST(RunJson, FollowsTheSchemaInEveryPaging) {
  const JsonSchema schema = RunSchema();
  const std::string trace = TraceOf(20);
  for (const char* options : {"--paging native", "--paging ept --cost skylake", "--paging shadow",
                              "--paging nested", "--cpus 2", "--check off --ram 8g",
                              "--machine zen4 --interval 10 --top-pages 3 --miss-curve",
                              "--interval 7 --warmup 3 --top-pages 2", "--as processes"}) {
    EXPECT_THAT(schema.Errors(Replay(absl::StrCat(options, " ", trace))), IsEmpty()) << options;
  }
  const Json cells = Json::parse(Tdp("sweep --json --ept-page 4k,2m " + trace));
  ASSERT_EQ(cells.size(), 2u);
  for (const Json& cell : cells) EXPECT_THAT(schema.Errors(cell), IsEmpty());
}

TEST(RunJson, AnOptionHasOneFormInEveryCommand) {
  std::map<std::string, std::string> forms;
  for (const char* command : {"replay", "sweep", "compare", "migrate", "wss", "overcommit",
                              "hugepages", "report", "pack", "regions", "decode", "walk", "map"}) {
    const std::string help = Tdp(absl::StrCat(command, " --help"));
    for (const std::string_view line : absl::StrSplit(help, '\n')) {
      if (!line.starts_with("  --")) continue;
      const std::string option(line.substr(2, line.find("  ", 2) - 2));
      const std::string name = option.substr(0, option.find_first_of(" ["));
      // A sweep takes several values where others take one.
      const std::string_view form =
          absl::StripSuffix(std::string_view(option).substr(name.size()), ",...");
      const auto known = forms.emplace(name, form).first;
      EXPECT_EQ(form, known->second) << command << " " << name;
    }
  }
  EXPECT_EQ(forms["--json"], "[=FILE]");
  EXPECT_EQ(forms["--check"], "[=all|sample|off]");
  EXPECT_GT(forms.size(), 60u);
}

TEST(RunJson, GoesToStandardOutputOrToAFileBesideTheText) {
  const std::string trace = TraceOf(3);
  const std::string file = WriteFile("beside.json", "");
  for (const std::string command : {"replay ", "wss --interval 4 --intervals 2 ", "sweep "}) {
    const std::string text = Tdp(command + trace);
    const std::string json = Tdp(command + "--json " + trace);
    EXPECT_TRUE(Json::accept(json)) << command;
    const std::string with_text = command == "sweep " ? "sweep --csv - " : command;
    for (const char* to : {"--json=", "--json "}) {
      EXPECT_EQ(Tdp(absl::StrCat(with_text, to, "'", file, "' ", trace)).substr(0, 20),
                text.substr(0, 20));
      EXPECT_EQ(ReadWholeFile(file).substr(0, 20), json.substr(0, 20)) << command;
      EXPECT_TRUE(Json::accept(ReadWholeFile(file))) << command;
    }
    EXPECT_THAT(RunProgram(absl::StrCat("tools/tdp ", command, "--json=", trace, " ", trace)).err,
                HasSubstr("one of the inputs"));
  }
  for (const char* refused : {"--csv - --json ", "--seeds 2 --json ", "--seeds 2 --csv - "}) {
    const ProgramResult run = RunProgram(absl::StrCat("tools/tdp sweep ", refused, trace));
    EXPECT_EQ(run.status, 2) << refused;
    EXPECT_EQ(run.out, "") << refused;
    EXPECT_THAT(run.err, HasSubstr("standard output")) << refused;
  }
}

TEST(RunJson, AMigrationFollowsItsSchema) {
  const JsonSchema schema(Json::parse(ReadWholeFile("docs/migrate.schema.json")));
  const Json run = Json::parse(Tdp("migrate --json --ram 64m --rounds 3 " + TraceOf(20)));
  EXPECT_EQ(run["migrations"].size(), 4u);
  EXPECT_THAT(schema.Errors(run), IsEmpty());
  Json broken = run;
  broken["migrations"][0]["rounds"].erase("pages");
  broken["migrations"][1]["speed"] = 1;
  EXPECT_EQ(schema.Errors(broken).size(), 2u);
}

TEST(RunJson, WhatIsNotInTheSchemaIsFound) {
  const JsonSchema schema = RunSchema();
  Json run = Replay(TraceOf(3));
  run["schema_version"] = 2;
  run["exits"] = -1;
  run["records"].erase("loads");
  run["records"]["jumps"] = 1;
  run["walks"]["references"]["ept_by_guest_level"].erase(0);
  run["options"]["ram"] = nullptr;
  EXPECT_THAT(schema.Errors(run),
              testing::UnorderedElementsAre(
                  HasSubstr(".schema_version: const"), HasSubstr(".exits: minimum"),
                  HasSubstr(".records: has no \"loads\""), HasSubstr(".records.jumps"),
                  HasSubstr(".ept_by_guest_level: minItems"), HasSubstr(".options.ram: type")));
}

TEST(RunJson, OptionsHaveTheNamesOfTheCommandLine) {
  std::set<std::string> in_help;
  for (std::string_view line : absl::StrSplit(Tdp("replay --help"), '\n')) {
    line = absl::StripLeadingAsciiWhitespace(line);
    if (line.starts_with("--")) in_help.emplace(line.substr(2, line.find_first_of(" [") - 2));
  }
  const Json options = Replay(TraceOf(3))["options"];
  EXPECT_GT(options.size(), 15u);
  for (const auto& [name, value] : options.items()) EXPECT_THAT(in_help, Contains(name));
}

TEST(RunJson, AColumnOfCsvIsNamedByThePathInJson) {
  const std::string trace = TraceOf(3);
  const std::vector<std::string> lines = absl::StrSplit(Tdp("sweep " + trace), '\n');
  const std::vector<std::string> columns = absl::StrSplit(lines[0], ',');
  const Json run = Replay(trace);
  for (const auto& [name, value] : run["options"].items()) EXPECT_THAT(columns, Contains(name));
  Json figures = run;
  for (const char* key :
       {"schema", "schema_version", "tdp_version", "command", "options", "processes", "machine",
        "warmup_accesses", "intervals", "pages", "miss_curves"}) {
    figures.erase(key);
  }
  std::vector<std::string> paths;
  Paths("", figures, paths);
  for (const std::string& path : paths) EXPECT_THAT(columns, Contains(path));
  // The other columns are the number of the cell, the number of cells, the sweep, and the options.
  EXPECT_EQ(columns.size(), 3 + paths.size() + run["options"].size());
}

TEST(RunJson, TheCommandMakesTheSameRun) {
  const std::string trace = TraceOf(30);
  const std::string csv = "sweep --json --format binary --ept-page 4k --cpus 2 ";
  const Json cell = Json::parse(Tdp(csv + trace))[0];
  const std::string command = cell["command"];
  EXPECT_THAT(command, HasSubstr("tdp replay --ept-page=4k --cpus=2 --format=binary "));
  Json again =
      Json::parse(Tdp("replay --json " + command.substr(std::string("tdp replay").size())));
  EXPECT_EQ(again["tlb"], cell["tlb"]);
  EXPECT_EQ(again["walks"], cell["walks"]);
  EXPECT_EQ(again["options"], cell["options"]);
}

TEST(RunJson, SumsOverCpusAndLevelsAreTheTotals) {
  const Json run = Replay("--cpus 2 --ept-page 4k " + TraceOf(200));
  uint64_t lookups = 0, walks = 0, references = 0;
  for (const Json& cpu : run["per_cpu"]) {
    lookups += cpu["lookups"].get<uint64_t>();
    walks += cpu["walks"].get<uint64_t>();
    references += cpu["ept_references"].get<uint64_t>();
  }
  EXPECT_EQ(run["per_cpu"].size(), 2u);
  EXPECT_EQ(run["tlb"]["lookups"], lookups);
  EXPECT_EQ(run["walks"]["count"], walks);
  EXPECT_EQ(run["walks"]["references"]["ept"]["total"], references);
  uint64_t grid = 0;
  for (const Json& row : run["walks"]["references"]["ept_by_guest_level"]) {
    for (const Json& cell : row) grid += cell.get<uint64_t>();
  }
  EXPECT_EQ(grid, references);
}

TEST(RunJson, CountsMissesForEachThousandInstructions) {
  // Each of 40 pages is fetched from once: 40 instructions, of which each misses.
  const Json run = Replay(TraceOf(40));
  EXPECT_DOUBLE_EQ(run["tlb"]["mpki"].get<double>(),
                   1000.0 * run["tlb"]["misses"].get<double>() / 40);
  const std::string loads =
      WriteFile("loads", Words({TraceRecord::Make(Gva(0x9000), AccessKind::kLoad, 0)}));
  EXPECT_TRUE(Replay("'" + loads + "'")["tlb"]["mpki"].is_null());
}

}  // namespace
}  // namespace tdp::tools
