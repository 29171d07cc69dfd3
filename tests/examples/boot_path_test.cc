// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The example of embedding on bare metal stays short enough to be read.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <string>

#include "gtest/gtest.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp {
namespace {

// The test is given the files of //examples/linux:boot_path, and no others of that folder.
TEST(BootPath, HasAtMost900LinesAndThePageNamesEachOfItsFiles) {
  const std::string page = tools::ReadWholeFile("docs/linux.md");
  std::ptrdiff_t files = 0, lines = 0;
  for (const auto& entry : std::filesystem::directory_iterator("examples/linux")) {
    const std::string text = tools::ReadWholeFile(entry.path().string());
    ++files;
    lines += std::count(text.begin(), text.end(), '\n');
    EXPECT_NE(page.find("`" + entry.path().stem().string()), std::string::npos) << entry.path();
  }
  EXPECT_GE(files, 8);
  EXPECT_LE(lines, 900);
  RecordProperty("lines", static_cast<int>(lines));
}

}  // namespace
}  // namespace tdp
