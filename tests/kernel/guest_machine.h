// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// What a guest kernel has under it: CPUs with their privileged instructions, and memory that it
// reaches through its own page tables. Under EPT and under shadow paging this looks the same; that
// it does is what the tests show.

#ifndef TDP_TESTS_KERNEL_GUEST_MACHINE_H_
#define TDP_TESTS_KERNEL_GUEST_MACHINE_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/sim/guest_rights.h"
#include "tdp/backends/sim/registers.h"
#include "tdp/base/address.h"

namespace tdp::kernel {

// Guest memory is [0, `kGuestBytes`).
inline constexpr ByteCount kGuestBytes = MiB(32);

// One access to a naturally aligned word.
struct MachineAccess {
  uint64_t gva = 0;
  sim::AccessKind kind = sim::AccessKind::kLoad;
  bool user = false;       // at CPL 3, else at CPL 0
  bool alignment = false;  // RFLAGS.AC
  unsigned bytes = 8;      // 4 or 8
  uint64_t value = 0;      // of a store
};

// What the guest sees of it.
struct AccessOutcome {
  bool page_fault = false;
  uint32_t error_code = 0;  // of the page fault
  uint64_t value = 0;       // that was loaded or fetched

  friend bool operator==(const AccessOutcome&, const AccessOutcome&) = default;
};

// Errors are the host's: what the guest could not have caused.
class GuestMachine {
 public:
  virtual ~GuestMachine() = default;

  virtual int cpus() const = 0;

  // --- before the guest runs: its loader ---
  virtual void Poke(Gpa gpa, unsigned bytes, uint64_t value) = 0;
  virtual absl::Status Start(int cpu, const sim::Registers& registers) = 0;

  // --- the guest's instructions ---
  virtual absl::StatusOr<AccessOutcome> Access(int cpu, const MachineAccess& access) = 0;
  virtual absl::Status WriteCr0(int cpu, uint64_t value) = 0;
  virtual absl::Status WriteCr3(int cpu, uint64_t value) = 0;
  virtual absl::Status WriteCr4(int cpu, uint64_t value) = 0;
  virtual absl::Status Invlpg(int cpu, uint64_t gva) = 0;
  virtual absl::Status Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) = 0;

  // --- the world around it ---
  // What stands in guest memory, without any effect.
  virtual uint64_t Peek(Gpa gpa, unsigned bytes) = 0;
  // The host does something that the guest must not notice: takes pages away, moves them, starts or
  // stops looking for writes. `what` and `where` are any numbers.
  virtual absl::Status Disturb(unsigned what, uint64_t where) = 0;
  // What the engine says of itself.
  virtual absl::Status Check() = 0;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_GUEST_MACHINE_H_
