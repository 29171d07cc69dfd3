// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

using ::testing::HasSubstr;

TEST(Hypervisor, RunsItsGuestOnTheBareMachineAndReadmeShowsWhatItSays) {
  const ProgramResult result = RunProgram("examples/hypervisor/hypervisor");
  EXPECT_EQ(result.status, 0) << result.out << result.err;
  EXPECT_THAT(result.out, HasSubstr("Hello from the guest."));
  EXPECT_THAT(ReadWholeFile("README.md"), HasSubstr("```text\n" + result.out + "```\n"));
}

}  // namespace
}  // namespace tdp::tools
