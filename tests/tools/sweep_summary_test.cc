// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_summary.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"
#include "tdp/tools/sweep/job_pool.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;

TEST(SweepSummary, MeansAndIntervalsAreStudents) {
  const auto text = SummarizeSweep("f",
                                   "cell,cells,sweep,trace,paging,seed,accesses,what\n"
                                   "0,5,v,\"a,b\",ept,1,10,x\n1,5,v,\"a,b\",ept,2,12,y\n"
                                   "2,5,v,\"a,b\",ept,3,17,z\n3,5,v,c,ept,1,5,x\n"
                                   "4,5,v,c,ept,2,5,x\n");
  ASSERT_TRUE(text.ok()) << text.status();
  // The mean of 10, 12 and 17 is 13, their deviation 3.6056; the interval is that by the root of
  // three, times 4.303.
  EXPECT_EQ(*text,
            "trace,paging,seeds,accesses_mean,accesses_ci95,what_mean,what_ci95\n"
            "\"a,b\",ept,3,13,8.957,,\n"
            "c,ept,2,5,0,,\n");
}

TEST(SweepSummary, AMeanOfLargeCountsHasAllItsDigits) {
  const auto text = SummarizeSweep("one.csv",
                                   "cell,cells,sweep,trace,seed,accesses,what\n"
                                   "0,2,v,c,1,80000003,1\n"
                                   "1,2,v,c,2,80000005,1\n");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_NE(text->find(",80000004,"), std::string::npos) << *text;
}

TEST(SweepSummary, OneSeedHasNoInterval) {
  EXPECT_EQ(*SummarizeSweep("f", "cell,cells,sweep,trace,seed,accesses\n0,1,v,a,1,10\n"),
            "trace,seeds,accesses_mean,accesses_ci95\na,1,10,\n");
}

TEST(SweepSummary, WhatIsNoSweepIsRefusedWithItsLine) {
  const auto error = [](std::string_view text) {
    return std::string(SummarizeSweep("f.csv", text).status().message());
  };
  EXPECT_EQ(error(""), "f.csv: empty");
  EXPECT_EQ(error("a,b,c\n"), "f.csv:1: not the CSV of a sweep");
  EXPECT_EQ(error("cell,cells,sweep,trace,seed,accesses\n0,1,v,a,1\n"),
            "f.csv:2: 5 fields, not 6 as in the heading");
  EXPECT_EQ(error("cell,cells,sweep,trace,seed,accesses\n0,1,v,a,1,10"), "f.csv:2: cut short");
  EXPECT_EQ(error("cell,cells,sweep,trace,seed,accesses\n0,2,v,a,1,10\n0,2,v,a,1,10\n"),
            "f.csv:3: cell 0 is there twice");
  EXPECT_EQ(error("cell,cells,sweep,trace,seed,accesses\n0,2,1-2-3,a,1,9\n1,2,1-2-4,a,2,9\n"),
            "f.csv:3: a cell of another sweep than the first: its traces or machine files are "
            "others, or have been changed");
}

TEST(JobPool, EachJobRunsOnceAndNoneBeginsAfterAnError) {
  for (const size_t threads : {1, 2, 7, 100}) {
    std::vector<std::atomic<int>> runs(50);
    EXPECT_TRUE(RunJobs(50, threads, [&runs](size_t job) {
                  ++runs[job];
                  return absl::OkStatus();
                }).ok());
    for (const auto& run : runs) EXPECT_EQ(run, 1);
  }
  std::atomic<int> begun{0};
  const absl::Status status = RunJobs(1000, 1, [&begun](size_t job) {
    ++begun;
    return job == 3 ? absl::InternalError("three") : absl::OkStatus();
  });
  EXPECT_EQ(status.message(), "three");
  EXPECT_EQ(begun, 4);
  EXPECT_TRUE(RunJobs(0, 3, [](size_t) { return absl::InternalError(""); }).ok());
}

