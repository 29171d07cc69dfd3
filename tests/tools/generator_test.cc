// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests ask what each generated program does to memory, and that it does it again.

#include "tdp/tools/trace/generator.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tests/tools/trace_files.h"
#include "tdp/tools/trace/open_trace.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kData = uint64_t{1} << 40;

std::vector<TraceRecord> Generate(const std::string& spec, size_t batch = 1000) {
  auto reader = OpenTrace("generate:" + spec, {});
  EXPECT_TRUE(reader.ok()) << reader.status();
  auto all = ReadAll(**reader, batch);
  EXPECT_TRUE(all.ok());
  return *all;
}

// Returns the offsets of the accesses to data, in order.
std::vector<uint64_t> DataOf(const std::vector<TraceRecord>& records) {
  std::vector<uint64_t> offsets;
  for (const TraceRecord record : records) {
    if (record.kind() != AccessKind::kFetch) offsets.push_back(record.gva().raw() - kData);
  }
  return offsets;
}

TEST(Generator, EveryProgramStaysInItsFootprintAndIsRepeatable) {
  for (const char* kind : {"gups", "chase", "stride", "bfs", "join"}) {
    for (const char* footprint : {"4k", "5000", "1m", "3g"}) {
      const std::string spec = absl::StrCat(kind, ",accesses=20k,footprint=", footprint);
      const auto records = Generate(spec);
      ASSERT_EQ(records.size(), 20000u) << spec;
      EXPECT_EQ(records, Generate(spec, 7)) << spec;
      uint64_t size = 0;
      ASSERT_TRUE(ParseGenerator(spec).ok());
      size = ParseGenerator(spec)->footprint;
      for (size_t i = 0; i < records.size(); ++i) {
        ASSERT_TRUE(IsUserRecord(records[i]));
        // Fetches and data take turns.
        ASSERT_EQ(records[i].kind() == AccessKind::kFetch, i % 2 == 0);
        if (i % 2 == 0) continue;
        ASSERT_LE(records[i].gva().raw() - kData + records[i].size(), size) << spec;
      }
    }
    EXPECT_NE(DataOf(Generate(absl::StrCat(kind, ",footprint=1m,accesses=1k"))).size(), 0u);
  }
  for (const char* kind : {"gups", "chase", "bfs", "join"}) {
    EXPECT_NE(Generate(absl::StrCat(kind, ",accesses=1k,seed=1")),
              Generate(absl::StrCat(kind, ",accesses=1k,seed=2")))
        << kind;
  }
}

TEST(Generator, AChaseVisitsEveryLineOnceARound) {
  for (const uint64_t lines : {64, 100, 1000, 4097}) {
    const auto data =
        DataOf(Generate(absl::StrCat("chase,footprint=", 64 * lines, ",accesses=", 4 * lines)));
    ASSERT_EQ(data.size(), 2 * lines);
    const std::set<uint64_t> once(data.begin(), data.begin() + static_cast<ptrdiff_t>(lines));
    EXPECT_EQ(once.size(), lines);
    EXPECT_TRUE(std::equal(data.begin(), data.begin() + static_cast<ptrdiff_t>(lines),
                           data.begin() + static_cast<ptrdiff_t>(lines)));
    EXPECT_FALSE(std::is_sorted(data.begin(), data.begin() + static_cast<ptrdiff_t>(lines)));
  }
}

TEST(Generator, AStrideGoesRoundAndRound) {
  EXPECT_EQ(DataOf(Generate("stride,footprint=4k,stride=1k,accesses=12")),
            (std::vector<uint64_t>{0, 1024, 2048, 3072, 0, 1024}));
}

TEST(Generator, GupsGoesEverywhere) {
  std::map<uint64_t, int> pages;
  for (const uint64_t offset : DataOf(Generate("gups,footprint=1m,accesses=51200"))) {
    ++pages[offset / 4096];
  }
  EXPECT_EQ(pages.size(), 256u);
  for (const auto& [page, uses] : pages) EXPECT_LT(uses, 200) << page << ": 100 are expected";
}

TEST(Generator, TheDataBeginAtTheBase) {
  const auto low = Generate("chase,accesses=1k,footprint=1m");
  const auto moved = Generate("chase,accesses=1k,footprint=1m,base=0x12345000");
  for (size_t i = 1; i < low.size(); i += 2) {
    EXPECT_EQ(moved[i].gva().raw() - 0x12345000, low[i].gva().raw() - kData);
  }
}

TEST(Generator, WhatIsNoGeneratorIsRefused) {
  const auto error = [](const char* spec) {
    return std::string(OpenTrace(absl::StrCat("generate:", spec), {}).status().message());
  };
  EXPECT_THAT(error("fft"), HasSubstr("\"fft\": there are gups, chase, stride, bfs and join"));
  EXPECT_THAT(error("gups,size=4g"), HasSubstr("\"size=4g\": there are footprint"));
  EXPECT_THAT(error("gups,footprint=1"), HasSubstr("from 4k to 16t"));
  EXPECT_THAT(error("gups,footprint=99999999999999t"), HasSubstr("not a number"));
  EXPECT_THAT(error("gups,base=12345000"), HasSubstr("not a hexadecimal number with 0x in front"));
  EXPECT_THAT(error("gups,accesses=1,seed=2,accesses=3"),
              HasSubstr("\"accesses=3\": is there twice"));
  EXPECT_THAT(error("gups,stride=8"), HasSubstr("\"stride=8\": is for stride alone"));
  EXPECT_THAT(error("gups,base=0x12345001"), HasSubstr("not a page's address"));
  EXPECT_THAT(error("gups,base=0x1000"), HasSubstr("not a page's address"));
  EXPECT_THAT(error("gups,base=0x100000000000000"), HasSubstr("not a page's address"));
  EXPECT_THAT(error("gups,base=0x7ffffffff000"), HasSubstr("above 47 bits: --guest-levels 5"));
  EXPECT_THAT(error("gups,accesses=0"), HasSubstr("at least 1"));
  EXPECT_THAT(error("gups,accesses"), HasSubstr("not a number"));
  EXPECT_THAT(error("stride,stride=0"), HasSubstr("from 1 to 16t"));
}

}  // namespace
}  // namespace tdp::tools
