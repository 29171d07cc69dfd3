// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run the `tdp` program from outside: what it prints, where, and how it exits.

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tdp/base/address.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/tdp_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr char kSqlite[] = "examples/data/sqlite3_inserts.trc.zst";

nlohmann::json ReplayJson(const std::string& arguments) {
  const ProgramResult result = Tdp("replay --json " + arguments);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.err, "");
  return nlohmann::json::parse(result.out);
}

TEST(Tdp, AloneItExplainsItself) {
  const ProgramResult alone = RunProgram("tools/tdp");
  EXPECT_EQ(alone.status, 2);
  EXPECT_THAT(alone.err, StartsWith("usage: tdp"));
  const ProgramResult help = Tdp("help");
  EXPECT_EQ(help.status, 0);
  EXPECT_EQ(help.out, alone.err);
  for (const char* command : {"replay", "demo", "sweep", "pack"}) {
    EXPECT_THAT(help.out, HasSubstr(command));
    const ProgramResult own = Tdp(std::string(command) + " --help");
    EXPECT_EQ(own.status, 0) << command;
    EXPECT_THAT(own.out, StartsWith(std::string("usage: tdp ") + command));
  }
}

TEST(Tdp, SaysItsVersionAndKnowsTheShortFormOfHelp) {
  EXPECT_THAT(Tdp("--version").out, StartsWith("tdp 0."));
  for (const char* command :
       {"demo", "replay", "sweep", "compare", "migrate", "wss", "overcommit", "hugepages", "report",
        "pack", "regions", "decode", "walk", "map", "completion"}) {
    EXPECT_EQ(Tdp(absl::StrCat(command, " --version")).out, Tdp("--version").out) << command;
    const std::string help = Tdp(absl::StrCat(command, " -h")).out;
    EXPECT_THAT(help, StartsWith(absl::StrCat("usage: tdp ", command))) << command;
    EXPECT_EQ(help, Tdp(absl::StrCat(command, " --help")).out) << command;
  }
  ExpectRefusal(Tdp("replay -x"), "there is no option -x");
}

// Returns what bash offers after the words of a command line, the last of which is unfinished.
std::string Completions(const std::string& words, const std::string& previous,
                        const std::string& current) {
  const ProgramResult result = RunProgram(
      absl::StrCat("bash -c 'source <(tools/tdp completion bash); COMP_WORDS=(tools/tdp ", words,
                   " \"", current, "\"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _tdp tools/tdp \"",
                   current, "\" \"", previous, "\"; echo \"${COMPREPLY[*]}\"'"));
  EXPECT_EQ(result.err, "");
  return result.out;
}

TEST(TdpCompletion, OffersCommandsOptionsAndTheirWords) {
  EXPECT_EQ(Completions("", "tools/tdp", "re"), "replay regions report\n");
  EXPECT_EQ(Completions("replay", "replay", "--guest-p"), "--guest-page\n");
  EXPECT_EQ(Completions("replay --paging", "--paging", "n"), "native nested\n");
  EXPECT_EQ(Completions("sweep --thp", "--thp", ""), "always never\n");
  EXPECT_EQ(Completions("replay --check", "--check", "s"), "sample\n");
  EXPECT_EQ(Completions("walk", "walk", "README"), "README.md\n");
  ExpectRefusal(Tdp("completion fish"), "needs the name of a shell: bash");
}

TEST(Tdp, AReportThatCannotBeWrittenIsAFailure) {
  const std::string trace = Quoted(SmallTrace(3));
  for (const char* command : {"replay ", "sweep "}) {
    for (const char* output : {" > /dev/full", " >&-"}) {
      const ProgramResult result =
          RunProgram(absl::StrCat("sh -c \"tools/tdp ", command, trace, output, "\""));
      EXPECT_EQ(result.status, 2) << command << output;
      EXPECT_THAT(result.err, HasSubstr("standard output")) << command << output;
      EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
    }
  }
}

