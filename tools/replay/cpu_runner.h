// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A hypervisor's run loop for one vCPU.

#ifndef TDP_TOOLS_REPLAY_CPU_RUNNER_H_
#define TDP_TOOLS_REPLAY_CPU_RUNNER_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/exit.h"
#include "tdp/backends/sim/mmu_model.h"
#include "tdp/tools/replay/machine.h"
#include "tdp/tools/replay/nested_counts.h"
#include "tdp/tools/replay/process_counts.h"
#include "tdp/tools/replay/shadow_counts.h"
#include "tdp/tools/replay/violation_counts.h"
#include "tdp/tools/trace/physical_trace.h"
#include "tdp/tools/trace/trace_record.h"

namespace tdp::tools {

// Used by one thread at a time; runners of different CPUs run at the same time.
class CpuRunner {
 public:
  CpuRunner(Machine& machine, int cpu);

  // Makes the accesses one by one; what the tables lack is added on the way, by the guest kernel or
  // by the engine. ResourceExhausted without guest or host memory; Internal if an access gets
  // nowhere.
  absl::Status Run(absl::Span<const TraceRecord> records);

  const ViolationCounts& violations() const { return violations_; }
  uint64_t page_faults() const { return page_faults_; }
  const ShadowCounts& shadow_exits() const { return shadow_exits_; }
  const NestedCounts& nested_exits() const { return nested_exits_; }
  // Returns the machine's MMU for this CPU; null if there is none.
  const sim::MmuModel* mmu() const { return mmu_.get(); }
  // With such an MMU: its walks by number of the 4 KiB page, while `CountPages` is on.
  const absl::flat_hash_map<uint64_t, uint64_t>& page_walks() const { return page_walks_; }
  void CountPages(bool on) { counts_pages_ = on; }
  // Forgets what was counted so far, by the CPU and the MMU as well.
  void ClearCounts();

  // Does what a migration needs, from now on: each store leaves another number at its place, so
  // that a copy can be told from what it was made of; the kernel's own writes are marked, as a
  // device's are;
  // `on_full_ring` is called when the CPU's dirty ring is nearly full, outside of the guest.
  void BeginMigration(std::function<absl::Status()> on_full_ring) {
    on_full_ring_ = std::move(on_full_ring);
  }
  // Answers every page fault of the guest in place of its kernel, from now on; null: the kernel
  // does. Under EPT, for one program.
  void SetGuestPager(std::function<absl::Status(Gva gva)> pager) {
    guest_pager_ = std::move(pager);
  }
  // Every access of the program is written there from now on; null: nowhere.
  void RecordPhysical(PhysicalTrace* trace) { physical_ = trace; }

  // Exits for a full page-modification log or a full ring.
  uint64_t full_log_exits() const { return full_log_exits_; }

  // The guest's kernel maps the page of `gva` in the current space if it is not mapped.
  absl::Status MapInGuest(Gva gva);

  // --- processes ---

  // The program in this address space runs from now on; without processes it is always that of
  // space 0.
  absl::Status SwitchTo(size_t space);
  size_t space() const { return space_; }
  // Does what `SwitchTo` does, for what is asked after a replay: the kernel does nothing, nothing
  // is counted.
  void UseSpace(size_t space) { space_ = space; }
  // Drops the page of `gva` of the current space, as its INVLPG on this CPU does.
  absl::Status InvalidatePage(Gva gva);
  // Calls `shootdown` whenever the kernel has taken a page of the current space away here, and this
  // CPU has dropped it.
  void OnTakenAway(std::function<absl::Status(Gva gva)> shootdown) {
    shootdown_ = std::move(shootdown);
  }
  // Returns whether the CPU may hold translations of `space` that it runs no more: those it has to
  // drop when it comes back to it, after `DropLater`.
  bool MayHold(size_t space) const { return space < held_.size() && held_[space]; }
  void DropLater(size_t space) { held_[space] = false; }
  ProcessCounts& process_counts() { return process_counts_; }
  const ProcessCounts& process_counts() const { return process_counts_; }

 private:
  // Does the same without a change of tables.
  absl::Status RunStretch(absl::Span<const TraceRecord> records);
  // Lets the guest's kernel take a page away.
  absl::Status Churn();
  // Runs until the first VM exit; the accesses done.
  absl::StatusOr<size_t> RunGuest(absl::Span<const TraceRecord> records);
  // Does the same, already in the guest. Page faults are handled in there, unless a pager might
  // have to wait for the vCPU to leave it.
  absl::StatusOr<size_t> RunUntilExit(absl::Span<const TraceRecord> records);
  // Makes the kernel's accesses that are due. False if one ended in an event.
  absl::StatusOr<bool> MakeKernelAccesses();
  // Makes accesses until an event; the accesses done.
  absl::StatusOr<size_t> MakeAccesses(absl::Span<const TraceRecord> records);
  absl::StatusOr<size_t> MakeTimedAccesses(absl::Span<const TraceRecord> records);
  // The MMU follows what happened to the CPU's translations and registers.
  void FollowCpu();
  absl::Status Disagree(Gva gva, Hpa cpu, uint64_t mmu) const;
  // Hands the CPU's page-modification log to the engine, before the entry ends.
  absl::Status DrainPml();
  absl::Status MarkKernelWrites(absl::Span<const Gpa> entries);
  absl::Status HandleExit();
  absl::Status AnswerPageFault();
  absl::Status AnswerShadowFault();
  absl::Status AnswerNested();
  absl::Status AnswerViolation(Gpa gpa, ExitQualification qualification);
  absl::Status MapAround(Gpa gpa, ExitQualification qualification);
  absl::Status Stuck() const;

  Machine& machine_;
  const int index_;
  sim::Cpu& cpu_;
  const uint64_t churn_;
  uint64_t until_churn_;
  std::mt19937_64 random_;
  std::vector<Gpa> written_;  // table entries, by the kernel
  ViolationCounts violations_;
  ShadowCounts shadow_exits_;
  NestedCounts nested_exits_;
  uint64_t page_faults_ = 0;
  int events_without_progress_ = 0;
  std::unique_ptr<sim::MmuModel> mmu_;
  uint64_t seen_invalidations_ = 0;             // of the CPU, that `mmu_` has followed
  std::function<absl::Status()> on_full_ring_;  // set while memory is migrated
  uint64_t stores_ = 0;                         // made then
  uint64_t full_log_exits_ = 0;
  static constexpr size_t kNoSpace = ~size_t{0};  // before the first process
  size_t space_;
  std::vector<bool> held_;  // by space: the CPU has not dropped its translations since it ran
  std::function<absl::Status(Gva)> shootdown_;
  std::function<absl::Status(Gva)> guest_pager_;
  uint64_t kernel_due_ = 0;  // accesses of the kernel
  ProcessCounts process_counts_;
  PhysicalTrace* physical_ = nullptr;
  bool counts_pages_ = false;
  absl::flat_hash_map<uint64_t, uint64_t> page_walks_;
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_CPU_RUNNER_H_
