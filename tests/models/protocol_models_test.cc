// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Spin checks the Promela models in docs/models: every state of each protocol as docs/locking.md
// has it, and each order that it calls wrong, which must be found to break its promise.

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace tdp {
namespace {

using Wrong = std::pair<std::string, std::string>;  // model, the macro that makes it wrong

const std::map<std::string, std::set<std::string>>& WrongOrders() {
  static const auto* orders = new std::map<std::string, std::set<std::string>>{
      {"mmu_lock",
       {"READER_LOOKS_FIRST", "WRITER_LOOKS_FIRST", "STAYS_UNLISTED", "STRIKES_UNSEEN"}},
      {"change_sequence", {"SLOT_FIRST", "LOOK_OUTSIDE", "NO_PROGRESS", "END_UNMOVED"}},
      {"flush_clock",
       {"LOOK_ONCE", "OPERATION_LOOKS_FIRST", "MOVE_BEFORE_CHANGE", "FREE_EARLY", "ENTERS_UNLISTED",
        "LISTS_LATE", "STRIKES_UNSEEN"}},
      {"write_protection", {"MARK_FIRST", "PROTECT_FIRST", "NO_FLUSH", "PARENT_FIRST"}},
      {"shown_writes", {"NO_WAIT"}},
      {"dirty_bits", {"NAIVE", "NO_FLUSH", "NO_CLAIM", "WRITE_FIRST", "NOTE_ONCE", "LOG_FIRST"}},
      {"owed_flush",
       {"FOUND_NOTHING", "ADVANCE_OUTSIDE", "SETTLED_EARLY", "UNANNOUNCED", "ANNOUNCED_SHORTLY"}},
      {"one_load", {"LOOK_TWICE", "GIVE_UP"}},
      {"reverse_map", {"HEAD_OUTSIDE", "DROP_UNLOCKED", "OTHER_LOCK"}},
      {"detached_dirt", {"RETIRE_OUTSIDE", "READ_EARLY", "NO_WAIT", "NO_SECOND_FLUSH"}},
  };
  return *orders;
}

std::vector<std::string> Models() {
  std::vector<std::string> models;
  for (const auto& [model, wrong] : WrongOrders()) models.push_back(model);
  return models;
}

std::vector<Wrong> AllWrongOrders() {
  std::vector<Wrong> all;
  for (const auto& [model, wrong] : WrongOrders()) {
    for (const std::string& macro : wrong) all.emplace_back(model, macro);
  }
  return all;
}

std::string PathOf(const std::string& model) { return absl::StrCat("docs/models/", model, ".pml"); }

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool Runs(const std::string& command) {
  return std::system(absl::StrCat(command, " >/dev/null 2>&1").c_str()) == 0;
}

std::string NameOfModel(const testing::TestParamInfo<std::string>& of) { return of.param; }
std::string NameOfOrder(const testing::TestParamInfo<Wrong>& of) {
  return absl::StrCat(of.param.first, "_", of.param.second);
}

class ModelTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!Runs("command -v spin")) GTEST_SKIP() << "spin is not installed (apt-get install spin)";
    if (!Runs("command -v gcc")) GTEST_SKIP() << "spin needs gcc (apt-get install gcc)";
  }

  // Returns what the verifier of `model` prints; `options` are spin's, `compiler_options` gcc's: a
  // short search is over before an optimised verifier is compiled.
  static std::string Verify(const std::string& model, const std::string& options,
                            const std::string& compiler_options) {
    const std::filesystem::path place =
        std::filesystem::path(testing::TempDir()) / absl::StrCat("model_", model, options);
    std::filesystem::create_directories(place);
    const std::string file = std::filesystem::absolute(PathOf(model)).string();
    const std::string command =
        absl::StrCat("cd '", place.string(), "' && { spin -a ", options, " '", file, "' && gcc ",
                     compiler_options,
                     " -DSAFETY -DMEMLIM=1500 -o pan pan.c && ./pan -m100000; } "
                     ">verdict 2>&1");
    EXPECT_EQ(std::system(command.c_str()), 0);
    std::string verdict = ReadFile((place / "verdict").string());
    std::filesystem::remove_all(place);
    return verdict;
  }
};

class Protocol : public ModelTest, public testing::WithParamInterface<std::string> {};

TEST_P(Protocol, HoldsInEveryState) {
  const std::string verdict = Verify(GetParam(), "", "-O2");
  EXPECT_NE(verdict.find("errors: 0"), std::string::npos) << verdict;
  // Neither the depth nor the memory cut the search short.
  EXPECT_EQ(verdict.find("max search depth too small"), std::string::npos) << verdict;
  EXPECT_EQ(verdict.find("Search not completed"), std::string::npos) << verdict;
}

// A macro that nobody tries would be a promise that nobody checks.
TEST_P(Protocol, HasNoOrderThatIsNotTried) {
  const std::string text = ReadFile(PathOf(GetParam()));
  const std::regex condition("#ifn?def ([A-Z_]+)");
  std::set<std::string> macros;
  for (std::sregex_iterator at(text.begin(), text.end(), condition), end; at != end; ++at) {
    macros.insert((*at)[1].str());
  }
  EXPECT_EQ(macros, WrongOrders().at(GetParam()));
}

INSTANTIATE_TEST_SUITE_P(Model, Protocol, testing::ValuesIn(Models()), NameOfModel);

class WrongOrder : public ModelTest, public testing::WithParamInterface<Wrong> {};

TEST_P(WrongOrder, IsFoundToBreakThePromise) {
  const auto& [model, macro] = GetParam();
  const std::string verdict = Verify(model, absl::StrCat("-D", macro), "-O0");
  EXPECT_NE(verdict.find("assertion violated"), std::string::npos) << verdict;
}

INSTANTIATE_TEST_SUITE_P(Model, WrongOrder, testing::ValuesIn(AllWrongOrders()), NameOfOrder);

}  // namespace
}  // namespace tdp
