// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <algorithm>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;

// Returns what stands in the source of a port between its two markers.
std::string CodeOf(const std::string& port) {
  const std::string source = ReadWholeFile("tests/embedding/" + port + "_test.cc");
  std::string marker = "// [" + port + "]\n";
  std::replace(marker.begin(), marker.end(), '_', ' ');
  const size_t begin = source.find(marker);
  const size_t end = source.find(marker, begin + 1);
  if (begin == std::string::npos || end == std::string::npos) return "";
  return source.substr(begin + marker.size(), end - begin - marker.size());
}

TEST(EmbeddingPage, ShowsTheCodeThatIsTested) {
  const std::string page = ReadWholeFile("docs/embedding.md");
  for (const char* port :
       {"slots_and_faults", "identity_and_hooks", "delegation", "static_partition", "regions"}) {
    const std::string code = CodeOf(port);
    EXPECT_GT(std::count(code.begin(), code.end(), '\n'), 10) << port;
    EXPECT_THAT(page, HasSubstr("```cpp\n" + code + "```\n")) << port;
  }
}

}  // namespace
}  // namespace tdp::tools
