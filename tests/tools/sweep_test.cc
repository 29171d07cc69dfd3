// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/sweep/sweep_plan.h"

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tools/options.h"
#include "tdp/tools/sweep/sweep_table.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::vector<SweepCell>> CellsOf(const std::vector<std::string_view>& arguments) {
  SweepPlan plan;
  OptionParser parser;
  plan.AddOptions(parser);
  const auto traces = parser.Parse(arguments);
  if (!traces.ok()) return traces.status();
  return plan.Cells(*traces);
}

TEST(SweepPlan, ATraceAloneIsOneCellOfDefaults) {
  const auto cells = CellsOf({"trace"});
  ASSERT_TRUE(cells.ok()) << cells.status();
  ASSERT_EQ(cells->size(), 1u);
  const ReplayOptions defaults;
  const ReplayOptions& options = cells->front().options;
  EXPECT_EQ(options.paging, defaults.paging);
  EXPECT_EQ(options.ept_page, defaults.ept_page);
  EXPECT_EQ(options.ram, defaults.ram);
  EXPECT_EQ(options.cache.caches, defaults.cache.caches);
  EXPECT_EQ(options.cache.tlb, defaults.cache.tlb);
  EXPECT_EQ(options.seed, defaults.seed);
}

TEST(SweepPlan, HasEveryCombinationOnce) {
  const auto cells =
      CellsOf({"--ept-page", "4k,2m,1g", "--guest-page=4k,2m", "--seed", "1,2", "a", "b"});
  ASSERT_TRUE(cells.ok()) << cells.status();
  ASSERT_EQ(cells->size(), 24u);
  std::set<std::tuple<std::string, int, int, uint64_t>> seen;
  for (size_t i = 0; i < cells->size(); ++i) {
    const SweepCell& cell = (*cells)[i];
    EXPECT_EQ(cell.number, i);
    seen.emplace(cell.trace, cell.options.ept_page.raw(), cell.options.guest_page.raw(),
                 cell.options.seed);
  }
  EXPECT_EQ(seen.size(), 24u);
}

TEST(SweepPlan, CombinationsThatComeToTheSameAreOneCell) {
  const auto cells = CellsOf({"--paging", "native,ept,shadow", "--ept-levels", "4,5",
                              "--fault-around", "1,4", "--ept-page", "4k,2m", "a", "b"});
  ASSERT_TRUE(cells.ok()) << cells.status();
  // Native paging makes one cell of all, EPT eight, and the shadow one for each size of the host's
  // pages.
  ASSERT_EQ(cells->size(), 2u * (1 + 8 + 2));
  for (size_t i = 0; i < cells->size(); ++i) {
    EXPECT_EQ((*cells)[i].number, i);
    const bool has_ept = (*cells)[i].options.paging == Paging::kEpt;
    for (const auto& [name, value] : (*cells)[i].values) {
      if (name == "ept-levels") {
        EXPECT_EQ(value.empty(), !has_ept);
      }
    }
  }
}

TEST(SweepPlan, ABadValueAnywhereIsRefusedBeforeAnythingRuns) {
  EXPECT_THAT(std::string(CellsOf({"--ept-page", "4k,3m", "a"}).status().message()),
              HasSubstr("--ept-page \"3m\""));
  EXPECT_FALSE(CellsOf({"--ram", "4g,3", "a"}).ok());
  std::string seeds = "1";
  for (int i = 2; i < 2000; ++i) seeds += "," + std::to_string(i);
  const std::string huge = "--seed=" + seeds;
  const std::string cpus = "--table-churn=" + seeds;
  EXPECT_THAT(std::string(CellsOf({huge, cpus, "a"}).status().message()),
              HasSubstr("combinations"));
}

TEST(SweepPlan, AnEmptyValueOrOneThatIsThereTwiceIsRefused) {
  EXPECT_THAT(std::string(CellsOf({"--ept-page", "4k,,2m", "a"}).status().message()),
              HasSubstr("--ept-page \"4k,,2m\": a value is empty"));
  EXPECT_FALSE(CellsOf({"--ept-page=", "a"}).ok());
  EXPECT_THAT(std::string(CellsOf({"--seed", "1,2,1", "a"}).status().message()),
              HasSubstr("\"1\" is there twice"));
}