TEST(TdpPack, WritesThroughWhatIsNoRegularFile) {
  const std::string trace = Quoted(SmallTrace(3));
  EXPECT_EQ(Tdp("pack " + trace + " /dev/full").status, 2);
  EXPECT_EQ(std::system("test -c /dev/full"), 0);
  const std::string folder = testing::TempDir() + "/pack";
  ASSERT_EQ(std::system(("rm -rf '" + folder + "' && mkdir '" + folder + "' && cd '" + folder +
                         "' && echo before > target && ln -s target link && mkfifo fifo")
                            .c_str()),
            0);
  EXPECT_EQ(Tdp("pack " + trace + " " + Quoted(folder + "/link")).status, 0);
  EXPECT_EQ(std::system(("test -L '" + folder + "/link'").c_str()), 0);
  const std::string packed = ReadWholeFile(folder + "/target");
  EXPECT_GT(packed.size(), 20u);
  EXPECT_EQ(Tdp("pack " + trace + " -").out, packed);
  // A link to a file that is not there yet stays one, too; one that leads to itself is refused.
  ASSERT_EQ(std::system(("mkdir '" + folder + "/sub' && cd '" + folder +
                         "/sub' && ln -s ../new link && ln -s link again && ln -s loop loop")
                            .c_str()),
            0);
  EXPECT_EQ(Tdp("pack " + trace + " " + Quoted(folder + "/sub/again")).status, 0);
  EXPECT_EQ(ReadWholeFile(folder + "/new"), packed);
  EXPECT_THAT(Tdp("pack " + trace + " " + Quoted(folder + "/sub/loop")).err,
              HasSubstr("sub/loop: Too many levels"));
  EXPECT_EQ(std::system(("cd '" + folder + "/sub' && test -L link && test -L again && " +
                         "test -L loop && rm -r '" + folder + "/sub' '" + folder + "/new'")
                            .c_str()),
            0);
  const std::string fifo = Quoted(folder + "/fifo");
  const ProgramResult through = RunProgram(
      absl::StrCat("sh -c \"tools/tdp pack ", trace, " ", fifo, " & cat ", fifo, "; wait\""));
  EXPECT_THAT(through.out, HasSubstr(packed));
  EXPECT_EQ(std::system(("test -p '" + folder + "/fifo'").c_str()), 0);
  // Nothing else is left behind.
  EXPECT_EQ(std::system(("test $(ls '" + folder + "' | wc -l) = 3").c_str()), 0);
}

TEST(TdpReplay, SaysWhatItLeftOut) {
  const std::string log = Quoted(WriteFile("log", "I  04001090,3\nhello\n L ffffffff81000000,8\n"));
  EXPECT_THAT(Tdp("replay " + log).out, HasSubstr("1 foreign line, 1 kernel address"));
  ExpectRefusal(Tdp("replay --strict " + log), ":2: not a Lackey record");
  EXPECT_EQ(ReplayJson(log)["left_out"]["kernel"], 1);
}

TEST(TdpReplay, CountsAMissOnceHoweverOftenItIsInterrupted) {
  const std::string trace = Quoted(SmallTrace(100));
  for (const char* paging : {"native", "ept"}) {
    const auto json = ReplayJson(absl::StrCat("--ept-page 4k --paging ", paging, " ", trace));
    EXPECT_EQ(json["tlb"]["misses"], 100) << paging;
    EXPECT_EQ(json["walks"]["count"].get<int>(),
              100 + json["walks"]["restarts"].get<int>() + json["walks"]["assists"].get<int>());
    EXPECT_GE(json["walks"]["restarts"].get<int>(), json["page_faults"].get<int>());
  }
}

TEST(TdpReplay, ChecksAllASampleOrNothing) {
  const std::string trace = Quoted(SmallTrace(20000));
  EXPECT_EQ(ReplayJson(trace)["check"]["pages"], 20000);
  const auto sample = ReplayJson("--check sample " + trace)["check"];
  EXPECT_GT(sample["pages"], 5000);
  EXPECT_LT(sample["pages"], 15000);
  EXPECT_EQ(sample["pages"].get<int>() + sample["left_out"].get<int>(), 20000);
  EXPECT_EQ(ReplayJson("--check off " + trace)["check"]["left_out"], 20000);
}

TEST(Tdp, AnUnknownCommandIsRefused) { ExpectRefusal(Tdp("rewind"), "\"rewind\""); }

