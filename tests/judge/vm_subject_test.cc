// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// These tests judge this library's own tables as anybody's.

#include <gtest/gtest.h>

#include <algorithm>
#include <cctype>
#include <string>
#include <vector>

#include "tests/judge/judged_host.h"
#include "tests/judge/vm_subjects.h"

namespace tdp::judge_test {
namespace {

class VmSubject : public testing::TestWithParam<tdpj_subject> {};

int RunJudge(std::vector<std::string> words) {
  std::vector<char*> line;
  for (std::string& word : words) line.push_back(word.data());
  return tdpj_main(static_cast<int>(line.size()), line.data());
}

TEST_P(VmSubject, IsCleanBeforeTheJudge) {
  ChooseSubject(GetParam());
  EXPECT_EQ(RunJudge({"judge", "--operations", "3000", "--seconds", "3000"}), 0);
}

TEST_P(VmSubject, IsCleanBetweenAnyTwoOfItsStores) {
  ChooseSubject(GetParam());
  EXPECT_EQ(RunJudge({"judge", "--step", "--operations", "10", "--seconds", "3000"}), 0);
}

TEST_P(VmSubject, IsFoundWhereItsHostForgetsFlushes) {
  ChooseSubject(GetParam());
  JudgedHost::SetForgetsFlushes(true);
  EXPECT_EQ(RunJudge({"judge", "--first", "--operations", "30000", "--seconds", "3000"}), 1);
  JudgedHost::SetForgetsFlushes(false);
}

std::string NameOf(const testing::TestParamInfo<tdpj_subject>& info) {
  std::string name = info.param.name;
  std::replace_if(
      name.begin(), name.end(), [](char c) { return std::isalnum(c) == 0; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, VmSubject, testing::ValuesIn(VmSubjects()), NameOf);

}  // namespace
}  // namespace tdp::judge_test
