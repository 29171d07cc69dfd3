// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/options.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tdp::tools {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

enum class Fruit { kApple, kPear };

struct Values {
  bool quick = false;
  std::string name = "none";
  uint64_t count = 3;
  double share = 0.5;
  ByteCount ram = MiB(16);
  Fruit fruit = Fruit::kApple;
  std::string log;
};

OptionParser MakeParser(Values* values) {
  OptionParser parser;
  parser.AddSwitch("quick", "do it quickly", &values->quick);
  parser.AddString("name", "what to call it", &values->name);
  parser.AddInteger("count", "how many", &values->count, 1, 10);
  parser.AddNumber("share", "how much of it", &values->share, 0, 1);
  parser.AddSize("ram", "how large", &values->ram);
  parser.AddChoice("fruit", "which", &values->fruit,
                   {{"apple", Fruit::kApple}, {"pear", Fruit::kPear}});
  parser.AddAlias("sort", "fruit");
  parser.AddString("log", "say what is done", &values->log, "FILE");
  parser.AllowBare("-", [](std::string_view text) { return text.ends_with(".log"); });
  return parser;
}

absl::StatusOr<std::vector<std::string>> Parse(const std::vector<std::string_view>& arguments,
                                               Values* values) {
  return MakeParser(values).Parse(arguments);
}

std::string ErrorOf(const std::vector<std::string_view>& arguments) {
  Values values;
  const auto rest = Parse(arguments, &values);
  return rest.ok() ? "no error" : std::string(rest.status().message());
}

TEST(OptionParser, SetsEachKindOfOptionAndReturnsTheRest) {
  Values values;
  const auto rest = Parse({"in", "--quick", "--name", "x y", "--count=10", "--share", "0.25",
                           "--ram=3g", "--fruit=pear", "out"},
                          &values);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_THAT(*rest, ElementsAre("in", "out"));
  EXPECT_TRUE(values.quick);
  EXPECT_EQ(values.name, "x y");
  EXPECT_EQ(values.count, 10u);
  EXPECT_EQ(values.share, 0.25);
  EXPECT_EQ(values.ram, GiB(3));
  EXPECT_EQ(values.fruit, Fruit::kPear);
}

TEST(OptionParser, AValueThatMayBeLeftOutIsTakenBehindABlankOnlyIfItFits) {
  struct Case {
    std::vector<std::string_view> arguments;
    std::string log;
    std::vector<std::string> rest;
  };
  const std::vector<Case> cases = {
      {{"--log"}, "-", {}},
      {{"--log", "in"}, "-", {"in"}},
      {{"in", "--log", "out.log"}, "out.log", {"in"}},
      {{"--log=out", "in"}, "out", {"in"}},
      {{"--log", "--quick"}, "-", {}},
      {{"--log", "--", "out.log"}, "-", {"out.log"}},
  };
  for (const Case& c : cases) {
    Values values;
    EXPECT_EQ(Parse(c.arguments, &values).value(), c.rest) << c.arguments.back();
    EXPECT_EQ(values.log, c.log) << c.arguments.back();
  }
  EXPECT_THAT(ErrorOf({"--log="}), HasSubstr("--log \"\": must not be empty"));
}

TEST(OptionParser, AnOptionAnswersToItsOldNameWhichTheHelpDoesNotShow) {
  Values values;
  EXPECT_TRUE(Parse({"--sort", "pear"}, &values).ok());
  EXPECT_EQ(values.fruit, Fruit::kPear);
  EXPECT_EQ(MakeParser(&values).Help().find("sort"), std::string::npos);
}

TEST(OptionParser, NothingGivenLeavesTheDefaults) {
  Values values;
  EXPECT_THAT(Parse({}, &values).value(), ElementsAre());
  EXPECT_EQ(values.count, 3u);
  EXPECT_EQ(values.ram, MiB(16));
}

TEST(OptionParser, ALoneDashIsAnArgumentAndTwoEndTheOptions) {
  Values values;
  EXPECT_THAT(Parse({"-", "--", "--quick"}, &values).value(), ElementsAre("-", "--quick"));
  EXPECT_FALSE(values.quick);
}

TEST(OptionParser, AnUnknownOptionIsNamed) {
  EXPECT_THAT(ErrorOf({"--speed", "3"}), HasSubstr("--speed"));
  EXPECT_THAT(ErrorOf({"--"}), HasSubstr("no error"));
  EXPECT_THAT(ErrorOf({"--=3"}), HasSubstr("there is no option"));
}

TEST(OptionParser, AMissingOrSurplusValueIsAnError) {
  EXPECT_THAT(ErrorOf({"--count"}), HasSubstr("--count needs a value"));
  EXPECT_THAT(ErrorOf({"--quick=yes"}), HasSubstr("--quick takes no value"));
}

TEST(OptionParser, ABadValueIsNamedWithItsOptionAndItsRange) {
  for (const char* bad : {"0", "11", "-1", "+1", "1.5", "x", "", " 1", "18446744073709551617"}) {
    EXPECT_THAT(ErrorOf({"--count", bad}),
                AllOf(HasSubstr("--count"), HasSubstr(bad), HasSubstr("from 1 to 10")));
  }
  for (const char* bad : {"-0.1", "1.1", "nan", "half", ""}) {
    EXPECT_THAT(ErrorOf({"--share", bad}), AllOf(HasSubstr("--share"), HasSubstr("from 0 to 1")));
  }
  for (const char* bad : {"", "g", "1x", "-1g", "1.5g", "99999999999t", "1 g"}) {
    EXPECT_THAT(ErrorOf({"--ram", bad}), AllOf(HasSubstr("--ram"), HasSubstr("number of bytes")));
  }
  EXPECT_THAT(ErrorOf({"--fruit", "plum"}), AllOf(HasSubstr("--fruit"), HasSubstr("apple|pear")));
}

TEST(OptionParser, AnErrorIsOneLineWhateverTheArgumentHolds) {
  EXPECT_EQ(ErrorOf({"--a\nb\033[2J"}).find_first_of("\n\033"), std::string::npos);
  EXPECT_EQ(ErrorOf({"--count", "3\n4"}).find('\n'), std::string::npos);
}

TEST(OptionParser, TheHelpShowsEachOptionWithItsDefault) {
  Values values;
  const std::string help = MakeParser(&values).Help();
  EXPECT_THAT(help, HasSubstr("--quick "));
  EXPECT_THAT(help, HasSubstr("--count N "));
  EXPECT_THAT(help, HasSubstr("--log[=FILE] "));
  EXPECT_THAT(help, HasSubstr("how many (3)"));
  EXPECT_THAT(help, HasSubstr("how large (16m)"));
  EXPECT_THAT(help, HasSubstr("--fruit apple|pear "));
  EXPECT_THAT(help, HasSubstr("which (apple)"));
}

}  // namespace
}  // namespace tdp::tools