TEST(SweepPlan, ShardsShareTheCellsOut) {
  for (uint64_t n : {1, 2, 7}) {
    for (uint64_t cell = 0; cell < 50; ++cell) {
      int owners = 0;
      for (uint64_t i = 1; i <= n; ++i) {
        owners += ParseShard(std::to_string(i) + "/" + std::to_string(n)).value().Has(cell);
      }
      EXPECT_EQ(owners, 1);
    }
  }
  for (const char* bad : {"", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2"}) {
    EXPECT_FALSE(ParseShard(bad).ok()) << bad;
  }
}

// Returns the table of the cells that `shard` has, with reports of nothing.
std::string Piece(const std::vector<SweepCell>& cells, const Shard& shard, bool json) {
  std::vector<SweepResult> results;
  for (const SweepCell& cell : cells) {
    if (!shard.Has(cell.number)) continue;
    SweepResult result;
    result.cell = cell;
    result.report.options = cell.options;
    result.report.trace = cell.trace;
    results.push_back(result);
  }
  std::string text = json ? "[" : SweepCsvHeading(cells.front());
  for (const SweepResult& result : results) {
    if (json) {
      absl::StrAppend(&text, text == "[" ? "\n" : ",\n", SweepJsonObject(result, cells.size()));
    } else {
      absl::StrAppend(&text, SweepCsvLine(result, cells.size()), "\n");
    }
  }
  return json ? text + "\n]\n" : text;
}

TEST(MergeSweep, ShardsInAnyOrderMakeTheWhole) {
  const auto cells = CellsOf({"--ept-page", "4k,2m,1g", "--seed", "1,2,3", "a,\"b"}).value();
  for (bool json : {false, true}) {
    const std::string whole = Piece(cells, {}, json);
    const auto merged = MergeSweep({{"third", Piece(cells, {2, 3}, json)},
                                    {"first", Piece(cells, {0, 3}, json)},
                                    {"second", Piece(cells, {1, 3}, json)}});
    ASSERT_TRUE(merged.ok()) << merged.status();
    EXPECT_EQ(*merged, whole);
  }
}

TEST(MergeSweep, RefusesAPieceWhoseWriterWasInterrupted) {
  const auto cells = CellsOf({"--seed", "1,2", "a"}).value();
  for (bool json : {false, true}) {
    const std::string whole = Piece(cells, {}, json);
    for (size_t length = 1; length < whole.size(); ++length) {
      EXPECT_FALSE(MergeSweep({{"cut", whole.substr(0, length)}}).ok() && length + 1 < whole.size())
          << length << " of " << whole.size();
    }
  }
  const std::string csv = Piece(cells, {}, false);
  EXPECT_EQ(MergeSweep({{"cut.csv", csv.substr(0, csv.size() - 1)}}).status().message(),
            "cut.csv:3: cut short");
  EXPECT_EQ(MergeSweep({{"cut.csv", csv.substr(0, csv.size() - 9) + "\n"}}).status().message(),
            "cut.csv:3: not a line of a sweep");
}

TEST(MergeSweep, RefusesWhatIsNoWholeSweep) {
  const auto cells = CellsOf({"--seed", "1,2,3,4", "a"}).value();
  const auto others = CellsOf({"--seed", "1,2,3,4,5", "a"}).value();
  for (bool json : {false, true}) {
    const SweepPiece odd = {"odd", Piece(cells, {0, 2}, json)};
    const SweepPiece even = {"even", Piece(cells, {1, 2}, json)};
    const auto error = [](const std::vector<SweepPiece>& pieces) {
      return std::string(MergeSweep(pieces).status().message());
    };
    EXPECT_THAT(error({odd}), HasSubstr("cell 1 of 4 is in none"));
    EXPECT_THAT(error({odd, even, odd}), HasSubstr("odd: cell 0 is there twice"));
    EXPECT_THAT(error({odd, {"other", Piece(others, {1, 2}, json)}}), HasSubstr("another sweep"));
    EXPECT_THAT(error({odd, {"prose", "once upon a time"}}), HasSubstr("prose: not the result"));
  }
}

}  // namespace
}  // namespace tdp::tools