TEST(TdpReplay, NonsenseOptionsAreRefused) {
  const std::string trace = Quoted(SmallTrace(3));
  ExpectRefusal(Tdp("replay --ept-page 3m " + trace), "--ept-page \"3m\": must be 4k|2m|1g");
  ExpectRefusal(Tdp("replay --ept-levels 6 " + trace), "--ept-levels");
  ExpectRefusal(Tdp("replay --speed " + trace), "there is no option --speed");
  ExpectRefusal(Tdp("replay --ram 3 " + trace), "ram is 3 bytes");
  ExpectRefusal(Tdp("replay --ram 17m " + trace), "multiple of 2 MiB");
  ExpectRefusal(Tdp("replay --tlb 0x4 " + trace), "from 1 to 65536 each");
  ExpectRefusal(Tdp("replay --tlb 65536x17 " + trace), "1048576 entries at most");
  ExpectRefusal(Tdp("replay --tlb 16 " + trace), "SETSxWAYS");
  ExpectRefusal(Tdp("replay --caches huge " + trace), "none|tlb|psc");
  ExpectRefusal(Tdp("replay --seed -1 " + trace), "--seed");
  ExpectRefusal(Tdp("replay --fault-around 3 " + trace), "power of two");
  ExpectRefusal(Tdp("replay --cpus 0 " + trace), "--cpus");
  ExpectRefusal(Tdp("replay --fragmentation 2 " + trace), "--fragmentation");
  ExpectRefusal(Tdp("replay --paging nested --ept-page 1g " + trace), "pages of 4k or 2m");
  ExpectRefusal(Tdp("replay --paging nested --fault-around 4 " + trace), "--fault-around");
  for (const char* paging : {"native", "shadow", "nested"}) {
    ExpectRefusal(Tdp(absl::StrCat("replay --reverse-map on --paging ", paging, " ", trace)),
                  absl::StrCat("--reverse-map on is for --paging ept, not ", paging));
  }
  ExpectRefusal(Tdp("replay"), "needs a TRACE");
  ExpectRefusal(Tdp("replay --cpus 3 " + trace + " " + trace), "2 traces take a CPU each");
}

TEST(TdpReplay, BadTracesAreRefusedWithoutAReport) {
  ExpectRefusal(Tdp("replay /no/such/file"), "cannot open /no/such/file");
  ExpectRefusal(Tdp("replay " + Quoted(testing::TempDir())), "directory");
  ExpectRefusal(Tdp("replay " + Quoted(WriteFile("empty", ""))), "empty");
  ExpectRefusal(Tdp("replay " + Quoted(WriteFile("prose", "once upon a time\n"))),
                ":1: not a Lackey record");
  ExpectRefusal(Tdp("replay " + Quoted(WriteFile("silent", "==1== nothing\n"))), "no access");
  const std::string whole = ReadWholeFile(kSqlite);
  ASSERT_GT(whole.size(), 100000u);
  // Hundreds of thousands of accesses are replayed before the end is found missing.
  ExpectRefusal(Tdp("replay " + Quoted(WriteFile("cut", whole.substr(0, whole.size() / 2)))),
                "truncated");
  std::string corrupt = whole;
  for (size_t i = whole.size() / 2; i < whole.size() / 2 + 64; ++i) corrupt[i] = '\x55';
  ExpectRefusal(Tdp("replay " + Quoted(WriteFile("corrupt", corrupt))), "corrupt");
  std::vector<TraceRecord> records(100000, TraceRecord::Make(Gva(0x1000), AccessKind::kLoad, 0));
  records.push_back(TraceRecord(~uint64_t{0}));
  ExpectRefusal(Tdp("replay " + Quoted(WriteFile("unknown", Words(records)))),
                "byte 800000 of the trace: unknown record 0xffffffffffffffff");
}

TEST(TdpReplay, AGuestWithoutMemoryIsRefused) {
  // 8 MiB of RAM less the kernel's 2 MiB are 1536 frames.
  ExpectRefusal(Tdp("replay --ram 8m " + Quoted(SmallTrace(2000))), "the guest has no memory left");
}

TEST(TdpReplay, ReadsStandardInput) {
  const std::string text = WriteFile("text", "I  04001090,3\n S 1ffefffd28,8\n");
  const auto json = nlohmann::json::parse(Tdp("replay --json - <" + Quoted(text)).out);
  EXPECT_EQ(json["trace"], "standard input");
  EXPECT_EQ(json["accesses"], 2);
  EXPECT_EQ(json["records"]["stores"], 1);
}

