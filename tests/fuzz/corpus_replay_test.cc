// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This test gives each input that a fuzz target has learned (tests/fuzz/corpus/<target>) to it once
// more. The target reports a finding by aborting.

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "gtest/gtest.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace tdp {
namespace {

// The build says where the target's corpus lies.
constexpr char kCorpus[] = TDP_FUZZ_CORPUS;

TEST(FuzzCorpus, EveryInputIsAnsweredAsTheTargetsModelSays) {
  int inputs = 0;
  for (const auto& file : std::filesystem::directory_iterator(kCorpus)) {
    std::ifstream stream(file.path(), std::ios::binary);
    ASSERT_TRUE(stream) << file.path();
    const std::vector<char> bytes{std::istreambuf_iterator<char>(stream), {}};
    std::fprintf(stderr, "%s\n", file.path().filename().c_str());  // the last is what aborts
    EXPECT_EQ(0,
              LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
    ++inputs;
  }
  EXPECT_GE(inputs, 8) << "the corpus is not there";
}

}  // namespace
}  // namespace tdp
