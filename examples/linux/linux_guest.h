// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Linux: its memory, its CPUs, and what was counted meanwhile.

#ifndef TDP_EXAMPLES_LINUX_LINUX_GUEST_H_
#define TDP_EXAMPLES_LINUX_LINUX_GUEST_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/stop_gate.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/examples/linux/host.h"
#include "tdp/examples/linux/linux_cpu.h"
#include "tdp/examples/linux/linux_image.h"
#include "tdp/examples/linux/other_cpus.h"
#include "tdp/examples/linux/run_report.h"
#include "tdp/examples/linux/scenario.h"
#include "tdp/mmu/vm.h"

namespace tdp::linux_example {

// The slot's memory and what maps it: what a migration replaces.
struct GuestMemory {
  Hva ram;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> mmu;
};

struct GuestOptions {
  ByteCount ram = MiB(128);
  uint64_t hz = 100000000;    // of the time-stamp counter
  uint64_t period = 0;        // ticks of the guest between `OnTimer`s; 0: none
  uint64_t limit = 0;         // ticks after which the next period gives Linux up; 0: none
  uint64_t ring_entries = 0;  // of a dirty ring in place of the bitmap; 0: none
  int cpus = 1;               // more than one with EPT alone; they share the machine's local APICs
  bool pml = false;
  bool is_32_bit = false;  // the kernel begins in flat 32-bit mode, without paging
  bool drop_pml = false;   // sabotage: every other buffer of the CPU's log is thrown away
  VmOptions vm;
};

class LinuxGuest {
 public:
  static absl::StatusOr<std::unique_ptr<LinuxGuest>> Create(Host& host, vtx::VmxCpu& cpu,
                                                            const GuestOptions& options);

  absl::Status Load(const LinuxImage& image);
  // Until Linux ends, by a reset or for the worse: OK if its init said "INIT: done".
  absl::Status Run(Scenario& scenario);

  // Makes memory for another guest like this one, empty, with a `Vm` and one slot over it.
  absl::StatusOr<GuestMemory> MakeMemory() const;
  // Runs on `memory` from now on; what it ran on before. Outside the guest.
  absl::StatusOr<GuestMemory> Adopt(GuestMemory memory);

  Vm& vm() { return *memory_.vm; }
  Host& host() { return host_; }
  Hva ram() const { return memory_.ram; }
  const GuestOptions& options() const { return options_; }
  MemoryRegion Region(uint32_t flags) const { return RegionAt(memory_.ram, flags); }
  // Returns Linux's first CPU, the only one where `GuestOptions::cpus` is 1.
  LinuxCpu& cpu() { return *cpu_; }
  Vcpu& mmu() { return *memory_.mmu; }
  // Copies what Linux has at `gpa`, within a page; false if it has no memory there.
  bool Read(Gpa gpa, absl::Span<uint8_t> to) const;

  // Another thread keeps Linux's CPUs out of the guest from the return of `Stop` to `Go`.
  void Stop();
  void Go() { gate_.Open(); }
  vtx::StopGate& gate() { return gate_; }
  // One of Linux's CPUs has sent another one, by the id of its local APIC, an INIT.
  void Init(uint32_t to) { others_->Init(to); }
  // Every CPU stops at its next exit; whoever calls sees to it that there is one.
  void End() { has_ended_.store(true, std::memory_order_seq_cst); }
  bool has_ended() const { return has_ended_.load(std::memory_order_seq_cst); }

  // Linux has written a line to its console, whose beginning was `unfinished_line`.
  void OnLine(const std::string& line, Scenario& scenario);
  std::string& unfinished_line() { return unfinished_line_; }
  // A line of the host's, beside Linux's.
  void Say(const std::string& text) const;
  RunReport& report() { return report_; }
  void PrintTable() const;

 private:
  LinuxGuest(Host& host, const GuestOptions& options)
      : host_(host), options_(options), gate_(static_cast<size_t>(options.cpus)) {}

  MemoryRegion RegionAt(Hva ram, uint32_t flags) const;
  absl::Status Shutdown() const;

  Host& host_;
  const GuestOptions options_;
  GuestMemory memory_;
  std::unique_ptr<LinuxCpu> cpu_;
  std::unique_ptr<OtherCpus> others_;  // while Linux runs
  vtx::StopGate gate_;
  std::atomic<bool> has_ended_ = false;
  std::atomic<bool> init_is_done_ = false;
  std::atomic<bool> is_broken_ = false;  // the kernel has complained
  std::string unfinished_line_;
  RunReport report_;
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_LINUX_GUEST_H_
