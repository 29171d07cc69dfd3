// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The software CPU has the machine of these tests once more: the same slot, the same guest state,
// the same engine.

#ifndef TDP_TESTS_VTX_SIM_GUEST_H_
#define TDP_TESTS_VTX_SIM_GUEST_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/base/address.h"
#include "tdp/tests/vtx/machine.h"
#include "tests/world/sim_world.h"

namespace tdp::vtx {

// Is a guest whose instructions are calls.
class SimGuest : public SimWorld {
 public:
  // Makes a CPU with the powers of `capabilities`.
  SimGuest(const MachineOptions& options, const Capabilities& capabilities);

  // Begins with a copy of the first `bytes` of `machine`'s memory, and in `state`.
  void CopyMemory(Machine& machine, ByteCount bytes);
  void SetState(const GuestState& state);

  // Make one access of an instruction, again and again until the engine has made it possible.
  // Return false if it has said that it is MMIO.
  bool Fetch(Gva rip) { return Access(rip, sim::AccessKind::kFetch, 1, nullptr); }
  bool Load(Gva gva) { return Access(gva, sim::AccessKind::kLoad, 8, nullptr); }
  bool Store(Gva gva, uint64_t value) { return Access(gva, sim::AccessKind::kStore, 8, &value); }
  bool Store32(Gva gva, uint32_t value);
  // Executes MOV to CR4, to CR3, and to CR0 with PG set, fetched from `rip`.
  void TurnPagingOn(Gva rip, uint64_t cr4, uint64_t cr3);

  Hva HvaOf(Gpa gpa) const { return kRam + gpa.raw(); }
  const std::vector<SeenFault>& faults() const { return faults_; }
  // Returns a page of the guest's memory.
  const void* PageAt(Gpa gpa) { return ValueOrDie(memory().AtHva(HvaOf(gpa))); }

 private:
  // Tries `attempt`, an access or instruction, until it ends without an exit.
  bool Repeat(absl::FunctionRef<sim::Event()> attempt);
  bool Access(Gva gva, sim::AccessKind kind, unsigned size, const void* bytes);
  std::vector<SeenFault> faults_;
};

}  // namespace tdp::vtx

#endif  // TDP_TESTS_VTX_SIM_GUEST_H_