// Returns a sweep's CSV without the columns that are times.
std::vector<std::vector<std::string>> Untimed(const std::string& csv) {
  std::vector<std::vector<std::string>> rows;
  for (const auto line : absl::StrSplit(csv, '\n', absl::SkipEmpty())) {
    rows.emplace_back(absl::StrSplit(line, ','));
  }
  std::vector<std::vector<std::string>> kept(rows.size());
  for (size_t column = 0; !rows.empty() && column < rows[0].size(); ++column) {
    const std::string& name = rows[0][column];
    if (absl::StrContains(name, "second") || absl::StrContains(name, "ns_each")) continue;
    for (size_t row = 0; row < rows.size(); ++row) kept[row].push_back(rows[row][column]);
  }
  return kept;
}

class SweepJobs : public testing::Test {
 protected:
  std::string Trace() {
    std::vector<TraceRecord> records;
    for (uint64_t i = 0; i < 3000; ++i) {
      records.push_back(
          TraceRecord::Make(Gva(0x400000 + i * 7919 % 300 * 4096), AccessKind::kStore, 3));
    }
    return " '" + WriteFile("trace", Words(records)) + "'";
  }
  ProgramResult Sweep(const std::string& arguments) {
    return RunProgram(absl::StrCat("tools/tdp sweep --ram 64m --frames shuffled ", arguments));
  }
};

TEST_F(SweepJobs, SeveralJobsWriteWhatOneWrites) {
  const std::string what = "--ept-page 4k,2m --tlb 4x4,8x8 --seed 1,2,3" + Trace();
  const ProgramResult one = Sweep(what);
  ASSERT_EQ(one.status, 0) << one.err;
  EXPECT_EQ(Untimed(Sweep("--jobs 4 " + what).out), Untimed(one.out));
  const std::string csv = WriteFile("cells.csv", "");
  const std::string json = WriteFile("cells.json", "");
  ASSERT_EQ(Sweep(absl::StrCat("--jobs 3 --csv '", csv, "' --json='", json, "' ", what)).status, 0);
  EXPECT_EQ(Untimed(ReadWholeFile(csv)), Untimed(one.out));
  EXPECT_EQ(ReadWholeFile(json).substr(0, 11), "[\n{\"cell\":0");
  // A resumed sweep runs again only those that are missing.
  std::string cut = ReadWholeFile(csv);
  cut.resize(cut.size() * 2 / 3);
  WriteFile("cells.csv", cut);
  const ProgramResult resumed = Sweep(absl::StrCat("--jobs 3 --resume --csv '", csv, "' ", what));
  EXPECT_EQ(resumed.status, 0) << resumed.err;
  EXPECT_EQ(Untimed(ReadWholeFile(csv)), Untimed(one.out));
}

TEST_F(SweepJobs, SeedsAreSummedUpAsTheirFileIs) {
  const std::string csv = WriteFile("cells.csv", "");
  const ProgramResult run =
      Sweep(absl::StrCat("--seeds 4 --ept-page 4k,2m --csv '", csv, "'", Trace()));
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 3);
  EXPECT_THAT(run.out, HasSubstr(",walks_count_mean,walks_count_ci95,"));
  EXPECT_EQ(run.out, RunProgram(absl::StrCat("tools/tdp sweep --summarize '", csv, "'")).out);
  EXPECT_EQ(Untimed(Sweep("--seeds 4 --ept-page 4k,2m" + Trace()).out), Untimed(run.out));
}

TEST_F(SweepJobs, WhatDoesNotGoTogetherIsRefused) {
  EXPECT_THAT(Sweep("--seeds 2 --seed 5" + Trace()).err, HasSubstr("exclude each other"));
  EXPECT_THAT(Sweep("--seeds 2 --shard 1/2" + Trace()).err, HasSubstr("--summarize"));
  EXPECT_THAT(Sweep("--seeds 2 --resume --json=x" + Trace()).err, HasSubstr("needs --csv"));
  EXPECT_THAT(Sweep("--jobs 0" + Trace()).err, HasSubstr("jobs"));
}

}  // namespace
}  // namespace tdp::tools
