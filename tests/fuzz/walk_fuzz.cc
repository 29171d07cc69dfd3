// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Bytes become guest tables, registers and accesses: the engine's walkers must answer as the
// software CPU does. A crash prints the lines; feed them to tests/oracles:adapter.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_format.h"
#include "tests/fuzz/input_bytes.h"
#include "tests/oracles/engine_walk_protocol.h"
#include "tests/oracles/walk_protocol.h"

namespace tdp::oracles {
namespace {

using fuzz::InputBytes;

class Differ {
 public:
  void Tell(const std::string& line) {
    script_ += line + "\n";
    const auto engine = engine_.Answer(line);
    const auto sim = sim_.Answer(line);
    if (engine.ok() && sim.ok() && Shown(*engine) == Shown(*sim)) return;
    std::fprintf(stderr, "engine: %s\nsim: %s\nafter\n%s", engine.value_or("error").c_str(),
                 sim.value_or("error").c_str(), script_.c_str());
    std::abort();
  }

 private:
  // Returns the answer without the A and D flags that a walk sets before it faults: these are not
  // architectural.
  static std::string Shown(const std::string& answer) {
    return answer.starts_with("ok") ? answer : answer.substr(0, answer.find(" ad "));
  }

  EngineWalkProtocol engine_;
  WalkProtocol sim_;
  std::string script_;
};

void SetRegisters(InputBytes& bytes, Differ& differ) {
  using namespace guest;
  const auto flags = bytes.Take<uint16_t>();
  const auto if_set = [flags](int bit, uint64_t value) {
    return (flags >> bit & 1) != 0 ? value : 0;
  };
  const bool pae = (flags & 3) != 0;
  const bool wide = (flags & 2) != 0;
  uint64_t cr4 = if_set(2, kCr4PageSizeExtensions) | if_set(3, kCr4Smep) | if_set(4, kCr4Smap);
  if (pae) cr4 |= kCr4PhysicalAddressExtension;
  if (wide)
    cr4 |= if_set(0, kCr4FiveLevels) | if_set(5, kCr4UserKeys) | if_set(6, kCr4SupervisorKeys);
  differ.Tell("ept 0");
  differ.Tell(absl::StrFormat("cap1g %d", if_set(7, 1)));
  differ.Tell(absl::StrFormat("maxpa %d", if_set(8, 1) != 0 ? 36 : 52));
  differ.Tell(absl::StrFormat("ac %d", if_set(9, 1)));
  differ.Tell(absl::StrFormat("cr0 %x", 0x80000033 | if_set(10, kCr0WriteProtect)));
  differ.Tell(absl::StrFormat("efer %x", (wide ? 0x500 : 0) | if_set(11, kEferNoExecute)));
  differ.Tell(absl::StrFormat("cr4 %x", cr4));
  differ.Tell("cr3 1000");
  differ.Tell(absl::StrFormat("pkru %x", bytes.Take<uint32_t>()));
  differ.Tell(absl::StrFormat("pkrs %x", bytes.Take<uint32_t>()));
}

}  // namespace
}  // namespace tdp::oracles

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tdp::fuzz::InputBytes;
  InputBytes bytes(data, size < 2048 ? size : 2048);
  tdp::oracles::Differ differ;
  differ.Tell("reset");
  SetRegisters(bytes, differ);
  // These entries are in the first 8 frames, and their addresses lead there again.
  const int entries = bytes.Take<uint8_t>();
  for (int i = 0; i < entries; ++i) {
    const auto where = bytes.Take<uint16_t>();
    const auto entry = bytes.Take<uint64_t>();
    const uint64_t address = entry & ~tdp::guest::kAddressMask;
    differ.Tell(absl::StrFormat("mem %x %x", where & 0x7ff8u,
                                address | (entry & tdp::guest::kAddressMask & 0x7fff)));
  }
  differ.Tell("loadpdptr");
  while (!bytes.empty()) {
    const auto gva = bytes.Take<uint64_t>();
    const auto kind = bytes.Take<uint8_t>();
    differ.Tell(absl::StrFormat("lin %x %c %d", gva, "rwx"[kind % 3], kind / 3 % 2));
  }
  return 0;
}
