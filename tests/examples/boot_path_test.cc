// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The example of embedding on bare metal stays short enough to be read.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "gtest/gtest.h"

namespace tdp {
namespace {

std::string Contents(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// The test is given the files of //examples/linux:boot_path, and no others of that folder.
TEST(BootPath, HasAtMost900LinesAndThePageNamesEachOfItsFiles) {
  const std::string page = Contents("docs/linux.md");
  std::ptrdiff_t files = 0, lines = 0;
  for (const auto& entry : std::filesystem::directory_iterator("examples/linux")) {
    const std::string text = Contents(entry.path());
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
