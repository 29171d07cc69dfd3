// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Tests run the `tdp` program with arguments, and ask how it refuses them.

#ifndef TDP_TESTS_TOOLS_TDP_PROGRAM_H_
#define TDP_TESTS_TOOLS_TDP_PROGRAM_H_

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {

inline ProgramResult Tdp(const std::string& arguments) {
  return RunProgram("tools/tdp " + arguments);
}

// Expects a refusal of bad input: status 2, one line on standard error, nothing on standard output.
inline void ExpectRefusal(const ProgramResult& result, const std::string& message) {
  EXPECT_EQ(result.status, 2);
  EXPECT_EQ(result.out, "");
  EXPECT_THAT(result.err, testing::HasSubstr(message));
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  EXPECT_TRUE(result.err.ends_with('\n'));
}

inline std::string Quoted(const std::string& path) { return "'" + path + "'"; }

// Returns a program of `pages` pages, each touched by a store, a load and a fetch.
inline std::string SmallTrace(int pages) {
  std::vector<TraceRecord> records;
  for (int i = 0; i < pages; ++i) {
    const Gva gva(0x400000 + uint64_t{0x1000} * i);
    records.push_back(TraceRecord::Make(gva, AccessKind::kStore, 3));
    records.push_back(TraceRecord::Make(gva + 8, AccessKind::kLoad, 2));
    records.push_back(TraceRecord::Make(gva + 64, AccessKind::kFetch, 1));
  }
  return WriteFile("small.trc.zst", Zstd(Words(records)));
}

}  // namespace tdp::tools

#endif  // TDP_TESTS_TOOLS_TDP_PROGRAM_H_
