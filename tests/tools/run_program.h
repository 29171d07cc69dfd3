// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Runs a program as a user would.

#ifndef TDP_TESTS_TOOLS_RUN_PROGRAM_H_
#define TDP_TESTS_TOOLS_RUN_PROGRAM_H_

#include <sys/wait.h>

#include <cstdlib>
#include <string>

#include "gtest/gtest.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {

struct ProgramResult {
  int status = -1;  // exit status; -1 if it did not exit by itself
  std::string out;
  std::string err;
};

// Runs `command` with a shell. Standard input is empty unless the command redirects it.
inline ProgramResult RunProgram(const std::string& command) {
  const std::string out = WriteFile("stdout", "");
  const std::string err = WriteFile("stderr", "");
  const int status =
      std::system(("</dev/null " + command + " >'" + out + "' 2>'" + err + "'").c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, ReadWholeFile(out), ReadWholeFile(err)};
}

}  // namespace tdp::tools

#endif  // TDP_TESTS_TOOLS_RUN_PROGRAM_H_
