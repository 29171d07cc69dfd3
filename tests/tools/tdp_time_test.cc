// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run `tdp replay` from outside with a machine's MMU, over time, and by page.

#include <cstdint>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tdp/base/address.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

constexpr char kSqlite[] = "examples/data/sqlite3_inserts.trc.zst";

ProgramResult Replay(const std::string& arguments) {
  return RunProgram("tools/tdp replay " + arguments);
}

json ReplayJson(const std::string& arguments) {
  const ProgramResult result = Replay("--json " + arguments);
  EXPECT_EQ(result.status, 0) << result.err;
  return json::parse(result.out, nullptr, false);
}

uint64_t Sum(const json& array) {
  return std::accumulate(array.begin(), array.end(), uint64_t{0},
                         [](uint64_t sum, const json& n) { return sum + n.get<uint64_t>(); });
}

std::string Rounds(int pages, int rounds) {
  return "'" + WriteRounds(pages, rounds, AccessKind::kLoad) + "'";
}

TEST(TdpMachine, EveryPagingAndMachineFindsTheSameAddressesAsTheCpu) {
  const std::string trace = Rounds(300, 4);
  for (const char* machine : {"skylake", "icelake", "goldencove", "zen3", "zen4"}) {
    for (const char* options :
         {"--paging native", "--ept-page 4k", "--ept-page 2m --guest-page 2m",
          "--ept-page 1g --guest-levels 5 --ept-levels 5", "--guest-page 1g --check sample",
          "--guest-page 1g --ept-page 1g --check sample --ram 8g",
          "--paging native --guest-page 1g --check sample",
          "--paging shadow --guest-page 1g --check sample", "--paging shadow --table-churn 7",
          "--paging nested --table-churn 7", "--table-churn 5", "--cpus 3 --frames shuffled"}) {
      const auto report = ReplayJson(absl::StrCat("--machine ", machine, " ", options, " ", trace));
      ASSERT_FALSE(report.is_discarded()) << machine << " " << options;
      const auto& mmu = report["machine"];
      EXPECT_EQ(Sum(mmu["accesses"]), 1200u) << machine << " " << options;
      EXPECT_EQ(Sum(mmu["l1_tlb_hits"]) + Sum(mmu["l2_tlb_hits"]) + Sum(mmu["walks"]), 1200u);
      EXPECT_EQ(report["check"]["mismatches"], 0);
      EXPECT_EQ(report["tlb"]["misses"], Sum(mmu["walks"]) - mmu["assists"].get<uint64_t>());
    }
  }
}

TEST(TdpMachine, AnAccessAtATimeGetsThroughAsManyPageFaultsAsItMeets) {
  // Each of 200 pages faults at its first access, with which a stretch begins and ends.
  const std::string trace = " " + Rounds(200, 1);
  for (const char* options :
       {"--interval 1", "--table-churn 1", "--paging shadow --interval 1",
        "--paging nested --ept-page 4k --interval 1", "--machine zen4 --interval 1",
        "--cpus 2 --quantum 1", "--as processes --cpus 2 --timeslice 1 --interval 1"}) {
    const auto report = ReplayJson(options + trace);
    ASSERT_FALSE(report.is_discarded()) << options;
    EXPECT_EQ(report["accesses"], 200) << options;
    EXPECT_GE(report["page_faults"], 200) << options;
  }
}

TEST(TdpMachine, AddressesOf57BitsAreReplayedWithFiveLevelsAndRefusedWithFour) {
  const std::string high = " generate:chase,base=0xabcdef12345000,footprint=1m,accesses=5k";
  for (const char* paging : {"native", "ept", "shadow", "nested"}) {
    const auto report = ReplayJson(absl::StrCat(
        "--machine goldencove --guest-levels 5 --ept-page 4k --paging ", paging, high));
    EXPECT_EQ(report["check"]["mismatches"], 0) << paging;
    EXPECT_EQ(report["accesses"], 5000) << paging;
  }
  const std::string packed = WriteFile("packed", "");
  EXPECT_EQ(RunProgram(absl::StrCat("tools/tdp pack", high, " '", packed, "'")).status, 0);
  EXPECT_EQ(ReplayJson(absl::StrCat("--guest-levels 5 '", packed, "'"))["accesses"], 5000);
  for (const std::string& trace : {high, " '" + packed + "'"}) {
    const ProgramResult four = Replay(trace);
    EXPECT_EQ(four.status, 2);
    EXPECT_THAT(four.err, HasSubstr("--guest-levels 5"));
  }
}

