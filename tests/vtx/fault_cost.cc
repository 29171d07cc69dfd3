// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This measures how many instructions an exit costs, by the emulator's clock: with one CPU its
// time-stamp counter counts instructions. A page is touched 512 times; the numbers are per touch.

#include <x86intrin.h>

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_format.h"
#include "tdp/tests/vtx/guest_programs.h"
#include "tdp/tests/vtx/hand_made_ept.h"
#include "tdp/tests/vtx/machine.h"

namespace tdp::vtx {
namespace {

constexpr Gpa kData{0x400000};
constexpr int kPages = 512;

struct Cost {
  uint64_t run = 0;      // from the call that enters to its return: the driver, and the guest
  uint64_t between = 0;  // what the hypervisor did with the exit
};

// Measures until `answer`, which handles the exit, is false; `run` enters the guest once.
Cost Measure(absl::FunctionRef<VmExit()> run, absl::FunctionRef<bool(const VmExit&)> answer) {
  Cost cost;
  for (;;) {
    const uint64_t start = __rdtsc();
    const VmExit exit = run();
    const uint64_t exited = __rdtsc();
    cost.run += exited - start;
    if (!answer(exit)) return cost;
    cost.between += __rdtsc() - exited;
  }
}

void Print(const char* what, const Cost& cost) {
  absl::PrintF("%-52s %6d %6d\n", what, cost.run / kPages, cost.between / kPages);
}

void StartWriting(Machine& machine) {
  machine.Start64(WritePagesProgram());
  machine.registers().rdi = kData.raw();
  machine.registers().rcx = kPages;
}

// Measures the whole of a hypervisor without an engine: one store to a table that is there already.
void MeasureStore() {
  Machine machine;
  HandMadeEpt ept(machine, MiB(8));
  const EptEntry leaf = ept.Get(kData);
  for (int i = 0; i < kPages; ++i) ept.Set(kData + i * kPageSize, EptEntry::Empty());
  StartWriting(machine);
  Print("one store to a table made by hand",
        Measure([&] { return ValueOrDie(machine.vcpu().Run(ept.eptp())); },
                [&](const VmExit& exit) {
                  const Gpa page = exit.gpa.AlignDown(kPageSize);
                  ept.Set(page, EptEntry(leaf.raw() + (page - kData)));
                  return exit.reason == ExitReason::kEptViolation;
                }));
}

VmExit Enter(Machine& machine) {
  GuestEntry entry = machine.mmu().EnterGuest();
  return ValueOrDie(machine.vcpu().Run(entry.eptp()));
}

bool Answer(Machine& machine, const VmExit& exit) {
  if (exit.reason != ExitReason::kEptViolation) return false;
  CheckOk(machine.mmu().HandleEptViolation(exit.gpa, exit.ept_qualification()).status);
  return true;
}

Cost MeasureEngine(Machine& machine) {
  StartWriting(machine);
  return Measure([&] { return Enter(machine); },
                 [&](const VmExit& exit) { return Answer(machine, exit); });
}

void MeasureFaults() {
  Machine machine;
  Print("the engine: a fault that installs a 4 KiB leaf", MeasureEngine(machine));
  ValueOrDie(machine.vm().ZapRange(Gfn::Of(kData), PageCount(kPages))).Settle();
  Print("the engine: the same again after a zap", MeasureEngine(machine));
  Print("no faults at all", MeasureEngine(machine));
}

void Main() {
  absl::PrintF("%-52s %6s %6s\n", "instructions per page touched", "run", "answer");
  MeasureStore();
  MeasureFaults();
}

}  // namespace
}  // namespace tdp::vtx

int main() { tdp::vtx::Main(); }
