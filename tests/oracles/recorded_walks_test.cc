// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests compare the software CPU and the engine's walkers with walks that nobody here made
// up: an emulator's EPT walker and the page tables of booted kernels. tests/oracles/data/README.md
// says where they come from.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tests/oracles/engine_walk_protocol.h"
#include "tests/oracles/recorded_file.h"
#include "tests/oracles/walk_protocol.h"

namespace tdp::oracles {
namespace {

template <typename Protocol>
void CompareAnswers(const std::string& file, absl::FunctionRef<std::string(std::string)> shown) {
  const auto lines = ReadRecordedLines(absl::StrFormat("ept/%s.txt.zst", file));
  ASSERT_TRUE(lines.ok()) << lines.status();
  Protocol protocol;
  int asked = 0;
  for (const std::string& line : *lines) {
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(line, absl::MaxSplits(" -> ", 1));
    const auto answer = protocol.Answer(parts.first);
    ASSERT_TRUE(answer.ok()) << line << ": " << answer.status();
    if (parts.second.empty()) continue;
    ++asked;
    ASSERT_EQ(shown(*answer), shown(parts.second)) << "question " << asked << ": " << parts.first;
  }
  EXPECT_GT(asked, 100);
}

class RecordedEptWalks : public testing::TestWithParam<const char*> {};

TEST_P(RecordedEptWalks, AreAnsweredAlike) {
  CompareAnswers<WalkProtocol>(GetParam(), [](std::string answer) { return answer; });
}

// The engine keeps no log for L1; and which A and D flags a walk sets before it faults is not
// architectural.
TEST_P(RecordedEptWalks, AreAnsweredAlikeByTheEngine) {
  CompareAnswers<EngineWalkProtocol>(GetParam(), [](std::string answer) {
    const size_t end = answer.find(absl::StartsWith(answer, "ok") ? " pml " : " ad ");
    return answer.substr(0, std::min(end, answer.find(" pml ")));
  });
}

INSTANTIATE_TEST_SUITE_P(All, RecordedEptWalks,
                         testing::Values("ad01", "ad02", "adv01", "basic01", "defect01", "defect02",
                                         "eptp01", "exhaust_pae", "la48_ept01", "la48_only01",
                                         "la57_ept01", "la57_only01", "legacy_ept01",
                                         "legacy_only01", "maxpa01", "pae_ept01", "pae_only01"),
                         [](const auto& test) { return std::string(test.param); });

// The parameters are the directory and whether the engine walks.
class KernelPageTables : public testing::TestWithParam<std::tuple<const char*, bool>> {
 protected:
  void SetUp() override {
    const auto lines = ReadRecordedLines(File("regs.txt"));
    ASSERT_TRUE(lines.ok()) << lines.status();
    for (const std::string& line : *lines) {
      registers_.insert(absl::StrSplit(line, absl::MaxSplits('=', 1)));
    }
    const auto tables = ReadRecordedFile(File("tables.bin.zst"));
    ASSERT_TRUE(tables.ok()) << tables.status();
    Tell("maxpa 52");
    sim_.LoadRecords(*tables);
    engine_.LoadRecords(*tables);
    Tell("ept 0");
    for (const char* name : {"cr0", "efer", "cr4", "cr3"}) {
      Tell(absl::StrFormat("%s %s", name, registers_[name]));
    }
    if (directory() == "pae") {
      ASSERT_EQ(*Answer("loadpdptr"), "ok");
    }
    uint64_t cr4 = 0;
    ASSERT_TRUE(absl::SimpleHexAtoi(registers_["cr4"], &cr4));
    smep_ = (cr4 & sim::kCr4Smep) != 0;
    smap_ = (cr4 & sim::kCr4Smap) != 0;
  }

  std::string File(const char* name) {
    return absl::StrFormat("guestwalk/%s/%s", directory(), name);
  }
  static std::string directory() { return std::get<0>(GetParam()); }
  absl::StatusOr<std::string> Answer(const std::string& line) {
    return std::get<1>(GetParam()) ? engine_.Answer(line) : sim_.Answer(line);
  }
  void Tell(const std::string& line) { ASSERT_TRUE(Answer(line).ok()) << line; }

  // Returns the answer without the list of flags set on the way.
  std::string Ask(const std::string& line) {
    const std::string answer = Answer(line).value_or("?");
    return answer.substr(0, answer.find(" ad "));
  }

  bool Allows(const RecordedLeaf& leaf, char kind, bool user) const {
    if (user) {
      return leaf.user &&
             (kind == 'r' || (kind == 'w' && leaf.write) || (kind == 'x' && leaf.execute));
    }
    if (kind == 'x') return leaf.execute && !(leaf.user && smep_);
    return !(leaf.user && smap_) && (kind == 'r' || leaf.write);
  }

  std::map<std::string, std::string> registers_;
  WalkProtocol sim_;
  EngineWalkProtocol engine_;
  bool smep_ = false;
  bool smap_ = false;
};

TEST_P(KernelPageTables, MapEveryLeafWithItsRights) {
  const auto lines = ReadRecordedLines(File("leaves.txt.zst"));
  ASSERT_TRUE(lines.ok()) << lines.status();
  uint64_t index = 0;
  for (const std::string& line : *lines) {
    const RecordedLeaf leaf = ParseLeaf(line);
    const uint64_t offset = (index * 0x9e3779b97f4a7c15 >> 20) % leaf.size;
    const char kind = "rwx"[index % 3];
    const bool user = index / 3 % 2 == 1;
    ++index;
    const std::string answer = Ask(absl::StrFormat("lin %x %c %d", leaf.gva + offset, kind, user));
    if (Allows(leaf, kind, user)) {
      ASSERT_EQ(answer, absl::StrFormat("ok %x", leaf.gpa + offset)) << line;
    } else {
      ASSERT_TRUE(absl::StartsWith(answer, "pf ")) << line << " -> " << answer;
    }
  }
  EXPECT_GT(index, 1000u);
}

TEST_P(KernelPageTables, AnswerTheMonitorsQueries) {
  const auto lines = ReadRecordedLines(File("queries.txt.zst"));
  ASSERT_TRUE(lines.ok()) << lines.status();
  for (const std::string& line : *lines) {
    const std::pair<std::string, std::string> query = absl::StrSplit(line, ' ');
    const std::string answer = Ask(absl::StrFormat("lin %s r 0", query.first));
    if (query.second == "-") {
      ASSERT_TRUE(absl::StartsWith(answer, "pf ") || answer == "noncanonical") << line << answer;
    } else if (!smap_ || answer != "pf 1") {
      ASSERT_EQ(answer, "ok " + query.second) << line;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, KernelPageTables,
                         testing::Combine(testing::Values("la48", "la57", "legacy32", "pae"),
                                          testing::Bool()),
                         [](const auto& test) {
                           return absl::StrCat(std::get<0>(test.param),
                                               std::get<1>(test.param) ? "_engine" : "_sim");
                         });

}  // namespace
}  // namespace tdp::oracles
