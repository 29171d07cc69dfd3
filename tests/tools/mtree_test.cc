// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/regions/mtree.h"

#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"
#include "tdp/tools/regions/region_file.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;

// The ranges of the flat view of "memory" in a report.
std::vector<std::string> FlatViewOf(const std::string& report) {
  std::vector<std::string> ranges;
  bool inside = false;
  for (const auto line : absl::StrSplit(report, '\n')) {
    if (absl::StartsWith(line, "FlatView of")) inside = line == "FlatView of memory";
    if (inside && absl::StartsWith(line, "  "))
      ranges.emplace_back(absl::StripAsciiWhitespace(line));
    if (line.empty()) inside = false;
  }
  return ranges;
}

TEST(Mtree, TheFlatViewIsTheOneThatQemuShows) {
  for (const char* machine : {"q35", "pc"}) {
    const std::string data = absl::StrCat("tests/tools/data/", machine);
    const ProgramResult run = RunProgram(absl::StrCat("tools/tdp regions ", data, ".mtree"));
    ASSERT_EQ(run.status, 0) << run.err;
    std::vector<std::string> want;
    for (const auto line : absl::StrSplit(ReadWholeFile(absl::StrCat(data, ".flat")), '\n')) {
      if (!line.empty()) want.emplace_back(absl::StripAsciiWhitespace(line));
    }
    // A region whose name came before has a number here.
    std::vector<std::string> got = FlatViewOf(run.out);
    for (std::string& range : got) {
      if (const size_t number = range.find(" #2"); number != std::string::npos) {
        range.erase(number, 3);
      }
    }
    EXPECT_EQ(got, want) << machine;
    EXPECT_GT(want.size(), 10u);
  }
}

std::string ErrorOf(const std::string& text) {
  const auto json = MtreeToJson(text);
  if (!json.ok()) return std::string(json.status().message());
  const auto machine = ParseRegionFile(*json);
  return machine.ok() ? "no error" : std::string(machine.status().message());
}

constexpr char kHead[] =
    "address-space: memory\n  0000000000000000-ffffffffffffffff (prio 0, i/o): system\n";

TEST(Mtree, TheMonitorsOwnLinesAreNoneOfTheTree) {
  const std::string text = absl::StrCat(
      "QEMU 7.2 monitor\r\n(qemu) info mtree\r\n", kHead,
      "    0000000000000000-0000000000000fff (prio 0, ram): r\r\n", "\r\n(qemu) quit\r\n");
  EXPECT_TRUE(LooksLikeMtree(text));
  EXPECT_EQ(ErrorOf(text), "no error");
  EXPECT_FALSE(LooksLikeMtree("{\"address_spaces\": []}"));
}

TEST(Mtree, WhatLiesBelowALineThatIsMissingIsDisabledWithIt) {
  const std::string text = absl::StrCat(
      kHead, "        0000000000000000-0000000000000fff (prio 0, ram): hidden\n",
      "    0000000000001000-0000000000001fff (prio 0, ram): alias shown @off "
      "0000000000000000-0000000000000fff\n",
      "memory-region: off\n", "    0000000000000000-0000000000000fff (prio 0, ram): below\n",
      "    0000000000001000-0000000000001fff (prio 0, ram): below\n");
  const auto json = MtreeToJson(text);
  ASSERT_TRUE(json.ok()) << json.status();
  EXPECT_THAT(*json, HasSubstr("\"enabled\": false"));
  const std::string file = WriteFile("hidden.mtree", text);
  const ProgramResult run = RunProgram(absl::StrCat("tools/tdp regions '", file, "'"));
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_TRUE(FlatViewOf(run.out).empty()) << run.out;
}

TEST(Mtree, WhatIsNoRegionIsRefusedWithItsLine) {
  const std::string head = kHead;
  EXPECT_THAT(ErrorOf(head + "    nonsense\n"), HasSubstr("3: not a region of info mtree"));
  EXPECT_THAT(ErrorOf(head + "    0000000000001000-0000000000000fff (prio 0, ram): r\n"),
              HasSubstr("3: not a region"));
  EXPECT_THAT(ErrorOf(head + "    0000000000000000-0000000000000fff (prio x, ram): r\n"),
              HasSubstr("3: not a region"));
  EXPECT_THAT(ErrorOf(head + "    0000000000000000-0000000000000fff (prio 0, ram): alias a @\n"),
              HasSubstr("3: not an alias"));
  EXPECT_THAT(ErrorOf(head + "    0000000000000000-0000000000000fff (prio 0, ram): alias a @b "
                             "0000000000000000-0000000000000fff\n"),
              HasSubstr("3: an alias of \"b\", which is not there"));
  EXPECT_THAT(ErrorOf(head + "  0000000000000000-0000000000000fff (prio 0, ram): r\n"),
              HasSubstr("3: a second root"));
  EXPECT_THAT(
      ErrorOf("address-space: I/O\n  0000000000000000-000000000000ffff (prio 0, i/o): io\n"),
      HasSubstr("there is no address space \"memory\""));
  std::string deep = head;
  for (size_t depth = 2; depth < 200; ++depth) {
    absl::StrAppend(&deep, std::string(2 * depth, ' '),
                    "0000000000000000-0000000000000fff (prio 0, i/o): x\n");
  }
  EXPECT_THAT(ErrorOf(deep), HasSubstr("too deep"));
}

TEST(Mtree, ACutOrChangedPrintIsReadOrRefusedButBreaksNothing) {
  const std::string text = ReadWholeFile("tests/tools/data/pc.mtree");
  for (size_t length = 0; length < text.size(); length += 37) {
    static_cast<void>(ErrorOf(text.substr(0, length)));
    std::string changed = text;
    changed[length] = static_cast<char>(changed[length] ^ 0x11);
    static_cast<void>(ErrorOf(changed));
  }
}

}  // namespace
}  // namespace tdp::tools
