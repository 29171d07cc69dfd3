// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The referee stands between a guest kernel and its machine and judges every answer by what the
// architecture allows: the value of a load, the place of a store, the error code of a page fault,
// the A and D flags in the tables.

#ifndef TDP_TESTS_KERNEL_REFEREE_H_
#define TDP_TESTS_KERNEL_REFEREE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tdp/backends/sim/registers.h"
#include "tests/kernel/flat_memory.h"
#include "tests/kernel/guest_machine.h"
#include "tests/kernel/paging_shape.h"
#include "tests/kernel/translation_history.h"

namespace tdp::kernel {

// Makes the guest's accesses, until the first foul: then it says what that was and makes no further
// one.
class Referee {
 public:
  Referee(GuestMachine& machine, const PagingShape& shape);

  const PagingShape& shape() const { return shape_; }
  int cpus() const { return machine_.cpus(); }
  const absl::Status& status() const { return status_; }
  bool ok() const { return status_.ok(); }

  // --- the loader ---
  void Poke(uint64_t gpa, uint64_t value);
  void SetTable(uint64_t gpa, bool is_table) { memory_.SetTable(gpa, is_table); }
  bool IsTable(uint64_t gpa) const { return memory_.IsTable(gpa); }
  void Start(int cpu, const sim::Registers& registers);

  // --- the guest's instructions ---
  // Makes the access. A word has the size of an entry unless `access.bytes` says otherwise.
  AccessOutcome Access(int cpu, const MachineAccess& access);
  void WriteCr0(int cpu, uint64_t value);
  void WriteCr3(int cpu, uint64_t value);
  void WriteCr4(int cpu, uint64_t value);
  void Invlpg(int cpu, uint64_t gva);
  void Invpcid(int cpu, int type, uint16_t pcid, uint64_t gva);
  const sim::Registers& registers(int cpu) const { return At(cpu).registers; }

  // --- the host's ---
  void Disturb(unsigned what, uint64_t where) { Take(machine_.Disturb(what, where)); }

  // Takes what the guest itself found wrong.
  void Blame(const char* what) { Take(absl::InternalError(what)); }

  // Compares all of memory, and asks the machine's own check.
  void CheckAll();

  // Return how many accesses were judged, and how many of them had more than one legal answer.
  uint64_t accesses() const { return accesses_; }
  uint64_t ambiguous() const { return ambiguous_; }
  // Returns how many answers only a stale translation explains.
  uint64_t stale() const { return stale_; }

 private:
  struct CpuState {
    sim::Registers registers;
    TranslationHistory history;
  };
  // Says what one legal walk makes of an access.
  struct Option {
    LegalWalk walk;
    bool page_fault = false;
    uint32_t error_code = 0;
    uint64_t gpa = 0;
  };

  CpuState& At(int cpu) { return cpus_[static_cast<size_t>(cpu)]; }
  const CpuState& At(int cpu) const { return cpus_[static_cast<size_t>(cpu)]; }
  Time Tick() { return ++clock_; }
  void Take(const absl::Status& status);
  bool Globals(const CpuState& cpu) const { return (cpu.registers.cr4 & sim::kCr4Pge) != 0; }
  AccessRules RulesOf(const CpuState& cpu, const MachineAccess& access) const;
  Option OptionOf(const LegalWalk& walk, const AccessRules& rules, uint64_t gva) const;
  std::vector<Option> OptionsOf(const CpuState& cpu, const MachineAccess& access);
  bool Explains(const Option& option, const MachineAccess& access, const AccessOutcome& outcome);
  void Foul(int cpu, const MachineAccess& access, const AccessOutcome& outcome,
            const std::vector<Option>& options);
  void NoteWriteThrough(const std::vector<Option>& options);
  void CheckFlags(const CpuState& cpu, const MachineAccess& access, const Option& option);
  void CheckFlag(uint64_t entry, uint64_t flag, uint64_t gva);
  void LoadRoot(CpuState& cpu, Time now);
  void KillAll(CpuState& cpu, Time now);
  void CheckFrame(uint64_t frame);

  GuestMachine& machine_;
  const PagingShape shape_;
  FlatMemory memory_;
  std::vector<CpuState> cpus_;
  Time clock_ = 0;
  absl::Status status_;
  uint64_t accesses_ = 0;
  uint64_t ambiguous_ = 0;
  uint64_t stale_ = 0;
};

}  // namespace tdp::kernel

#endif  // TDP_TESTS_KERNEL_REFEREE_H_