TEST(TdpReplay, CountsWhatTheProgramDid) {
  const auto json = ReplayJson("--ept-page 4k " + Quoted(SmallTrace(5)));
  EXPECT_EQ(json["accesses"], 15);
  EXPECT_EQ(json["page_faults"], 5);
  EXPECT_EQ(json["tables"]["guest_leaves"]["4k"], 5);
  // The program needs four guest tables and five pages, each behind an EPT leaf of its own; the EPT
  // needs its four tables once, since all of this is in one 2 MiB block.
  EXPECT_EQ(json["tables"]["guest_table_bytes"], 4 * 4096);
  EXPECT_EQ(json["tables"]["ept_leaves"]["4k"], 9);
  EXPECT_EQ(json["tables"]["ept_table_bytes"], 4 * 4096);
  const auto& by_cause = json["violations"]["mapped"];
  EXPECT_EQ(by_cause["guest_table"]["4k"], 4);
  EXPECT_EQ(by_cause["write"]["4k"], 5);
  EXPECT_EQ(by_cause["fetch"]["4k"], 0);
  EXPECT_EQ(json["violations"]["total"], 9);
  EXPECT_EQ(json["check"]["pages"], 5);
  EXPECT_EQ(json["check"]["mismatches"], 0);
}

TEST(TdpReplay, AWarmWalkWithoutCachesHasTheReferencesOfItsDimensions) {
  // The run over one page is so long that nearly all walks are whole.
  std::vector<TraceRecord> records(30000, TraceRecord::Make(Gva(0x1000), AccessKind::kLoad, 3));
  const std::string trace = Quoted(WriteFile("one_page", Words(records)));
  const struct {
    const char* options;
    double references;
  } kCases[] = {{"--paging native", 4},
                {"--paging native --guest-levels 5", 5},
                {"--paging native --guest-page 2m", 3},
                {"--paging shadow", 4},
                {"--paging shadow --guest-levels 5", 5},
                {"--paging shadow --guest-page 2m", 3},
                {"--paging nested --ept-page 4k", 24},
                {"--paging nested --ept-page 2m", 19},
                {"--paging nested --ept-page 4k --ept-levels 5", 29},
                {"--ept-page 4k", 24},
                {"--ept-page 2m", 19},
                {"--ept-page 4k --guest-page 2m", 19},
                {"--ept-page 2m --guest-page 2m", 15},
                {"--ept-page 4k --ept-levels 5", 29},
                {"--ept-page 4k --guest-levels 5", 29},
                {"--ept-page 4k --ept-levels 5 --guest-levels 5", 35}};
  for (const auto& c : kCases) {
    const auto json = ReplayJson(std::string("--caches none ") + c.options + " " + trace);
    EXPECT_NEAR(json["walks"]["references_per_walk"].get<double>(), c.references, 0.02)
        << c.options;
    EXPECT_EQ(json["tlb"]["hits"], 0);
  }
}

TEST(TdpReplay, ChangesOfGuestTablesCostExitsUnderShadowAlone) {
  const std::string trace = Quoted(SmallTrace(1000));
  const auto ept = ReplayJson("--ept-page 4k " + trace);
  const auto ept_churned = ReplayJson("--ept-page 4k --table-churn 10 " + trace);
  EXPECT_GT(ept_churned["page_faults"], ept["page_faults"]);
  EXPECT_EQ(ept_churned["violations"]["total"], ept["violations"]["total"]);
  EXPECT_EQ(ept_churned["check"]["mismatches"], 0);

  const auto shadow = ReplayJson("--paging shadow " + trace);
  const auto shadow_churned = ReplayJson("--paging shadow --table-churn 10 " + trace);
  EXPECT_EQ(shadow["violations"]["total"], 0);
  EXPECT_EQ(shadow["shadow_exits"]["guest_faults"], shadow["page_faults"]);
  const uint64_t churns = shadow_churned["shadow_exits"]["invalidations"];
  EXPECT_GE(churns, 100u);
  EXPECT_GE(shadow_churned["shadow_exits"]["total"].get<uint64_t>(),
            shadow["shadow_exits"]["total"].get<uint64_t>() + 2 * churns);
  EXPECT_EQ(shadow_churned["check"]["mismatches"], 0);
  EXPECT_EQ(shadow_churned["check"]["pages"], shadow["check"]["pages"]);
  // Another CPU hears of each change.
  for (const char* paging : {"native", "ept", "shadow", "nested"}) {
    const auto two =
        ReplayJson(absl::StrCat("--table-churn 10 --cpus 2 --paging ", paging, " ") + trace);
    EXPECT_EQ(two["check"]["mismatches"], 0) << paging;
  }
}

