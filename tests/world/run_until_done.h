// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest runs so: it enters, does something, exits, has the exit answered, and enters again.

#ifndef TDP_TESTS_WORLD_RUN_UNTIL_DONE_H_
#define TDP_TESTS_WORLD_RUN_UNTIL_DONE_H_

#include "tdp/backends/sim/cpu.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vm.h"

namespace tdp {

inline constexpr int kMostExits = 100;
inline constexpr int kAnyNumberOfExits = 1 << 30;

// Loads the registers that a guest on shadow tables runs with. Under EPT the CPU keeps its own.
inline void LoadShadowRegisters(Vcpu& vcpu, sim::Cpu& cpu) {
  if (vcpu.shadow() == nullptr) return;
  const ShadowRegisters& load = vcpu.shadow()->registers();
  sim::Registers registers = cpu.registers();
  registers.cr0 = load.cr0;
  registers.cr3 = load.cr3;
  registers.cr4 = load.cr4;
  registers.efer = load.efer;
  registers.pdptes = load.pdptes;
  if (!(registers == cpu.registers())) cpu.SetRegisters(registers);
}

// Makes `attempt` in the guest until it returns `kNone`: it returns the event that ended it. An
// exit goes to `answer`, which says whether the guest is to run on; kicks are answered here. False
// if the guest would still run on after `most_exits` exits.
template <typename Attempt, typename Answer>
bool RunUntilDone(Vcpu& vcpu, sim::Cpu& cpu, Attempt attempt, Answer answer,
                  int most_exits = kMostExits) {
  for (int exits = 0; exits < most_exits;) {
    sim::Event event;
    {
      const GuestEntry entry = vcpu.EnterGuest();
      LoadShadowRegisters(vcpu, cpu);
      event = cpu.Enter(entry.eptp());
      if (event == sim::Event::kNone) event = attempt();
    }
    if (event == sim::Event::kNone) return true;
    if (event == sim::Event::kKick) continue;
    ++exits;
    if (!answer(cpu.exit())) return true;
  }
  return false;
}

// Lets the engine answer what EPT can exit for.
inline FaultResult AnswerEptExit(Vcpu& vcpu, const sim::Exit& exit) {
  return exit.event == sim::Event::kEptMisconfiguration
             ? vcpu.HandleEptMisconfiguration(exit.gpa)
             : vcpu.HandleEptViolation(exit.gpa, exit.qualification);
}

}  // namespace tdp

#endif  // TDP_TESTS_WORLD_RUN_UNTIL_DONE_H_
