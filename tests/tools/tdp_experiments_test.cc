// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests run `tdp wss`, `tdp overcommit`, `tdp hugepages`, `tdp compare` and --prefault from
// outside.

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

ProgramResult Tdp(const std::string& arguments) { return RunProgram("tools/tdp " + arguments); }

json JsonOf(const std::string& arguments) {
  const ProgramResult result = Tdp(arguments);
  EXPECT_EQ(result.status, 0) << arguments << result.err;
  return json::parse(result.out, nullptr, false);
}

constexpr char kGups[] = " --ram 64m generate:gups,footprint=4m,accesses=100k";

TEST(TdpExperiments, EachSaysTheSameAsTextAndAsJson) {
  const json wss = JsonOf(absl::StrCat("wss --json --interval 20000 --intervals 3", kGups));
  EXPECT_EQ(wss["true_pages"].size(), 3u);
  EXPECT_THAT(Tdp(absl::StrCat("wss --interval 20000 --intervals 3", kGups)).out,
              HasSubstr(wss["true_pages"][2].dump()));
  const json over =
      JsonOf(absl::StrCat("overcommit --json --check --resident 1m --accesses 50000", kGups));
  ASSERT_EQ(over["runs"].size(), 3u);
  for (const json& run : over["runs"]) {
    EXPECT_EQ(run["differing_pages"], 0);
    EXPECT_THAT(Tdp(absl::StrCat("overcommit --resident 1m --accesses 50000", kGups)).out,
                HasSubstr(run["swap_ins"].dump()));
  }
  const json pages = JsonOf(absl::StrCat("hugepages --json --interval 10000 --intervals 4", kGups));
  ASSERT_EQ(pages["policies"].size(), 5u);
  EXPECT_THAT(Tdp(absl::StrCat("hugepages --interval 10000 --intervals 4", kGups)).out,
              HasSubstr(pages["policies"][0]["walks"][3].dump()));
}

TEST(TdpExperiments, OptionsKeepTheNamesThatTheyHad) {
  EXPECT_EQ(Tdp(absl::StrCat("wss --every 20000 --samples 3", kGups)).out,
            Tdp(absl::StrCat("wss --interval 20000 --intervals 3", kGups)).out);
  EXPECT_EQ(Tdp(absl::StrCat("hugepages --every=10000 --intervals 4", kGups)).out,
            Tdp(absl::StrCat("hugepages --interval=10000 --intervals 4", kGups)).out);
}

TEST(TdpExperiments, PagesAreComparedAllOrInPartOrNot) {
  const auto checked = [](const char* check) {
    return Tdp(absl::StrCat("overcommit --reclaim clock --resident 1m --accesses 20000 ", check,
                            kGups))
        .out;
  };
  EXPECT_THAT(checked(""), HasSubstr("not compared"));
  EXPECT_EQ(checked("--check off"), checked(""));
  EXPECT_THAT(checked("--check"), HasSubstr("equal"));
  EXPECT_EQ(checked("--check all"), checked("--check"));
  EXPECT_EQ(checked("--check=sample"), checked("--check"));
}

TEST(TdpExperiments, AComparisonIsOneCommandAndWritesAPage) {
  const std::string page = WriteFile("page.html", "");
  const ProgramResult run = Tdp(absl::StrCat(
      "compare --ram 64m --footprint 4m --accesses 100k --table-churn 100 -o '", page, "'"));
  // A count has no suffix.
  EXPECT_EQ(run.status, 2);
  const ProgramResult good = Tdp(absl::StrCat(
      "compare --ram 64m --footprint 4m --accesses 100000 --table-churn 100 -o '", page, "'"));
  ASSERT_EQ(good.status, 0) << good.err;
  EXPECT_THAT(good.out, AllOf(HasSubstr("stride"), HasSubstr("gups"), HasSubstr("tables stay"),
                              HasSubstr("a change each 100"), HasSubstr("better of the two: ")));
  EXPECT_THAT(good.out, AllOf(HasSubstr("1500  vm-exit of the machine file skylake, assumed\n"),
                              HasSubstr("1000  page-fault of the machine file skylake, assumed")));
  const std::string html = ReadWholeFile(page);
  EXPECT_THAT(html, AllOf(HasSubstr("<!DOCTYPE html>"), HasSubstr("shadow"), HasSubstr("gups")));
}

TEST(TdpExperiments, AChangeOfTablesCostsAShadowExitsAndEptNone) {
  const ProgramResult run =
      Tdp("compare --ram 64m --footprint 1m --accesses 100000 --table-churn 50");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("better of the two: EPT")) << "with changes";
}

TEST(TdpExperiments, ExitsHaveAPriceByCauseWhereThatIsAskedFor) {
  const ProgramResult run =
      Tdp("compare --ram 64m --footprint 1m --accesses 100000 --table-churn 50 --exit-prices "
          "linux-boot");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_THAT(run.out, HasSubstr("INVLPG"));
  EXPECT_THAT(run.out,
              HasSubstr("write to a guest table        5554  measured: 2000 out and back"));
  EXPECT_THAT(run.out, HasSubstr("better of the two: EPT, by "));
}

TEST(TdpExperiments, ABalloonedGuestIsComparedWithOneWhoseHostSwaps) {
  const json runs =
      JsonOf(absl::StrCat("overcommit --json --balloon --check --resident 1m --ram 64m --accesses "
                          "50000 --reclaim clock",
                          kGups))["runs"];
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[1]["reclaim"], "balloon");
  EXPECT_EQ(runs[1]["differing_pages"], 0);
  EXPECT_GT(runs[1]["swap_ins"], 0);
  EXPECT_EQ(runs[0]["guest_pages"], runs[1]["guest_pages"]);
}

TEST(TdpExperiments, PrefaultedMemoryHasNoViolations) {
  for (const char* options : {"--ept-page 4k", "--ept-page 2m", "--guest-page 1g --ept-page 1g"}) {
    const json run = JsonOf(absl::StrCat("replay --json --prefault on ", options,
                                         " --ram 2g generate:gups,footprint=4m,accesses=50k"));
    EXPECT_EQ(run["violations"]["total"], 0) << options;
    EXPECT_EQ(run["check"]["mismatches"], 0) << options;
  }
  EXPECT_TRUE(JsonOf(absl::StrCat("replay --json --paging native", kGups))["options"]["prefault"]
                  .is_null());
}

TEST(TdpExperiments, WhatIsNoUseIsRefusedInOneLine) {
  for (const char* command : {"wss", "overcommit", "hugepages", "compare", "migrate"}) {
    const std::string with = absl::StrCat(command, " ");
    EXPECT_EQ(Tdp(with + "--help").status, 0);
    for (const char* bad : {"-", "/nowhere/trace", "--paging=native generate:gups",
                            "--cpus=2 --paging=shadow generate:gups", "generate:nothing"}) {
      const ProgramResult run = Tdp(with + bad);
      EXPECT_EQ(run.status, 2) << with << bad;
      EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << run.err;
      EXPECT_EQ(run.out, "");
    }
  }
  EXPECT_THAT(Tdp("hugepages --ept-page 4k generate:gups").err, HasSubstr("no policy a choice"));
  EXPECT_THAT(Tdp("overcommit --resident 4k generate:gups").err, HasSubstr("at least 512k"));
}

}  // namespace
}  // namespace tdp::tools