TEST(TdpReplay, AHypervisorInTheGuestGetsOneViolationForEachPageThatItMaps) {
  const auto json = ReplayJson("--paging nested --ept-page 4k " + Quoted(SmallTrace(5)));
  // There are four guest tables and five pages: L1 maps each once, and the engine follows each
  // once.
  const auto& exits = json["nested_exits"];
  EXPECT_EQ(exits["reflected"], 9);
  EXPECT_EQ(exits["fixed"], 9);
  EXPECT_EQ(exits["spurious"], 0);
  EXPECT_EQ(exits["total"], 18);
  EXPECT_EQ(json["violations"]["total"], 0);
  EXPECT_EQ(json["page_faults"], 5);
  for (const char* leaves : {"ept12_leaves", "ept_leaves"}) {
    EXPECT_EQ(json["tables"][leaves]["4k"], 9) << leaves;
  }
  EXPECT_EQ(json["tables"]["ept12_table_bytes"], 4 * 4096);
  EXPECT_EQ(json["check"]["pages"], 5);
  EXPECT_EQ(json["check"]["mismatches"], 0);
}

TEST(TdpReplay, LargePagesOfAHypervisorInTheGuestAreLargeWhereTheHostsAre) {
  const std::string trace = Quoted(SmallTrace(1000));
  const auto large = ReplayJson("--paging nested --ept-page 2m " + trace);
  EXPECT_LT(large["nested_exits"]["total"], 20);
  EXPECT_GT(large["tables"]["ept_leaves"]["2m"], 1);
  EXPECT_EQ(large["tables"]["ept_leaves"]["4k"], 0);
  const auto broken = ReplayJson("--paging nested --ept-page 2m --thp never " + trace);
  EXPECT_EQ(broken["nested_exits"]["reflected"], large["nested_exits"]["reflected"]);
  EXPECT_EQ(broken["tables"]["ept12_leaves"], large["tables"]["ept12_leaves"]);
  EXPECT_EQ(broken["tables"]["ept_leaves"]["2m"], 0);
  // The host follows by small pages, eight of them at a time where they lie in a row.
  EXPECT_GT(broken["nested_exits"]["fixed"], 1000 / 8);
  EXPECT_EQ(broken["check"]["mismatches"], 0);
}

TEST(TdpReplay, CpusShareTheHypervisorInTheGuest) {
  const std::string trace = Quoted(SmallTrace(1000));
  const auto json = ReplayJson("--paging nested --ept-page 4k --guest-page 2m --ept-levels 5 " +
                               trace + " " + trace + " " + trace);
  EXPECT_EQ(json["accesses"], 9000);
  EXPECT_EQ(json["check"]["mismatches"], 0);
  EXPECT_GE(json["nested_exits"]["reflected"], json["tables"]["ept12_leaves"]["4k"]);
  EXPECT_EQ(json["check"]["pages"].get<int>() + json["check"]["untouched"].get<int>(),
            512 * json["tables"]["guest_leaves"]["2m"].get<int>());
  EXPECT_GT(json["check"]["untouched"], 0);
}

TEST(TdpReplay, ChangesOfTheTablesOfL2CostNoExit) {
  const std::string trace = Quoted(SmallTrace(1000));
  const auto still = ReplayJson("--paging nested --ept-page 4k " + trace);
  const auto churned = ReplayJson("--paging nested --ept-page 4k --table-churn 10 " + trace);
  EXPECT_GT(churned["page_faults"], still["page_faults"]);
  EXPECT_EQ(churned["nested_exits"]["total"], still["nested_exits"]["total"]);
  EXPECT_EQ(churned["check"]["mismatches"], 0);
}

