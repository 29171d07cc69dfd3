// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The `tdp` command: a table of subcommands, each in a file of its own.

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tdp/base/version.h"
#include "tdp/tools/command.h"
#include "tdp/tools/compare_command.h"
#include "tdp/tools/completion_command.h"
#include "tdp/tools/decode_command.h"
#include "tdp/tools/demo_command.h"
#include "tdp/tools/hugepages_command.h"
#include "tdp/tools/map_command.h"
#include "tdp/tools/migrate_command.h"
#include "tdp/tools/overcommit_command.h"
#include "tdp/tools/pack_command.h"
#include "tdp/tools/printable_text.h"
#include "tdp/tools/regions_command.h"
#include "tdp/tools/replay_command.h"
#include "tdp/tools/report_command.h"
#include "tdp/tools/sweep_command.h"
#include "tdp/tools/walk_command.h"
#include "tdp/tools/wss_command.h"

namespace tdp::tools {
namespace {

constexpr Command kCommands[] = {
    {"demo", "replay the bundled trace natively and under EPT, side by side", RunDemo},
    {"replay", "replay a recorded program through two dimensions of paging", RunReplay},
    {"sweep", "replay with every combination of many options, for CSV and JSON", RunSweep},
    {"compare", "native, EPT and shadow side by side, with good and bad locality", RunCompare},
    {"migrate", "migrate the guest of a trace: rounds, downtime, exits", RunMigrate},
    {"wss", "the working set that A bits show, beside the true one", RunWss},
    {"overcommit", "a guest whose host swaps its pages", RunOvercommit},
    {"hugepages", "splitting and collapsing large pages, interval by interval", RunHugepages},
    {"pack", "turn a text trace into the compressed binary format", RunPack},
    {"regions", "show what a machine's tree of memory regions comes to", RunRegions},
    {"report", "make one page of HTML of replays and sweeps", RunReport},
    {"decode", "say in words what words of EPT, paging and VMX mean, and what is wrong", RunDecode},
    {"walk", "walk page tables in a memory image, each reference shown", RunWalk},
    {"map", "show what page tables in a memory image map, and find EPT roots", RunMap},
    {"completion", "print what lets a shell complete all this", RunCompletion},
};

std::string Usage() {
  std::string usage =
      "usage: tdp COMMAND [OPTION...] [ARGUMENT...]\n\n"
      "Two-dimensional paging on a software CPU. The commands:\n";
  for (const Command& command : kCommands) {
    absl::StrAppend(&usage, absl::StrFormat("  %-10s  %s\n", command.name, command.summary));
  }
  absl::StrAppend(&usage,
                  "\n`tdp COMMAND --help` lists a command's options, `tdp --version` says which "
                  "tdp this is.\n");
  return usage;
}

const Command* FindCommand(std::string_view name) {
  for (const Command& command : kCommands) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

int Run(absl::Span<const std::string_view> arguments) {
  if (arguments.empty()) {
    std::fputs(Usage().c_str(), stderr);
    return kExitUsage;
  }
  const std::string_view name = arguments[0];
  if (name == "help" || name == "--help" || name == "-h") {
    std::fputs(Usage().c_str(), stdout);
    return kExitOk;
  }
  const bool asks_a_command = arguments.size() == 2 && arguments[1] == "--version";
  if (name == "--version" || (asks_a_command && FindCommand(name) != nullptr)) {
    absl::PrintF("tdp %d.%d.%d\n", TDP_VERSION_MAJOR, TDP_VERSION_MINOR, TDP_VERSION_PATCH);
    return kExitOk;
  }
  const Command* command = FindCommand(name);
  if (command == nullptr) {
    absl::FPrintF(stderr, "tdp: there is no command \"%s\"; `tdp help` lists them\n",
                  absl::CHexEscape(name));
    return kExitUsage;
  }
  const absl::StatusOr<int> status = command->run(arguments.subspan(1));
  if (status.ok()) return *status;
  absl::FPrintF(stderr, "tdp %s: %s\n", name, Printable(status.status().message()));
  return kExitUsage;
}

// Takes the descriptors of standard input, output and error where a caller has closed them: a file
// that is opened later would get the number, and what belongs on standard output would go into it.
// Each stays one that cannot be used.
void HoldStandardDescriptors() {
  for (const int number : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(number, F_GETFD) >= 0) continue;
    // The lowest free number is the one that `open` gives.
    static_cast<void>(open("/dev/null", number == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  }
}

// `status`, unless standard output could not be written: a report that did not arrive is no
// success. What has failed already has said why.
int CheckOutput(int status) {
  if (status == kExitUsage) return status;
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return status;
  absl::FPrintF(stderr, "tdp: cannot write to standard output: %s\n", std::strerror(errno));
  return kExitUsage;
}

}  // namespace
}  // namespace tdp::tools

int main(int argc, char** argv) {
  tdp::tools::HoldStandardDescriptors();
  const std::vector<std::string_view> arguments(argv + 1, argv + argc);
  return tdp::tools::CheckOutput(tdp::tools::Run(arguments));
}
