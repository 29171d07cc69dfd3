// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This guest on the software CPU over the engine answers questions by accesses to its memory.

#ifndef TDP_TESTS_ORACLES_SLOT_MACHINE_H_
#define TDP_TESTS_ORACLES_SLOT_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/base/address.h"
#include "tdp/mmu/vm.h"
#include "tests/world/sim_world.h"

namespace tdp::oracles {

// Says where an access ended.
struct AccessAnswer {
  enum class Kind { kMemory, kMmio, kFault };

  Kind kind = Kind::kMemory;
  Gpa gpa{};                   // kMmio
  std::byte* place = nullptr;  // kMemory: the first byte, good for the rest of its page
};

class SlotMachine {
 public:
  // Host memory for slots lies at [kHostBase, kHostBase + kHostSize).
  static constexpr Hva kHostBase{0x100000000000};
  static constexpr ByteCount kHostSize = GiB(2);

  explicit SlotMachine(DirtyTracking tracking = DirtyTracking::kWriteProtection);

  // Goes on with a fresh VM over the same host memory.
  void Reset();

  Vm& vm() { return world_->vm(); }
  // Returns eight bytes of host memory.
  absl::StatusOr<uint64_t> Peek(Hva hva);
  absl::Status Poke(Hva hva, uint64_t value);

  // The guest runs without paging, or (with `cr3`) with 4-level paging at privilege 0, no-execute
  // on.
  void TurnPagingOff();
  void TurnPagingOn(uint64_t cr3, bool write_protect);

  // Makes one access as the guest makes it; its linear address is a physical one while paging is
  // off. Errors are those of the engine.
  absl::StatusOr<AccessAnswer> Access(uint64_t address, sim::AccessKind kind, unsigned size);

 private:
  const DirtyTracking tracking_;
  sim::HostMemory memory_;
  std::optional<SimWorld> world_;
};

}  // namespace tdp::oracles

#endif  // TDP_TESTS_ORACLES_SLOT_MACHINE_H_
