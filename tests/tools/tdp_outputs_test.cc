// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The files that `tdp` writes and reads: what it writes over, what it tells first, what it reads
// twice, and names of any bytes.

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tdp/tests/tools/tdp_program.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr char kMachine[] = "tools/data/machines/zen4.machine";

std::string InTempDir(const std::string& name) { return testing::TempDir() + "/" + name; }

TEST(TdpOutputs, AnOutputMayHaveTheLongestNameThereIsAndNoLongerOne) {
  const std::string trace = SmallTrace(4);
  const std::string longest = InTempDir(std::string(255, 'n'));
  for (const char* command : {"pack TRACE ", "replay TRACE --json=", "sweep TRACE --csv=",
                              "replay TRACE --physical-trace="}) {
    std::string words = command;
    words.replace(words.find("TRACE"), 5, trace);
    const ProgramResult run = Tdp(words + longest);
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_NE(ReadWholeFile(longest), "");
    std::filesystem::remove(longest);
    // Told before the run: there is no report either.
    ExpectRefusal(Tdp(words + longest + "n"), "File name too long");
  }
}

TEST(TdpOutputs, WhatBelongsOnAClosedStandardOutputGoesIntoNoFile) {
  const std::string json = WriteFile("json", "yesterday's");
  const ProgramResult run =
      RunProgram("sh -c \"tools/tdp wss --intervals 1000 --interval 10 --json='" + json +
                 "' generate:gups,footprint=1m,accesses=1000 >&-\"");
  EXPECT_EQ(run.status, 2);
  EXPECT_THAT(run.err, HasSubstr("standard output: Bad file descriptor"));
  EXPECT_TRUE(nlohmann::json::accept(ReadWholeFile(json))) << ReadWholeFile(json).substr(0, 100);
}

TEST(TdpOutputs, NoInputIsWrittenOver) {
  const std::string trace = SmallTrace(4);
  const std::string machine = WriteFile("mine.machine", ReadWholeFile(kMachine));
  const std::string before = ReadWholeFile(trace);
  for (const std::string command : {"replay --json=", "replay --physical-trace ", "sweep --csv ",
                                    "sweep --json=", "wss --json=", "migrate --json=",
                                    "overcommit --json=", "hugepages --json=", "compare -o "}) {
    for (const std::string& input : {trace, machine}) {
      ExpectRefusal(
          Tdp(command + Quoted(input) + " --machine " + Quoted(machine) + " " + Quoted(trace)),
          "it is one of the inputs");
    }
  }
  EXPECT_EQ(ReadWholeFile(trace), before);
  EXPECT_EQ(ReadWholeFile(machine), ReadWholeFile(kMachine));
  // The parts that come with the program are no files.
  const std::string named = InTempDir("zen4");
  EXPECT_EQ(Tdp("replay --machine zen4 --json=" + Quoted(named) + " " + Quoted(trace)).status, 0);
}

TEST(TdpOutputs, TwoOutputsHaveTwoPlaces) {
  const std::string trace = Quoted(SmallTrace(4));
  const std::string there = WriteFile("there", "");
  for (const std::string& file : {there, InTempDir("not_there_yet")}) {
    ExpectRefusal(Tdp("sweep --csv " + Quoted(file) + " --json=" + Quoted(file) + " " + trace),
                  "--csv goes there");
    ExpectRefusal(
        Tdp("replay --physical-trace " + Quoted(file) + " --json=" + Quoted(file) + " " + trace),
        "--json goes there");
  }
  ExpectRefusal(Tdp("replay --physical-trace - " + trace), "standard output has the report");
  const ProgramResult page = Tdp("compare -o - --accesses 2000 --footprint 64k --ram 64m");
  EXPECT_EQ(page.status, 0) << page.err;
  EXPECT_THAT(page.out, testing::StartsWith("<!"));
  EXPECT_THAT(page.out, Not(HasSubstr("cycles an access; machine")));
}

