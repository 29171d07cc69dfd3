// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Every command of docs/questions.md runs, on small inputs in the place of the large ones.

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"
#include "tdp/base/address.h"
#include "tdp/tests/tools/run_program.h"
#include "tdp/tests/tools/trace_files.h"
#include "tdp/tools/trace/byte_source.h"

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

// Where the byte at a physical address stands in an ELF core of 64 bits.
size_t OffsetOf(const std::string& core, uint64_t physical) {
  Elf64_Ehdr header;
  std::memcpy(&header, core.data(), sizeof(header));
  for (size_t i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr part;
    std::memcpy(&part, core.data() + header.e_phoff + i * header.e_phentsize, sizeof(part));
    if (part.p_type != PT_LOAD || physical < part.p_paddr) continue;
    if (physical - part.p_paddr < part.p_filesz) return part.p_offset + physical - part.p_paddr;
  }
  ADD_FAILURE() << "no byte " << physical;
  return 0;
}

// The guest's Linux, before and after four entries of its tables were written.
TEST(Questions, TheDifferenceOfTwoDumpsIsWhatHappenedBetweenThem) {
  const std::string before = "tests/tools/data/linux_tables.core.zst";
  const auto source = OpenByteSource(before);
  ASSERT_TRUE(source.ok()) << source.status();
  std::string core = ReadAll(**source).value();
  constexpr uint64_t kTable = 0x299b000;      // of the 2 MiB from 0x400000 on
  constexpr uint64_t kDirectory = 0x29b4000;  // the table above it
  const std::pair<uint64_t, uint64_t> writes[] = {
      {kTable, 0},                       // unmapped
      {kTable + 8, 0x80000000096ae027},  // writable, no longer executable
      {kTable + 16, 0x1234025},          // another frame
      {kDirectory + 24, 0x400000e7}};    // a page of 2 MiB that was not there
  for (const auto& [entry, value] : writes) {
    std::memcpy(&core[OffsetOf(core, entry)], &value, sizeof(value));
  }
  const std::string after = WriteFile("after.core", core);
  const ProgramResult run =
      RunProgram(absl::StrCat("tools/tdp map --diff ", before, " '", after, "'"));
  EXPECT_EQ(run.status, 1) << run.err;
  EXPECT_EQ(run.out,
            "- 0x000000400000-0x000000400fff -> 0x0000096af000  4k x 1  r--u\n"
            "- 0x000000401000-0x000000401fff -> 0x0000096ae000  4k x 1  r-xu\n"
            "+ 0x000000401000-0x000000401fff -> 0x0000096ae000  4k x 1  rw-u\n"
            "- 0x000000402000-0x000000402fff -> 0x0000096ad000  4k x 1  r-xu\n"
            "+ 0x000000402000-0x000000402fff -> 0x000001234000  4k x 1  r-xu\n"
            "+ 0x000000600000-0x0000007fffff -> 0x000040000000  2m x 1  rwxu\n"
            "4 differences\n");
}

}  // namespace
}  // namespace tdp::tools
