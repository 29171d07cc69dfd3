// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run `tdp sweep` from outside: its tables, and sweeps that were interrupted or dealt
// out.

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tdp/tests/tools/tdp_program.h"

namespace tdp::tools {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(TdpSweep, WritesALineForEachCombination) {
  const std::string trace = Quoted(SmallTrace(20));
  const ProgramResult result = Tdp("sweep --paging native,ept --ept-page 4k,2m " + trace);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, StartsWith("cell,cells,sweep,trace,paging,"));
  // Natively there is no EPT page to choose: its two combinations are one replay.
  EXPECT_EQ(std::count(result.out.begin(), result.out.end(), '\n'), 4) << result.out;
  EXPECT_THAT(result.out, AllOf(HasSubstr("\n0,3,"), HasSubstr("\n2,3,")));
  EXPECT_THAT(result.err, HasSubstr("4 combinations make 3 replays"));
}

// Returns the columns `names` of each line of CSV.
std::vector<std::vector<std::string>> ColumnsOf(const std::string& csv,
                                                const std::vector<std::string>& names) {
  std::vector<std::vector<std::string>> rows;
  std::vector<std::string> heading;
  for (const std::string& line : std::vector<std::string>(absl::StrSplit(csv, '\n'))) {
    const std::vector<std::string> fields = absl::StrSplit(line, ',');
    if (heading.empty()) {
      heading = fields;
    } else if (fields.size() == heading.size()) {
      rows.emplace_back();
      for (const std::string& name : names) {
        const auto column = std::find(heading.begin(), heading.end(), name);
        EXPECT_NE(column, heading.end()) << name;
        rows.back().push_back(fields[static_cast<size_t>(column - heading.begin())]);
      }
    }
  }
  return rows;
}

TEST(TdpSweep, NamesTheExitsThatWereReflected) {
  const ProgramResult result =
      Tdp("sweep --paging ept,nested --ept-page 4k " + Quoted(SmallTrace(5)));
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(
      ColumnsOf(result.out, {"paging", "violations_total", "exits", "nested_exits_reflected"}),
      testing::ElementsAre(testing::ElementsAre("ept", "9", "9", "0"),
                           testing::ElementsAre("nested", "0", "18", "9")));
}

TEST(TdpSweep, ASweepWhoseFirstCellFailsPrintsNothing) {
  std::string words = ReadWholeFile(SmallTrace(3));
  words.resize(words.size() - 4);
  ExpectRefusal(Tdp("sweep --paging native,ept " + Quoted(WriteFile("cut.trc", words))),
                "truncated");
}

TEST(TdpSweep, ChecksItsInputsBeforeItRuns) {
  ExpectRefusal(Tdp("sweep " + Quoted(SmallTrace(3)) + " /no/such/trace"), "/no/such/trace");
}

TEST(TdpSweep, GoesOnWhereItWasInterrupted) {
  const std::string arguments = "--seed 1,2,3,4 --json=J --csv C " + Quoted(SmallTrace(4));
  const auto run = [&](const std::string& folder, const std::string& more) {
    const std::string here = Quoted(testing::TempDir() + "/" + folder);
    std::string named = arguments;
    named.replace(named.find("J "), 2, here + ".json ");
    named.replace(named.find(" C "), 3, " " + here + ".csv ");
    return Tdp("sweep " + more + named);
  };
  const auto lines = [](const std::string& path) {
    std::vector<std::string> all;
    std::ifstream file(testing::TempDir() + "/" + path);
    for (std::string line; std::getline(file, line);) all.push_back(line.substr(0, line.find(',')));
    return all;
  };
  ASSERT_EQ(run("whole", "").status, 0);
  const std::string csv = ReadWholeFile(testing::TempDir() + "/whole.csv");
  const std::string json = ReadWholeFile(testing::TempDir() + "/whole.json");
  // The files have two cells whole, and the third cut short.
  const size_t third = csv.find("\n2,") + 9;
  std::ofstream(testing::TempDir() + "/cut.csv") << csv.substr(0, third);
  std::ofstream(testing::TempDir() + "/cut.json") << json.substr(0, json.find("\"cell\":2") + 30);
  ASSERT_EQ(run("cut", "--resume ").status, 0);
  EXPECT_EQ(lines("cut.csv"), lines("whole.csv"));
  EXPECT_EQ(ReadWholeFile(testing::TempDir() + "/cut.csv").substr(0, csv.find("\n2,")),
            csv.substr(0, csv.find("\n2,")));
  EXPECT_EQ(nlohmann::json::parse(ReadWholeFile(testing::TempDir() + "/cut.json")).size(), 4u);
  ExpectRefusal(Tdp("sweep --resume --csv " + Quoted(testing::TempDir() + "/cut.csv") + " " +
                    Quoted(SmallTrace(3))),
                "another sweep");
}

