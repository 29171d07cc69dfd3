// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This machine runs out of memory as a test says, while one of the operations here is tried on it.

#ifndef TDP_TESTS_MODEL_STARVED_MACHINE_H_
#define TDP_TESTS_MODEL_STARVED_MACHINE_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gtest/gtest.h"
#include "tdp/mmu/vm.h"
#include "tests/world/host_world.h"

namespace tdp::model {

inline constexpr ByteCount kStarvedSize = MiB(16);
inline constexpr uint64_t kStarvedPages = kStarvedSize >> kPageShift;

// Is a guest of `kStarvedSize` in slot 0, whose memory is there, all zeros at first.
class StarvedMachine : private HostWorld {
 public:
  explicit StarvedMachine(const VmOptions& options, bool with_vcpu = true);
  // Checks that no block of tables is lost.
  ~StarvedMachine();

  static Hva ram();
  absl::Status SetSlot(uint32_t slot, uint32_t flags, Gpa gpa, ByteCount size);
  absl::Status SetRam(uint32_t flags = 0) { return SetSlot(0, flags, Gpa(0), kStarvedSize); }
  absl::Status Fault(uint64_t page, ExitQualification q = kWriteFault) {
    return vcpu->HandleEptViolation(Gfn(page).address(), q).status;
  }
  // Maps half the guest by 2 MiB pages, some of the rest by 4 KiB.
  void Fill();
  // Writes the guest's tables, or those of a hypervisor in it, which map frame n at page n by
  // `bits`.
  void WriteTables(uint64_t bits);
  absl::Status Take() {
    return vm->TakeDirtyLog(0, [](uint64_t, uint64_t) {});
  }
  // Lets vCPUs and views take the tables that are free, or nearly all; the machine's own vCPU,
  // which takes the place of another, has none in stock.
  void TakeFreeTables();
  size_t FreeTables() const;

  TestHost& host = host_;
  std::unique_ptr<Vm>& vm = vm_;
  std::unique_ptr<Vcpu>& vcpu = vcpu_;
  bool has_view = false;  // view 1

 private:
  std::vector<std::unique_ptr<Vcpu>> hoarders_;
};

inline absl::Status Settled(absl::StatusOr<PendingFlush> flush) {
  if (flush.ok()) flush->Settle();
  return flush.status();
}

// Names something that may fail for want of memory, and can be made again then.
struct StarvedOperation {
  const char* name;
  VmOptions options;
  std::function<void(StarvedMachine&)> prepare;
  std::function<absl::Status(StarvedMachine&)> run;
  bool with_vcpu = true;
};

const std::vector<StarvedOperation>& StarvedOperations();

}  // namespace tdp::model

#endif  // TDP_TESTS_MODEL_STARVED_MACHINE_H_