TEST(TdpReplay, AReverseMapChangesNothingThatTheGuestSees) {
  const std::string trace = Quoted(SmallTrace(1000));
  for (const char* page : {"4k", "2m", "1g"}) {
    const std::string arguments = absl::StrCat("--ept-page ", page, " ", trace);
    const auto without = ReplayJson(arguments);
    const auto with = ReplayJson("--reverse-map on " + arguments);
    EXPECT_EQ(with["options"]["reverse-map"], "on");
    EXPECT_EQ(without["options"]["reverse-map"], "off");
    for (const char* same : {"tables", "walks", "tlb", "page_faults", "check"}) {
      EXPECT_EQ(with[same], without[same]) << same << ", " << page;
    }
    EXPECT_EQ(with["violations"]["mapped"], without["violations"]["mapped"]);
    EXPECT_EQ(with["check"]["mismatches"], 0);
  }
}

TEST(TdpReplay, LargeEptPagesTakeFewerViolations) {
  const std::string trace = Quoted(SmallTrace(1000));
  const auto small = ReplayJson("--ept-page 4k " + trace);
  const auto large = ReplayJson("--ept-page 2m " + trace);
  const auto huge = ReplayJson("--ept-page 1g " + trace);
  EXPECT_GT(small["violations"]["total"], 1000);
  EXPECT_LT(large["violations"]["total"], 10);
  EXPECT_GT(large["tables"]["ept_leaves"]["2m"], 1);
  EXPECT_EQ(huge["tables"]["ept_leaves"]["1g"], 1);
  // Broken host memory and a host without large pages leave nothing to map large.
  for (const char* broken : {"--fragmentation 1 ", "--thp never "}) {
    const auto json = ReplayJson(std::string("--ept-page 2m ") + broken + trace);
    EXPECT_EQ(json["tables"]["ept_leaves"]["2m"], 0) << broken;
    EXPECT_EQ(json["violations"]["total"], small["violations"]["total"]) << broken;
  }
}

TEST(TdpReplay, FragmentationTurnsAShareOfTheLargePagesIntoSmallOnes) {
  // The program touches eight pages in each of 100 blocks of 2 MiB.
  std::vector<TraceRecord> records;
  for (uint64_t i = 0; i < 800; ++i) {
    records.push_back(TraceRecord::Make(Gva(MiB(2) + i * MiB(2) / 8), AccessKind::kStore, 0));
  }
  const std::string trace = Quoted(WriteFile("wide", Words(records)));
  uint64_t last = ~uint64_t{0};
  for (const char* share : {"0", "0.25", "0.5", "0.75", "1"}) {
    const auto json = ReplayJson(std::string("--guest-page 2m --ept-page 2m --fragmentation ") +
                                 share + " " + trace);
    const auto& leaves = json["tables"]["ept_leaves"];
    EXPECT_LT(leaves["2m"], last) << share;
    last = leaves["2m"];
    EXPECT_EQ(json["check"]["mismatches"], 0);
  }
  EXPECT_EQ(last, 0u);
}

TEST(TdpReplay, FaultAroundTradesViolationsForPages) {
  const std::string trace = Quoted(SmallTrace(1000));
  const auto without = ReplayJson("--ept-page 4k " + trace);
  const auto with = ReplayJson("--ept-page 4k --fault-around 16 " + trace);
  EXPECT_LT(with["violations"]["total"].get<int>() * 8, without["violations"]["total"].get<int>());
  EXPECT_GE(with["tables"]["ept_leaves"]["4k"], without["tables"]["ept_leaves"]["4k"]);
  EXPECT_EQ(with["check"]["mismatches"], 0);
}

TEST(TdpReplay, TheSameSeedGivesTheSameCounts) {
  const std::string arguments =
      "--frames shuffled --ept-page 4k --seed 7 " + Quoted(SmallTrace(300));
  auto first = ReplayJson(arguments);
  auto second = ReplayJson(arguments);
  for (auto* json : {&first, &second}) {
    json->erase("seconds");
    json->erase("accesses_per_second");
    json->erase("check_seconds");
    (*json)["violations"].erase("ns_each");
  }
  EXPECT_EQ(first, second);
}