TEST(TdpMachine, APhysicalTraceHasEachAccessWhereTheTablesPutIt) {
  std::vector<TraceRecord> records;
  for (uint64_t i = 0; i < 300; ++i) {
    const auto kind = static_cast<AccessKind>(i % 4);
    records.push_back(TraceRecord::Make(Gva(0x400000 + 0x1008 * i), kind, 3));
  }
  const std::string trace = " '" + WriteFile("trace", Words(records)) + "'";
  const std::string out = WriteFile("physical", "");
  for (const char* options : {"--paging native", "--ept-page 4k", "--machine zen4", "--cpus 1"}) {
    const ProgramResult run =
        Replay(absl::StrCat(options, " --frames shuffled --physical-trace '", out, "'", trace));
    ASSERT_EQ(run.status, 0) << run.err;
    std::istringstream lines(ReadWholeFile(out));
    std::string address;
    std::string kind;
    for (const TraceRecord record : records) {
      const bool reads = record.kind() != AccessKind::kStore;
      const bool writes =
          record.kind() == AccessKind::kStore || record.kind() == AccessKind::kModify;
      for (const bool write : {false, true}) {
        if (write ? !writes : !reads) continue;
        ASSERT_TRUE(lines >> address >> kind);
        EXPECT_EQ(kind, write ? "W" : "R");
        EXPECT_EQ(std::stoull(address, nullptr, 16) % 4096, record.gva().raw() % 4096);
      }
    }
    EXPECT_FALSE(lines >> address);
  }
  // It can be replayed in its turn.
  EXPECT_EQ(ReplayJson("'" + out + "'")["accesses"], 375);
  const ProgramResult full = Replay("--physical-trace /dev/full" + trace);
  EXPECT_EQ(full.status, 2);
  EXPECT_EQ(full.out, "");
}

TEST(TdpMachine, TheStackIsTheSumOfItsParts) {
  const auto report = ReplayJson(absl::StrCat("--machine skylake --ept-page 4k ", kSqlite));
  const auto& mmu = report["machine"];
  const auto& stack = mmu["stack"];
  ASSERT_EQ(stack["causes"].size(), stack["cycles"].size());
  ASSERT_EQ(stack["causes"].size(), stack["events"].size());
  uint64_t translation = 0;
  for (size_t i = 0; i < stack["causes"].size(); ++i) {
    const std::string cause = stack["causes"][i];
    if (cause != "page_fault" && cause != "vm_exit")
      translation += stack["cycles"][i].get<uint64_t>();
    if (cause == "vm_exit") {
      EXPECT_EQ(stack["cycles"][i],
                stack["events"][i].get<uint64_t>() * mmu["vm_exit_cycles_each"].get<uint64_t>());
    }
  }
  EXPECT_EQ(translation, mmu["translation_cycles"]);
  // Each reference in the grid was served by someone.
  uint64_t grid = 0;
  for (const auto& row : mmu["walk_grid"]["references"]) {
    for (const auto& cell : row) grid += Sum(cell);
  }
  EXPECT_EQ(grid, report["walks"]["references"]["guest"]["total"].get<uint64_t>() +
                      report["walks"]["references"]["ept"]["total"].get<uint64_t>());
  EXPECT_THAT(Replay(absl::StrCat("--machine skylake ", kSqlite)).out,
              AllOf(HasSubstr("Intel Skylake"), HasSubstr("second-level TLB hits"),
                    HasSubstr("loads from the EPT"), HasSubstr("served by")));
}

TEST(TdpMachine, ReadsAMachineFileAndSaysWhatIsWrongWithIt) {
  const std::string file = WriteFile("own.machine",
                                     "[machine]\nname = Own\n[memory]\ncycles = 9 | assumed\n"
                                     "[costs]\nvm-exit = 1 | a\npage-fault = 1 | a\n"
                                     "context-switch = 1 | a\n");
  const auto report =
      ReplayJson(absl::StrCat("--paging native --machine '", file, "' ", Rounds(4, 5)));
  EXPECT_EQ(report["machine"]["name"], "Own");
  EXPECT_EQ(Sum(report["machine"]["walks"]), 20u) << "it has no TLB";
  EXPECT_EQ(report["machine"]["translation_cycles"], 20 * 4 * 9);
  EXPECT_TRUE(report["options"]["tlb"].is_null());
  const ProgramResult bad = Replay("--machine 'no such' " + Rounds(1, 1));
  EXPECT_EQ(bad.status, 2);
  EXPECT_THAT(bad.err, HasSubstr("no machine \"no such\""));
}