// A report that cannot be written would cost the time of the run.
TEST(TdpOutputs, WhatCannotBeWrittenIsToldBeforeTheRun) {
  // Nothing reads this one to its end in the time of a test.
  const std::string endless = " generate:gups,footprint=1m,accesses=1000000000000";
  for (const std::string command :
       {"replay --json=", "replay --physical-trace ", "sweep --csv ",
        "sweep --json=", "wss --intervals 1000000 --json=", "migrate --json=",
        "overcommit --accesses 1000000000000 --json=", "hugepages --json=", "compare -o "}) {
    ExpectRefusal(Tdp(command + "/no/such/folder/file" + endless), "/no/such/folder/file");
  }
}

TEST(TdpOutputs, ANameOfAnyBytesMakesNoBadJson) {
  const std::string trace = InTempDir("caf\xe9.trc");
  std::filesystem::copy_file(SmallTrace(4), trace,
                             std::filesystem::copy_options::overwrite_existing);
  for (const std::string command :
       {"replay --json ", "sweep --json ", "wss --intervals 2 --interval 10 --json ",
        "migrate --ram 64m --rounds 2 --json ", "overcommit --accesses 100 --json ",
        "hugepages --interval 10 --json "}) {
    const ProgramResult run = Tdp(command + Quoted(trace));
    EXPECT_EQ(run.status, 0) << command << run.err;
    EXPECT_TRUE(nlohmann::json::accept(run.out)) << command;
    EXPECT_THAT(run.out, HasSubstr("caf\xef\xbf\xbd.trc")) << command;
  }
  EXPECT_EQ(Tdp("compare -o /dev/null " + Quoted(trace)).status, 0);
}

TEST(TdpOutputs, ANameStaysOnItsLine) {
  ExpectRefusal(Tdp("replay 'no\nsuch\x1b[31mtrace'"), "no\\x0asuch\\x1b[31mtrace: No such");
  const std::string trace = InTempDir("two\nlines.trc");
  std::filesystem::copy_file(SmallTrace(4), trace,
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(Tdp("replay " + Quoted(trace)).out, HasSubstr("two\\x0alines.trc: 12 accesses"));
  ExpectRefusal(Tdp("sweep " + Quoted(trace)), "a sweep takes no name with a newline");
}

TEST(TdpOutputs, WhatCanBeReadOnceIsReadByOne) {
  const std::string trace = SmallTrace(4);
  const std::string pipe = "bash -c 'tools/tdp \"$0\" ${1+\"$@\"} <(cat " + trace + ")' ";
  EXPECT_EQ(RunProgram(pipe + "replay").status, 0);
  EXPECT_EQ(Tdp("replay - <" + Quoted(trace)).status, 0);
  for (const std::string command :
       {"sweep --seed 1,2", "wss", "migrate", "overcommit", "hugepages", "compare"}) {
    ExpectRefusal(RunProgram(pipe + command), "reads a TRACE several times");
    ExpectRefusal(Tdp(command + " - <" + Quoted(trace)), "reads a TRACE several times");
  }
  ExpectRefusal(Tdp("replay - - <" + Quoted(trace)), "\"-\" can be read only once");
  ExpectRefusal(Tdp("replay --as processes /dev/zero " + trace + " /dev/zero"),
                "\"/dev/zero\" can be read only once");
}

TEST(TdpOutputs, WhatIsSaidOfMadeProgramsIsRefusedBesideATrace) {
  for (const std::string option : {"--footprint 64k ", "--accesses 2000 "}) {
    ExpectRefusal(Tdp("compare " + option + Quoted(SmallTrace(4))), "made without a TRACE");
  }
}

// A trace of a few accesses is run through millions of times.
TEST(TdpOutputs, AShortTraceIsReadOnce) {
  const ProgramResult run = Tdp("wss " + Quoted(SmallTrace(1)));
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.err, IsEmpty());
}

}  // namespace
}  // namespace tdp::tools