TEST(TdpReplay, SaysWhichOptionsHaveNoMeaning) {
  const std::string arguments =
      "--paging native --ept-page 1g --ept-levels 5 --fault-around 4 --thp never " +
      Quoted(SmallTrace(3));
  EXPECT_THAT(Tdp("replay " + arguments).out,
              AllOf(HasSubstr("not used    --ept-page: --paging native has no host below it"),
                    HasSubstr("--ept-levels: --paging native has no EPT"),
                    HasSubstr("--fault-around: it is for --paging ept"), HasSubstr("--thp: ")));
  const auto options = ReplayJson(arguments)["options"];
  for (const char* key : {"ept-page", "ept-levels", "fault-around", "thp"}) {
    EXPECT_TRUE(options[key].is_null()) << key;
  }
  EXPECT_EQ(options["guest-levels"], "4");
  EXPECT_THAT(Tdp("replay --ept-levels 5 " + Quoted(SmallTrace(3))).out,
              Not(HasSubstr("not used")));
}

TEST(TdpReplay, TlbsOfAnyShapeHoldWhatTheyHave) {
  // The program goes round 48 pages: after the first time all hit in 48 entries, none in an LRU of
  // 47.
  std::vector<TraceRecord> records;
  for (int i = 0; i < 48 * 10; ++i) {
    records.push_back(
        TraceRecord::Make(Gva(0x400000 + uint64_t{0x1000} * (i % 48)), AccessKind::kLoad, 0));
  }
  const std::string trace = Quoted(WriteFile("turns", Words(records)));
  for (const char* enough : {"1x48", "3x16", "48x1", "12x4", "1x64", "96x16", "1x4096"}) {
    EXPECT_EQ(ReplayJson(absl::StrCat("--tlb ", enough, " ", trace))["tlb"]["misses"], 48)
        << enough;
  }
  EXPECT_EQ(ReplayJson("--tlb 1x47 " + trace)["tlb"]["misses"], 480);
  EXPECT_EQ(ReplayJson("--tlb 24x1 " + trace)["tlb"]["misses"], 480);
}

TEST(TdpReplay, SeveralCpusAreAsRepeatableAsOne) {
  const std::string trace = Quoted(SmallTrace(3000));
  for (const char* cpus : {"--cpus 2 ", "--cpus 5 --quantum 3 --paging nested ",
                           "--cpus 3 --paging shadow --frames shuffled "}) {
    const std::string arguments = absl::StrCat("--caches tiny ", cpus, trace);
    auto first = ReplayJson(arguments);
    auto second = ReplayJson(arguments);
    auto other = ReplayJson("--seed 2 " + arguments);
    for (auto* json : {&first, &second, &other}) {
      for (const char* time : {"seconds", "accesses_per_second", "check_seconds"})
        json->erase(time);
      (*json)["violations"].erase("ns_each");
    }
    EXPECT_EQ(first, second) << cpus;
    EXPECT_EQ(other["accesses"], first["accesses"]);
    EXPECT_EQ(other["check"]["mismatches"], 0) << cpus;
  }
}

TEST(TdpReplay, SeveralCpusReplayEverythingOnce) {
  const auto json = ReplayJson(std::string("--cpus 3 --ept-page 4k ") + kSqlite);
  EXPECT_EQ(json["accesses"], 8000000);
  EXPECT_EQ(json["tables"]["guest_leaves"]["4k"], 582);
  EXPECT_EQ(json["check"]["pages"], 582);
  EXPECT_EQ(json["check"]["mismatches"], 0);
}

TEST(TdpReplay, SeveralTracesAreThreadsOfOneProgram) {
  const std::string trace = Quoted(SmallTrace(100));
  const std::string other =
      Quoted(WriteFile("other", Words({TraceRecord::Make(Gva(0x9000), AccessKind::kStore, 0)})));
  const auto json = ReplayJson("--ept-page 4k " + trace + " " + other + " " + trace);
  EXPECT_EQ(json["options"]["cpus"], 3);
  EXPECT_EQ(json["accesses"], 601);
  EXPECT_EQ(json["tables"]["guest_leaves"]["4k"], 101) << "the traces share an address space";
}

TEST(TdpReplay, TheTextReportHasItsNumbers) {
  const ProgramResult result = Tdp(std::string("replay --ept-page 4k --cost skylake ") + kSqlite);
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("8,000,000 accesses"), HasSubstr("references each"),
                                HasSubstr("582 pages of 4 KiB"), HasSubstr("guest table"),
                                HasSubstr("cycles"), HasSubstr(" 0 mismatches")));
}

