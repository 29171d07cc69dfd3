// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run `tdp replay --as processes` from outside.

#include <cstdint>
#include <numeric>
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
using ::testing::HasSubstr;

json ReplayJson(const std::string& arguments) {
  const ProgramResult result = RunProgram("tools/tdp replay --json --as processes " + arguments);
  EXPECT_EQ(result.status, 0) << arguments << result.err;
  return json::parse(result.out, nullptr, false);
}

uint64_t Sum(const json& array) {
  return std::accumulate(array.begin(), array.end(), uint64_t{0},
                         [](uint64_t sum, const json& n) { return sum + n.get<uint64_t>(); });
}

std::string Rounds(int pages, int rounds) {
  return absl::StrCat(" '", WriteRounds(pages, rounds, AccessKind::kStore), "' ");
}

TEST(TdpProcesses, ProgramsAtTheSameAddressesHavePagesOfTheirOwnWhateverTranslates) {
  const std::string a = Rounds(40, 50);
  const std::string b = Rounds(60, 50);
  for (const char* cpus : {"--cpus 1", "--cpus 2", "--cpus 5"}) {
    for (const char* options :
         {"--paging native", "--paging ept --ept-page 4k", "--paging shadow", "--paging nested",
          "--paging ept --machine zen4", "--paging native --machine skylake",
          "--paging shadow --machine zen3", "--paging nested --machine icelake",
          "--paging ept --guest-levels 5 --guest-page 2m"}) {
      for (const char* pcid : {"--pcid on", "--pcid off --table-churn 17"}) {
        const std::string all =
            absl::StrCat(cpus, " --timeslice 100 --quantum 10 ", options, " ", pcid, a, b, a);
        const json run = ReplayJson(all);
        ASSERT_FALSE(run.is_discarded()) << all;
        EXPECT_EQ(run["check"]["mismatches"], 0) << all;
        EXPECT_EQ(run["processes"]["accesses"], json({2000, 3000, 2000})) << all;
        EXPECT_EQ(run["accesses"], 7000) << all;
        const json& leaves = run["tables"]["guest_leaves"];
        EXPECT_GE(leaves["4k"].get<uint64_t>() + leaves["2m"].get<uint64_t>(), 3u) << all;
        EXPECT_GE(run["processes"]["switches"], 3) << all;
      }
    }
  }
}

TEST(TdpProcesses, TheSameSeedCountsTheSameWithAnyNumberOfCpus) {
  const std::string traces = Rounds(200, 40) + Rounds(300, 30) + Rounds(10, 400);
  for (const char* cpus : {"1", "2", "4"}) {
    const std::string all = absl::StrCat("--cpus ", cpus, " --timeslice 300 --quantum 20 ",
                                         "--table-churn 50 --machine zen4", traces);
    json first = ReplayJson(all);
    json second = ReplayJson(all);
    for (json* run : {&first, &second}) {
      for (const char* timed : {"seconds", "accesses_per_second", "check_seconds"}) {
        run->erase(timed);
      }
      (*run)["violations"].erase("ns_each");
    }
    EXPECT_EQ(first, second) << cpus;
  }
}

TEST(TdpProcesses, WithPcidsTranslationsOutliveASwitch) {
  const std::string traces = Rounds(10, 2000) + Rounds(12, 2000);
  const std::string options = "--timeslice 100 --kernel-accesses 0 --machine zen4";
  const json with = ReplayJson(options + " --pcid on" + traces);
  const json without = ReplayJson(options + " --pcid off" + traces);
  EXPECT_EQ(with["processes"]["switches"], without["processes"]["switches"]);
  EXPECT_GT(with["processes"]["switches"], 200);
  EXPECT_EQ(without["processes"]["flushes"], without["processes"]["switches"]);
  EXPECT_EQ(with["processes"]["flushes"], 2) << "the first time of each";
  EXPECT_LT(with["tlb"]["misses"], 60);
  EXPECT_GT(without["tlb"]["misses"], 2000);
}

TEST(TdpProcesses, ATableChangeIsShotDownWhereTheProgramRunsAndPutOffWhereItHasRun) {
  const std::string traces = Rounds(20, 500) + Rounds(20, 500) + Rounds(20, 500) + Rounds(20, 500);
  const std::string options = " --timeslice 50 --quantum 5 --table-churn 100 --machine zen4";
  const json one = ReplayJson("--cpus 1" + options + traces)["processes"];
  EXPECT_EQ(one["shootdowns"], 0);
  const json two = ReplayJson("--cpus 2" + options + traces)["processes"];
  EXPECT_EQ(two["ipis"], 0) << "a process runs on one CPU";
  EXPECT_GT(two["deferred_flushes"], 50);
  EXPECT_GT(two["flushes"], 50);
  const ProgramResult threads = RunProgram(
      absl::StrCat("tools/tdp replay --cpus 3 --table-churn 100 --machine zen4", Rounds(20, 500)));
  EXPECT_EQ(threads.status, 0) << threads.err;
}

TEST(TdpProcesses, TheKernelIsOneInAllSpacesAndItsAccessesAreNoneOfThePrograms) {
  const std::string traces = Rounds(10, 1000) + Rounds(10, 1000);
  const json run = ReplayJson("--timeslice 1000 --kernel-accesses 40 --machine zen4" + traces);
  const json& processes = run["processes"];
  EXPECT_EQ(processes["kernel_accesses"],
            40 * (processes["switches"].get<int>() + run["page_faults"].get<int>()));
  EXPECT_EQ(run["accesses"], 20000);
  EXPECT_EQ(Sum(run["machine"]["accesses"]), 20000 + processes["kernel_accesses"].get<uint64_t>());
  EXPECT_EQ(Sum(processes["tlb_misses"]), run["tlb"]["misses"]);
  EXPECT_EQ(Sum(processes["page_faults"]), run["page_faults"]);
  const json& stack = run["machine"]["stack"];
  EXPECT_EQ(stack["causes"].back(), "context_switch");
  EXPECT_EQ(stack["events"].back(), processes["switches"]);
}

TEST(TdpProcesses, AWarmUpForgetsWhatProcessesDidInIt) {
  const std::string traces = Rounds(10, 1000) + Rounds(10, 1000);
  const json run = ReplayJson("--timeslice 100 --warmup 12345" + traces);
  EXPECT_EQ(Sum(run["processes"]["accesses"]), 20000u - 12345u);
  EXPECT_EQ(run["accesses"], 20000 - 12345);
}

TEST(TdpProcesses, WithoutProcessesNothingIsSaidOfThem) {
  const ProgramResult run = RunProgram("tools/tdp replay --json" + Rounds(10, 10));
  EXPECT_TRUE(json::parse(run.out, nullptr, false)["processes"].is_null());
}

}  // namespace
}  // namespace tdp::tools
