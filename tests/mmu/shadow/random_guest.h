// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// This guest does anything: it has random tables that map themselves, stores into them, and forgets
// flushes, while the host takes pages away. Whatever it does, an address that it has just
// invalidated must look on shadow tables as it does on EPT.

#ifndef TDP_TESTS_MMU_SHADOW_RANDOM_GUEST_H_
#define TDP_TESTS_MMU_SHADOW_RANDOM_GUEST_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "tests/mmu/shadow/shadow_machine.h"

namespace tdp::shadow_test {

struct RandomGuestOptions {
  VmOptions vm;  // but for paging and `shadow_page_quota`
  PagingMode mode = PagingMode::k4Level;
  int host_order = 0;
  bool smap_and_smep = true;
  size_t page_quota = 64;
  bool host_changes = true;
  // The machine that earlier guests have left, made as `RandomGuest::UsedAgain` says; null gives
  // the guest one of its own.
  SimMachine* machine = nullptr;
};

class RandomGuest {
 public:
  // Returns a number below its argument, which is not 0.
  using Choice = std::function<uint64_t(uint64_t)>;

  RandomGuest(const RandomGuestOptions& options, Choice choose);
  static SimMachineOptions UsedAgain();

  // Makes one operation of the guest or the host. Returns Internal, saying what, where the guest
  // saw something that it must not see.
  absl::Status Step();
  // Checks the tables; it may come after any number of steps.
  absl::Status Check() { return machine_.vm().CheckInvariants(); }

  Machine& machine() { return machine_; }
  // Return how many comparisons were made so far, and how many of those reached memory.
  int compared() const { return compared_; }
  int reached() const { return reached_; }

 private:
  static constexpr uint64_t kTables = 12;    // frames 1 to 12
  static constexpr uint64_t kFrames = 4096;  // of memory

  bool Chance(int percent) { return choose_(100) < static_cast<uint64_t>(percent); }
  uint64_t Sometimes(uint64_t bits, int percent) { return Chance(percent) ? bits : 0; }
  bool is_narrow() const { return options_.mode == PagingMode::k32Bit; }
  uint64_t entry_bytes() const { return is_narrow() ? 4 : 8; }
  uint64_t Index();
  uint64_t Entry();
  Gpa TableGpa() { return Gpa((1 + choose_(kTables)) << kPageShift); }
  Gva Address();
  Request AnyRequest();

  void FillTables();
  GuestCpu AnyCpu();
  absl::Status Compare(const Request& request, const char* after);
  void StoreThrough(const Request& request);
  void WriteTable();
  bool Flush();
  absl::Status HostStep();

  const RandomGuestOptions options_;
  Choice choose_;
  Machine machine_;
  bool logs_ = false;
  int compared_ = 0;
  int reached_ = 0;
};

}  // namespace tdp::shadow_test

#endif  // TDP_TESTS_MMU_SHADOW_RANDOM_GUEST_H_
