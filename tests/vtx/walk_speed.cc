// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This program makes the emulator translate: a guest on 4 KiB pages over a 4 KiB EPT reads the 4096
// pages of its linear memory in turn, so that its direct-mapped TLB of 2048 entries misses every
// time and walks 24 entries; or, for comparison, one page as often. The emulator's clock counts
// instructions, so the time is taken outside, by time_walks.py, as the difference of two runs.
//
//   walk_speed ROUNDS STRIDE      ROUNDS × 4096 loads, STRIDE bytes apart

#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

void Read(Machine& machine, uint64_t rounds, uint64_t stride) {
  machine.Start64(ReadRoundsProgram(), /*large_guest_pages=*/false);
  machine.registers().rdi = 0;
  machine.registers().rsi = stride;
  machine.registers().rcx = Machine::kLinear / kPageSize;
  machine.registers().rdx = rounds;
  const VmExit exit = machine.Run();
  TDP_CHECK(exit.reason == ExitReason::kHlt);
}

int Main(int argc, char** argv) {
  uint64_t rounds;
  uint64_t stride;
  if (argc != 3 || !absl::SimpleAtoi(argv[1], &rounds) || rounds == 0 ||
      !absl::SimpleAtoi(argv[2], &stride) || stride > kPageSize) {
    absl::PrintF("usage: walk_speed ROUNDS STRIDE\n");
    return 2;
  }
  Machine machine({.ram = Machine::kLinear});
  Read(machine, 1, kPageSize);  // maps every page
  Read(machine, rounds, stride);
  return 0;
}

}  // namespace
}  // namespace tdp::vtx

int main(int argc, char** argv) { return tdp::vtx::Main(argc, argv); }
