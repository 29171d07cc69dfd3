// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Every command of docs/questions.md runs, on small inputs in the place of the large ones.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"

namespace tdp::tools {
namespace {

// Returns what stands between backticks, or in a code element, in the table's second column.
std::vector<std::string> CommandsOf(const std::string& page) {
  std::vector<std::string> commands;
  for (std::string line : std::vector<std::string>(absl::StrSplit(page, '\n'))) {
    if (!absl::StartsWith(line, "| ")) continue;
    const size_t cell = line.find(" | ");
    if (cell == std::string::npos) continue;
    line = absl::StrReplaceAll(
        line.substr(cell), {{"<code>", "`"}, {"</code>", "`"}, {"&#124;", "|"}, {"`\\|`", "|"}});
    const std::vector<std::string> parts = absl::StrSplit(line, '`');
    for (size_t i = 1; i < parts.size(); i += 2) {
      if (absl::StartsWith(parts[i], "tdp ")) commands.push_back(parts[i]);
    }
  }
  return commands;
}

std::string Absolute(const std::string& path) {
  char here[4096];
  return absl::StrCat(getcwd(here, sizeof(here)), "/", path);
}

TEST(Questions, EachCommandAnswersItsOwn) {
  std::vector<TraceRecord> records;
  for (uint64_t i = 0; i < 5000; ++i) {
    const auto kind = static_cast<AccessKind>(i % 4);
    records.push_back(TraceRecord::Make(Gva(0x400000 + i * 7919 % 400 * 4096), kind, 3));
  }
  const std::string trace = WriteFile("trace", Words(records));
  const std::string tdp = Absolute("tools/tdp");
  const std::string dump = Absolute("tests/tools/data/linux_tables.core.zst");
  std::string folder = WriteFile("folder", "");
  folder += ".d";
  ASSERT_EQ(mkdir(folder.c_str(), 0700), 0);
  const std::vector<std::string> commands = CommandsOf(ReadWholeFile("docs/questions.md"));
  EXPECT_GE(commands.size(), 15u);
  for (const std::string& command : commands) {
    // Short runs do, since the test asks only whether the command is one.
    std::vector<std::string> words = absl::StrSplit(command, ' ');
    for (size_t i = 0; i < words.size(); ++i) {
      std::string& word = words[i];
      if (word == "tdp") word = tdp;
      if (word == "SQLITE" || word == "XZ" || word == "gcc.PID.trc.zst") word = trace;
      if (word == "DUMP" || word == "IMAGE" || word == "BEFORE" || word == "AFTER") word = dump;
      if (i > 0 && words[i - 1] == "--interval") word = "1000";
      if (word == "compare") word = "compare --footprint 1m --accesses 20000 --ram 64m";
      if (word == "overcommit") word = "overcommit --accesses 20000";
    }
    std::string line = words[0];
    for (size_t i = 1; i < words.size(); ++i) absl::StrAppend(&line, " ", words[i]);
    const ProgramResult run = RunProgram(absl::StrCat("cd '", folder, "' && ", line));
    // A status of 1 says that there is something wrong with the words to decode, or nothing found.
    const bool finds = absl::StrContains(command, " decode ") ||
                       absl::StrContains(command, "grep") ||
                       absl::StrContains(command, "--find-roots");
    EXPECT_TRUE(run.status == 0 || (finds && run.status == 1))
        << command << ": " << run.status << " " << run.err;
  }
}

}  // namespace
}  // namespace tdp::tools