TEST(TdpTime, IntervalsAddUpToTheWhole) {
  for (const char* options :
       {"", "--machine zen3", "--cpus 2", "--paging shadow --table-churn 99"}) {
    const auto report =
        ReplayJson(absl::StrCat("--ept-page 4k --interval 1000 ", options, " ", Rounds(301, 11)));
    const auto& intervals = report["intervals"];
    EXPECT_EQ(intervals["accesses"].size(), 4u);
    EXPECT_EQ(intervals["accesses"].back(), 311);
    EXPECT_EQ(Sum(intervals["accesses"]), report["accesses"]);
    EXPECT_EQ(Sum(intervals["tlb_misses"]), report["tlb"]["misses"]) << options;
    EXPECT_EQ(Sum(intervals["walks"]), report["walks"]["count"]);
    EXPECT_EQ(Sum(intervals["page_faults"]), report["page_faults"]);
    EXPECT_EQ(Sum(intervals["exits"]), report["violations"]["total"].get<uint64_t>() +
                                           report["shadow_exits"]["total"].get<uint64_t>());
    EXPECT_EQ(Sum(intervals["guest_references"]), report["walks"]["references"]["guest"]["total"]);
  }
}

TEST(TdpTime, AWarmUpIsMadeAndNotCounted) {
  const auto report = ReplayJson("--warmup 300 --interval 100 " + Rounds(300, 3));
  EXPECT_EQ(report["warmup_accesses"], 300);
  EXPECT_EQ(report["accesses"], 600);
  EXPECT_EQ(report["records"]["loads"], 600);
  EXPECT_EQ(report["page_faults"], 0);
  EXPECT_EQ(report["tlb"]["misses"], 0);
  EXPECT_EQ(report["check"]["pages"], 300);
  const ProgramResult none = Replay("--warmup 900 " + Rounds(300, 3));
  EXPECT_EQ(none.status, 2);
  EXPECT_THAT(none.err, HasSubstr("none is left to count"));
}

TEST(TdpTime, ARegionOfInterestIsReplayedAlone) {
  const std::string trace = Rounds(300, 3);
  EXPECT_EQ(ReplayJson("--roi 100:150 " + trace)["check"]["pages"], 50);
  EXPECT_EQ(ReplayJson("--roi 850: " + trace)["accesses"], 50);
  EXPECT_EQ(ReplayJson("--roi :7 " + trace)["accesses"], 7);
  // The region goes from the first touch of page 10 to the first of page 20 after it.
  EXPECT_EQ(ReplayJson("--roi @40a000:@414000 " + trace)["accesses"], 10);
  EXPECT_EQ(ReplayJson("--roi @40a007:@40a007 " + trace)["accesses"], 300);
  for (const char* bad : {"5", "7:7", "x:", "@:"}) {
    EXPECT_EQ(Replay(absl::StrCat("--roi ", bad, " ", trace)).status, 2) << bad;
  }
  EXPECT_THAT(Replay("--roi 900: " + trace).err, HasSubstr("--roi begins after its last access"));
}

TEST(TdpTime, PagesAndMissCurvesAreThoseOfTheProgram) {
  const auto report = ReplayJson("--top-pages 3 --miss-curve --machine skylake " + Rounds(48, 10));
  EXPECT_EQ(report["pages"]["touched"], 48);
  EXPECT_EQ(report["pages"]["gva"], json({0x400000, 0x401000, 0x402000}));
  EXPECT_EQ(report["pages"]["accesses"], json({10, 10, 10}));
  ASSERT_EQ(report["miss_curves"].size(), 3u);
  const auto& small = report["miss_curves"][0];
  EXPECT_EQ(small["page_bytes"], 4096);
  EXPECT_EQ(small["entries"].back(), 48);
  EXPECT_EQ(small["misses"].back(), 48) << "first touches alone";
  EXPECT_EQ(small["misses"][0], 480);
  EXPECT_EQ(report["miss_curves"][1]["misses"][0], 1);
  const std::string text = Replay("--top-pages 3 --miss-curve " + Rounds(48, 10)).out;
  EXPECT_THAT(text, AllOf(HasSubstr("48 touched"), HasSubstr("miss curve  4 KiB, 48 pages")));
}

}  // namespace
}  // namespace tdp::tools