TEST(TdpPack, PacksTextThatReplaysLikeTheText) {
  std::string text;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&text, " S ", absl::Hex(0x10000 + i * 64), ",8\n");
  const std::string in = WriteFile("text", text);
  const std::string out = WriteFile("packed", "");
  const ProgramResult packed = Tdp("pack " + Quoted(in) + " " + Quoted(out));
  EXPECT_EQ(packed.status, 0) << packed.err;
  EXPECT_THAT(packed.out, HasSubstr("1000 accesses"));
  EXPECT_EQ(ReplayJson(Quoted(out))["tlb"], ReplayJson(Quoted(in))["tlb"]);
}

TEST(Tdp, AnOutputWithoutANameIsRefused) {
  const std::string trace = WriteRounds(8, 1, sim::AccessKind::kLoad);
  ExpectRefusal(Tdp("pack " + trace + " ''"), "the output file has no name");
  for (const char* with :
       {"sweep --csv=", "sweep --json=", "replay --physical-trace=", "compare -o ''"}) {
    ExpectRefusal(Tdp(std::string(with) + " " + trace), "must not be empty");
  }
}

TEST(TdpPack, SalvagesWhatAKilledPackerHasWritten) {
  // This is as far as the packer came.
  const std::string all = Tdp("pack generate:gups,footprint=64m,accesses=200000 -").out;
  const std::string piece = WriteFile("piece", all.substr(0, all.size() / 2));
  const std::string whole = WriteFile("whole", "yesterday's");
  ExpectRefusal(Tdp("replay " + Quoted(piece)), "truncated");
  ExpectRefusal(Tdp("pack " + Quoted(piece) + " " + Quoted(whole)), "truncated");
  EXPECT_EQ(ReadWholeFile(whole), "yesterday's");
  const ProgramResult packed = Tdp("pack --salvage " + Quoted(piece) + " " + Quoted(whole));
  EXPECT_EQ(packed.status, 0) << packed.err;
  const auto accesses = ReplayJson(Quoted(whole))["accesses"].get<uint64_t>();
  EXPECT_GT(accesses, 50'000u);
  EXPECT_LE(accesses, 110'000u);
  ExpectRefusal(
      Tdp("pack --salvage " + Quoted(WriteFile("text", " L 1000,8\n L 10")) + " " + Quoted(whole)),
      "--salvage is for traces");
}

TEST(TdpPack, BadInputLeavesNoOutput) {
  const std::string in = WriteFile("text", " S 1000,8\n S 1000,\n");
  const std::string out = testing::TempDir() + "/must_not_be_there";
  ExpectRefusal(Tdp("pack --strict " + Quoted(in) + " " + Quoted(out)), ":2: not a Lackey record");
  EXPECT_FALSE(std::ifstream(out).good());
  EXPECT_FALSE(std::ifstream(out + ".part").good());
  ExpectRefusal(Tdp("pack " + Quoted(in)), "needs an INPUT and an OUTPUT");
  ExpectRefusal(Tdp("pack " + Quoted(in) + " /no/such/folder/out"), "/no/such/folder/out");
}

TEST(TdpDemo, ShowsEverySetUpSideBySide) {
  const ProgramResult result = Tdp("demo");
  EXPECT_EQ(result.status, 0) << result.err;
  for (const char* text : {"native     4K    -", "ept        4K   2M", "ept        2M   2M", "23.9",
                           "What to read", "0 mismatches"}) {
    EXPECT_THAT(result.out, HasSubstr(text));
  }
  ExpectRefusal(Tdp("demo now"), "takes no argument");
}

TEST(TdpDemo, ReadmeShowsItsTable) {
  const std::string out = Tdp("demo").out;
  const size_t begin = out.find("\n\n") + 2;
  const std::string table = out.substr(begin, out.find("\n\n", begin) - begin);
  EXPECT_THAT(ReadWholeFile("README.md"), HasSubstr("```text\n" + table + "\n```\n"))
      << "the model counts differently now; copy the table of `tdp demo` into README.md";
}

}  // namespace
}  // namespace tdp::tools
