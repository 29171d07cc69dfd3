// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Linux on one vCPU: its memory, its run loop, and what was counted meanwhile.

#ifndef TDP_EXAMPLES_LINUX_LINUX_GUEST_H_
#define TDP_EXAMPLES_LINUX_LINUX_GUEST_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/examples/linux/guest_policy.h"
#include "tdp/examples/linux/host.h"
#include "tdp/examples/linux/linux_image.h"
#include "tdp/examples/linux/run_report.h"
#include "tdp/examples/linux/shadow_paging.h"
#include "tdp/mmu/vm.h"

namespace tdp::linux_example {

class LinuxGuest;

// What the host does while Linux runs. Every call is made on the vCPU's CPU, outside the guest.
class Scenario {
 public:
  virtual ~Scenario() = default;
  // Linux is about to run for the first time.
  virtual absl::Status OnStart(LinuxGuest&) { return absl::OkStatus(); }
  // Linux has run for another period of `GuestOptions::period`.
  virtual absl::Status OnTimer(LinuxGuest&) { return absl::OkStatus(); }
  // Linux has written a line to its console.
  virtual void OnLine(const std::string& /*line*/) {}
  // The vCPU's dirty ring takes no more; empty it.
  virtual absl::Status OnRingFull(LinuxGuest&) { return absl::OkStatus(); }
  // Linux, at `rip`, wants more of a page than the view that it runs on allows.
  virtual absl::Status OnViewDenied(LinuxGuest&, const vtx::VmExit&, uint64_t /*rip*/) {
    return absl::InternalError("no view denies anything");
  }
  // Linux has come to its end; the host's own checks.
  virtual absl::Status OnEnd(LinuxGuest&) { return absl::OkStatus(); }
};

// The slot's memory and what maps it: what a migration replaces.
struct GuestMemory {
  Hva ram;
  std::unique_ptr<Vm> vm;
  std::unique_ptr<Vcpu> mmu;
};

// What a snapshot of the guest holds beside its memory.
struct CpuSnapshot {
  vtx::VtxVcpuState cpu;
  std::string console_line;  // the part of it that has been written
};

struct GuestOptions {
  ByteCount ram = MiB(128);
  uint64_t hz = 100000000;    // of the time-stamp counter
  uint64_t period = 0;        // ticks of the guest between `OnTimer`s; 0: none
  uint64_t limit = 0;         // ticks after which the next period gives Linux up; 0: none
  uint64_t ring_entries = 0;  // of a dirty ring in place of the bitmap; 0: none
  bool pml = false;
  bool is_32_bit = false;  // the kernel begins in flat 32-bit mode, without paging
  bool drop_pml = false;   // sabotage: every other buffer of the CPU's log is thrown away
  VmOptions vm;
};

class LinuxGuest {
 public:
  static absl::StatusOr<std::unique_ptr<LinuxGuest>> Create(Host& host, vtx::VmxCpu& cpu,
                                                            const GuestOptions& options);
  ~LinuxGuest();

  absl::Status Load(const LinuxImage& image);
  // Until Linux ends, by a reset or for the worse: OK if its init said "INIT: done".
  absl::Status Run(Scenario& scenario);

  // Memory for another guest like this one, empty, with a `Vm` and one slot over it.
  absl::StatusOr<GuestMemory> MakeMemory() const;
  // Runs on `memory` from now on; what it ran on before. Outside the guest.
  absl::StatusOr<GuestMemory> Adopt(GuestMemory memory);

  // Between two runs; with EPT alone.
  absl::StatusOr<CpuSnapshot> Save() const;
  absl::Status Restore(const CpuSnapshot& snapshot);

  Vm& vm() { return *memory_.vm; }
  Host& host() { return host_; }
  Hva ram() const { return memory_.ram; }
  const GuestOptions& options() const { return options_; }
  MemoryRegion Region(uint32_t flags) const { return RegionAt(memory_.ram, flags); }
  Vcpu& mmu() { return *memory_.mmu; }

  // Another thread keeps the vCPU out of the guest from the return of `Stop` to `Go`.
  void Stop();
  void Go();
  bool has_ended() const { return has_ended_.load(std::memory_order_acquire); }

  // A line of the host's, beside Linux's.
  void Say(const std::string& text) const;
  void PrintTable() const;

 private:
  LinuxGuest(Host& host, vtx::VmxCpu& cpu, const GuestOptions& options);

  bool Read(Gpa gpa, absl::Span<uint8_t> to) const;
  MemoryRegion RegionAt(Hva ram, uint32_t flags) const;

  absl::StatusOr<vtx::VmExit> EnterOnce();
  absl::Status Handle(const vtx::VmExit& exit, Scenario& scenario);
  absl::Status HandleMemory(const vtx::VmExit& exit, Scenario& scenario);
  absl::Status OnPeriod(Scenario& scenario);
  absl::Status Shutdown();
  void OnLine(const std::string& line, Scenario& scenario);
  void WaitWhileStopped();

  Host& host_;
  vtx::VmxCpu& cpu_;
  const GuestOptions options_;
  GuestMemory memory_;
  std::unique_ptr<vtx::VtxVcpu> vcpu_;
  std::unique_ptr<GuestPolicy> policy_;
  std::unique_ptr<ShadowPaging> shadow_;  // where EPT is off
  std::atomic<bool> stop_wanted_ = false;
  std::atomic<bool> is_stopped_ = false;
  std::atomic<bool> has_ended_ = false;
  bool init_is_done_ = false;
  bool is_broken_ = false;  // the kernel has complained
  uint64_t pml_buffers_ = 0;
  RunReport report_;
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_LINUX_GUEST_H_
