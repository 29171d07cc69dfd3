// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A guest kernel runs on this machine: it has CPUs with their privileged instructions, memory that
// the guest reaches through its own page tables, and a host that does things behind its back. The
// guest must see the same under EPT and under shadow paging, as the tests show.

#ifndef TDP_TESTS_KERNEL_GUEST_MACHINE_H_
#define TDP_TESTS_KERNEL_GUEST_MACHINE_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/world/sim_world.h"

namespace tdp::kernel {

// Guest memory is [0, `kGuestBytes`).
inline constexpr ByteCount kGuestBytes = MiB(32);

// Is one access to a naturally aligned word.
struct MachineAccess {
  uint64_t gva = 0;
  sim::AccessKind kind = sim::AccessKind::kLoad;
  bool user = false;       // at CPL 3, else at CPL 0
  bool alignment = false;  // RFLAGS.AC
  unsigned bytes = 8;      // 4 or 8
  uint64_t value = 0;      // of a store
};

// Says what the guest sees of it.
struct AccessOutcome {
  bool page_fault = false;
  uint32_t error_code = 0;  // of the page fault
  uint64_t value = 0;       // that was loaded or fetched

  friend bool operator==(const AccessOutcome&, const AccessOutcome&) = default;
};

// Names what a machine does wrong on purpose, to show that the model finds it.
enum class Mistake : uint8_t {
  kNone,
  kIgnoresInvlpg,
  kIgnoresInvpcid,
  kKeepsOnCr3,      // MOV to CR3 drops nothing
  kForgetsFlushes,  // the engine's flushes never reach the CPUs
};

struct MachineOptions {
  int cpus = 2;
  Mistake mistake = Mistake::kNone;
  VmOptions vm;
  int host_order = 9;  // of the host's pages
};

// Is such a machine. Its errors are the host's: the guest could not have caused them.
class GuestMachine : public SimWorld {
 public:
  explicit GuestMachine(const MachineOptions& options);
  virtual ~GuestMachine() = default;

  int cpus() const { return options_.cpus; }

  // --- before the guest runs: its loader ---
  void Poke(Gpa gpa, unsigned bytes, uint64_t value);
  virtual absl::Status Start(int cpu, const sim::Registers& registers) = 0;

  // --- the guest's instructions ---
  virtual absl::StatusOr<AccessOutcome> Access(int cpu, const MachineAccess& access) = 0;
  virtual absl::Status WriteCr0(int cpu, uint64_t value) = 0;
  virtual absl::Status WriteCr3(int cpu, uint64_t value) = 0;
  virtual absl::Status WriteCr4(int cpu, uint64_t value) = 0;
  virtual absl::Status Invlpg(int cpu, uint64_t gva) = 0;
  virtual absl::Status Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva) = 0;

  // --- the world around it ---
  // Returns what stands in guest memory, without any effect.
  uint64_t Peek(Gpa gpa, unsigned bytes);
  // Does something as the host that the guest must not notice: takes pages away, moves them, starts
  // or stops looking for writes. `what` and `where` are any numbers.
  absl::Status Disturb(unsigned what, uint64_t where);

 protected:
  bool Makes(Mistake mistake) const { return options_.mistake == mistake; }
  // Makes the access on CPU `cpu`, which is in the guest, and stores or loads at the place.
  sim::AccessResult Try(int cpu, const MachineAccess& access, AccessOutcome& outcome);
  // Sets RFLAGS.AC for the next access.
  void SetAlignment(int cpu, bool alignment);

 private:
  const MachineOptions options_;
  bool is_logging_ = false;
};

std::unique_ptr<GuestMachine> MakeEptMachine(const MachineOptions& options);
std::unique_ptr<GuestMachine> MakeShadowMachine(const MachineOptions& options);

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_GUEST_MACHINE_H_