TEST(TdpSweep, ResumesNoFileButItsOwn) {
  const std::string trace = Quoted(SmallTrace(4));
  for (const char* text :
       {"precious data", "precious data\n", "[1, 2]\n", "[\n  1\n]\n", "[\nprecious",
        "[\n{\"cell\": \"x\", \"cells\": 2}\n]\n", "[\n{\"cell\": 0, \"cells\": 2}",
        "[\n{\"cell\": 0, \"cells\": 2, \"trace\": 5},\n", "cell,cells,sweep,trace\n0,2,v,a\n"}) {
    for (const char* option : {"--csv ", "--json="}) {
      const std::string file = WriteFile("others", text);
      const ProgramResult run =
          Tdp("sweep --resume --seed 1,2 " + std::string(option) + Quoted(file) + " " + trace);
      ExpectRefusal(run, "--resume: ");
      EXPECT_EQ(ReadWholeFile(file), text);
    }
  }
}

TEST(TdpSweep, ResumesNoSweepThatCountedOtherwise) {
  const std::string trace = Quoted(SmallTrace(40));
  for (const std::string option : {"--csv ", "--json="}) {
    const std::string file = option + Quoted(WriteFile("counted", "")) + " ";
    EXPECT_EQ(Tdp("sweep --warmup 7 --seed 1,2 " + file + trace).status, 0);
    for (const char* other :
         {"", "--warmup 8 ", "--warmup 7 --roi 0:60 ", "--warmup 7 --check=off ",
          "--warmup 7 --format binary ", "--warmup 7 --strict ", "--warmup 7 --skip-kernel "}) {
      ExpectRefusal(Tdp("sweep --resume --seed 1,2 " + std::string(other) + file + trace),
                    "another sweep than this one: its options are others");
    }
    EXPECT_EQ(Tdp("sweep --resume --warmup 7 --seed 1,2 " + file + trace).status, 0);
  }
}

TEST(TdpSweep, ResumesNoCellsOfATraceThatWasChanged) {
  const std::string trace = SmallTrace(4);
  const std::string csv = WriteFile("old.csv", "");
  const std::string sweep = "--seed 1,2 --csv " + Quoted(csv) + " " + Quoted(trace);
  EXPECT_EQ(Tdp("sweep " + sweep).status, 0);
  // A copy of the same bytes is the same trace.
  SmallTrace(4);
  const auto written = std::filesystem::last_write_time(csv);
  std::filesystem::last_write_time(trace, written + std::chrono::seconds(1));
  EXPECT_EQ(Tdp("sweep --resume " + sweep).status, 0);
  SmallTrace(5);
  std::filesystem::last_write_time(trace, written);
  ExpectRefusal(Tdp("sweep --resume " + sweep),
                "another sweep than this one: its traces or machine files are others, or have been "
                "changed");
  EXPECT_EQ(Tdp("sweep " + sweep).status, 0);
}

TEST(TdpSweep, LeavesAFileAsItWasUntilACellIsDone) {
  std::string words = ReadWholeFile(SmallTrace(3));
  words.resize(words.size() - 4);
  const std::string trace = Quoted(WriteFile("cut.trc", words));
  for (const char* option : {"--csv ", "--json="}) {
    const std::string file = WriteFile("kept", "results of yesterday");
    ExpectRefusal(Tdp("sweep " + std::string(option) + Quoted(file) + " " + trace), "truncated");
    EXPECT_EQ(ReadWholeFile(file), "results of yesterday");
  }
}

TEST(TdpSweep, APipeGetsEveryCell) {
  const std::string trace = Quoted(SmallTrace(4));
  for (const std::string option : {"--csv ", "--json="}) {
    const std::string pipe = Quoted(testing::TempDir() + "/pipe");
    const std::string out = testing::TempDir() + "/piped";
    const ProgramResult run = RunProgram(
        "rm -f " + pipe + "; mkfifo " + pipe + " && { cat " + pipe + " >" + Quoted(out) +
        " & tools/tdp sweep --jobs 2 --seed 1,2,3 " + option + pipe + " " + trace + "; wait; }");
    EXPECT_EQ(run.status, 0) << run.err;
    const std::string text = ReadWholeFile(out);
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), option == "--csv " ? 4 : 5) << text;
  }
}

