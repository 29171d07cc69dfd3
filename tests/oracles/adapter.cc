// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Speaks the protocols of the recorded oracles on stdin and stdout: `adapter walk`, `adapter
// slots`. Each line that asks for something is printed with " -> " and the library's answer.

#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "tests/oracles/protocols.h"

namespace tdp::oracles {
namespace {

struct Protocol {
  std::string_view name;
  int (*run)(std::istream& in, std::ostream& out);
};

constexpr Protocol kProtocols[] = {
    {"walk", RunWalkProtocol},
    {"slots", RunSlotsProtocol},
};

int Main(const std::vector<char*>& arguments) {
  std::string names;
  for (const Protocol& protocol : kProtocols) {
    if (arguments.size() == 2 && protocol.name == arguments[1]) {
      return protocol.run(std::cin, std::cout);
    }
    names += names.empty() ? "" : " | ";
    names += protocol.name;
  }
  std::cerr << "usage: adapter " << names << " [--walker=sim|engine] < lines\n";
  return 2;
}

}  // namespace
}  // namespace tdp::oracles

int main(int argc, char** argv) {
  absl::SetProgramUsageMessage("answers recorded questions with the library");
  const std::vector<char*> arguments = absl::ParseCommandLine(argc, argv);
  std::ios::sync_with_stdio(false);
  return tdp::oracles::Main(arguments);
}
