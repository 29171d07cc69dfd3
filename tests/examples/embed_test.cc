// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <algorithm>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;

TEST(Embed, RunsAGuestToItsEnd) {
  const ProgramResult result = RunProgram("examples/embed");
  EXPECT_EQ(result.status, 0) << result.err;
  EXPECT_EQ(result.out,
            "the guest wrote to the device at 0x20000000\n"
            "the engine answered 257 violations with 256 pages of 2 MiB\n");
}

TEST(Embed, ReadmeShowsItsLines) {
  const std::string source = ReadWholeFile("examples/embed.cc");
  const std::string marker = "  // [README]\n";
  const size_t begin = source.find(marker);
  ASSERT_NE(begin, std::string::npos);
  const size_t end = source.find(marker, begin + 1);
  ASSERT_NE(end, std::string::npos);
  const std::string lines = source.substr(begin + marker.size(), end - begin - marker.size());
  EXPECT_GT(std::count(lines.begin(), lines.end(), '\n'), 5);
  EXPECT_THAT(ReadWholeFile("README.md"), HasSubstr("```cpp\n" + lines + "```\n"));
}

}  // namespace
}  // namespace tdp::tools