TEST(TdpSweep, SaysInEachCellWhatWasCountedAndTheCommandForIt) {
  const std::string trace = Quoted(SmallTrace(40));
  const std::string options = "--warmup 7 --roi @0x400000:60 --check=off ";
  const auto cell = nlohmann::json::parse(Tdp("sweep --json " + options + trace).out)[0];
  EXPECT_EQ(cell["options"]["warmup"], 7);
  EXPECT_EQ(cell["options"]["roi"], "@0x400000:60");
  const std::string command = cell["command"];
  const auto again = nlohmann::json::parse(Tdp(command.substr(4) + " --json").out);
  EXPECT_EQ(again["accesses"], 53);
  EXPECT_EQ(again["options"], cell["options"]);
  EXPECT_EQ(again["tlb"], cell["tlb"]);
  EXPECT_THAT(ColumnsOf(Tdp("sweep " + options + trace).out, {"roi", "warmup", "check"}),
              testing::ElementsAre(testing::ElementsAre("@0x400000:60", "7", "off")));
}

TEST(TdpSweep, ShardsMergeIntoTheWhole) {
  const std::string arguments = "--ept-page 4k,2m,1g " + Quoted(SmallTrace(20));
  const std::string first = WriteFile("first", ""), second = WriteFile("second", "");
  EXPECT_EQ(Tdp("sweep --shard 1/2 --json=" + Quoted(first) + " " + arguments).status, 0);
  EXPECT_EQ(Tdp("sweep --shard 2/2 --json=" + Quoted(second) + " " + arguments).status, 0);
  const ProgramResult merged = Tdp("sweep --merge " + Quoted(second) + " " + Quoted(first));
  EXPECT_EQ(merged.status, 0) << merged.err;
  const auto json = nlohmann::json::parse(merged.out);
  ASSERT_EQ(json.size(), 3u);
  EXPECT_EQ(json[0]["options"]["ept-page"], "4k");
  EXPECT_EQ(json[2]["options"]["ept-page"], "1g");
  ExpectRefusal(Tdp("sweep --merge " + Quoted(first)), "cell 1 of 3");
  ExpectRefusal(Tdp("sweep --shard 3/2 " + arguments), "must be i/n");
  ExpectRefusal(Tdp("sweep --cpus 1,x " + arguments), "--cpus \"x\"");
}

TEST(TdpSweep, ShardsOfTwoSweepsDoNotMerge) {
  const std::string trace = SmallTrace(20);
  const auto shard = [&](const char* name, const std::string& options, const std::string& form) {
    const std::string file = WriteFile(name, "");
    const ProgramResult run =
        Tdp("sweep " + options + " " + form + Quoted(file) + " " + Quoted(trace));
    EXPECT_EQ(run.status, 0) << run.err;
    return Quoted(file);
  };
  for (const std::string form : {"--csv ", "--json="}) {
    const std::string first = shard("one", "--shard 1/2 --ram 1g,2g", form);
    const auto merge = [&](const std::string& options) {
      return Tdp("sweep --merge " + first + " " + shard("two", "--shard 2/2 " + options, form));
    };
    EXPECT_EQ(merge("--ram 1g,2g --jobs 2").status, 0);
    // Each makes two cells, too. The second cell of some is even the same run.
    for (const char* options :
         {"--ram 1g,4g", "--ram 4g,2g", "--ram 1g,2g --seed 2", "--ram 1g,2g --strict",
          "--ram 1g,2g --format binary", "--ram 1g,2g --check=off", "--ram 1g,2g --warmup 1",
          "--ram 1g,2g --roi 0:60"}) {
      const ProgramResult merged = merge(options);
      ExpectRefusal(merged, "two: cell 1 is of another sweep than ");
      ExpectRefusal(merged, ".one: its options are others\n");
    }
    const std::string changed = SmallTrace(21);
    ASSERT_EQ(changed, trace);
    ExpectRefusal(merge("--ram 1g,2g"), "its traces or machine files are others");
    SmallTrace(20);
  }
}

TEST(TdpSweep, ShardsOfAnotherMachineFileDoNotMerge) {
  const std::string trace = Quoted(SmallTrace(20));
  const std::string machine = ReadWholeFile("tools/data/machines/zen4.machine");
  const std::string file = WriteFile("my.machine", machine);
  const auto shard = [&](const std::string& number) {
    const std::string out = WriteFile("part" + number, "");
    EXPECT_EQ(Tdp("sweep --shard " + number + "/2 --seed 1,2 --machine " + Quoted(file) +
                  " --csv " + Quoted(out) + " " + trace)
                  .status,
              0);
    return Quoted(out);
  };
  const std::string first = shard("1");
  WriteFile("my.machine", machine + "\n");
  ExpectRefusal(Tdp("sweep --merge " + first + " " + shard("2")),
                "its traces or machine files are others");
}

}  // namespace
}  // namespace tdp::tools
