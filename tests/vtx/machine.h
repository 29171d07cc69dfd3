// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Every test here needs these: a CPU in VMX operation, host memory, a `Vm` and a vCPU with a
// program.

#ifndef TDP_TESTS_VTX_MACHINE_H_
#define TDP_TESTS_VTX_MACHINE_H_

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/backends/vtx/vtx_backend.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/check.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/page_fault.h"
#include "tdp/mmu/vm.h"

namespace tdp::vtx {

// Returns the value, or ends the test with the status's words.
template <typename T>
T ValueOrDie(absl::StatusOr<T> value) {
  if (!value.ok()) internal::CheckFailed("test", 0, value.status().ToString());
  return *std::move(value);
}
void CheckOk(const absl::Status& status);

// Holds all of the host's memory in this process, and the CPU this runs on in VMX operation. It is
// made once.
struct Host {
  static Host& Get();

  FrameArena& arena;
  std::unique_ptr<VmxCpu> cpu;
};

// Is a backend whose host pages can be limited in size, and moved elsewhere as a host does that
// compacts its memory.
class TestBackend : public VtxBackend {
 public:
  TestBackend(FrameArena& arena, const Capabilities& capabilities)
      : VtxBackend(arena, capabilities) {}

  // Tells of no larger pieces of host memory than 2^order frames.
  void LimitOrder(int order) { max_order_ = order; }
  // Lets `from` resolve to `to` from now on. The caller invalidates.
  void Move(Hva from, Hfn to) { moved_[from.AlignDown(kPageSize)] = to; }
  // Lets the piece of memory around [start, start + 1 GiB) count as one, whether or not it is all
  // there.
  void Pretend1G(Hpa start) { pretended_ = start; }

  absl::StatusOr<HostPage> Resolve(Hva hva, Access access) override;
  void Kick(absl::Span<const VcpuId> vcpus) override;
  // Leaves the other CPUs alone, to see what comes of it.
  void ForgetKicks(bool forget) { forget_kicks_ = forget; }
  int kicks() const { return kicks_.load(); }

 private:
  int max_order_ = 18;
  std::map<Hva, Hfn> moved_;
  Hpa pretended_{~uint64_t{0}};
  std::atomic<bool> forget_kicks_ = false;
  std::atomic<int> kicks_ = 0;
};

// Is an exit that the engine was asked about, and what it said.
struct SeenFault {
  ExitReason reason;
  Gpa gpa;
  ExitQualification qualification;
  FaultOutcome outcome;
};

struct MachineOptions {
  VmOptions vm;
  VtxVcpuOptions vcpu;
  ByteCount ram = MiB(8);  // slot 0, from gpa 0
  // These bits are taken out of the CPU's capabilities.
  uint64_t without_ept_capabilities = 0;
  int max_order = 0;  // of host pages: 4 KiB unless a test wants more
};

// Is a vCPU of a `Vm` on one CPU, used by the thread that made it.
class GuestCpu {
 public:
  GuestCpu(Vm& vm, TestBackend& backend, VmxCpu& cpu, const VtxVcpuOptions& options);
  ~GuestCpu();

  GuestCpu(const GuestCpu&) = delete;
  GuestCpu& operator=(const GuestCpu&) = delete;

  // Runs until an exit that is not the engine's: faults that it answers are noted in `faults` and
  // the guest goes on. A fault that is MMIO ends it too.
  VmExit Run();
  // Makes one entry, and asks the engine if the exit is for it.
  VmExit Step();

  GuestRegisters& registers() { return vcpu_->registers(); }
  VtxVcpu& vcpu() { return *vcpu_; }
  Vcpu& mmu() { return *mmu_; }
  std::vector<SeenFault>& faults() { return faults_; }
  // Returns how many faults were at the frame of `gpa`.
  int64_t FaultsAt(Gpa gpa) const;

 private:
  FaultResult Answer(const VmExit& exit);

  TestBackend& backend_;
  const bool drains_pml_;
  std::unique_ptr<Vcpu> mmu_;
  std::unique_ptr<VtxVcpu> vcpu_;
  std::vector<SeenFault> faults_;
};

// Is one guest, with a vCPU on the CPU of `Host`.
class Machine {
 public:
  explicit Machine(const MachineOptions& options = {});
  ~Machine();

  // Programs go to `kCode`, and their stack ends at `kStack`.
  static constexpr Gpa kCode{0x1000};
  static constexpr uint64_t kStack = 0x8000;
  // Page tables built by `IdentityMap…` begin here.
  static constexpr Gpa kTables{0x100000};
  // `Start64` maps so much to itself.
  static constexpr ByteCount kLinear = MiB(16);

  // Reaches guest memory of slot 0, through the host.
  template <typename T>
  T& At(Gpa gpa) {
    return *reinterpret_cast<T*>(ram_ + gpa.raw());
  }
  Hva HvaOf(Gpa gpa) const { return Hva(reinterpret_cast<uint64_t>(ram_) + gpa.raw()); }
  void Copy(absl::Span<const uint8_t> bytes, Gpa to);

  // Adds another slot with memory of its own, zeroed. Returns where that is.
  uint8_t* AddSlot(uint32_t slot, Gpa gpa, ByteCount bytes, uint32_t flags);

  // Makes 4-level tables that map the low `bytes` to themselves in pages of 4 KiB or 2 MiB. Returns
  // the root.
  Gpa IdentityMap64(ByteCount bytes, bool large);
  // Make such tables for PAE and for 32-bit two-level paging, in pages of 4 KiB.
  Gpa IdentityMapPae(ByteCount bytes);
  Gpa IdentityMap32(ByteCount bytes);

  // Loads `program` and makes the guest start there, in 64-bit mode on identity tables.
  void Start64(absl::Span<const uint8_t> program, bool large_guest_pages = true);
  void Start(absl::Span<const uint8_t> program, const GuestState& state);

  VmExit Run() { return guest_->Run(); }
  VmExit Step() { return guest_->Step(); }
  GuestRegisters& registers() { return guest_->registers(); }
  VtxVcpu& vcpu() { return guest_->vcpu(); }
  Vcpu& mmu() { return guest_->mmu(); }
  std::vector<SeenFault>& faults() { return guest_->faults(); }
  int64_t FaultsAt(Gpa gpa) const { return guest_->FaultsAt(gpa); }

  Vm& vm() { return *vm_; }
  TestBackend& backend() { return *backend_; }
  const VtxVcpuOptions& vcpu_options() const { return vcpu_options_; }

 private:
  FrameArena& arena_;
  const VtxVcpuOptions vcpu_options_;
  std::unique_ptr<TestBackend> backend_;
  ByteCount ram_bytes_;
  uint8_t* ram_ = nullptr;
  std::vector<std::pair<Hpa, ByteCount>> more_memory_;
  std::unique_ptr<Vm> vm_;
  std::unique_ptr<GuestCpu> guest_;
};

// Is another vCPU of a machine, in 64-bit mode on its identity tables, on another CPU: it runs
// until it halts or meets MMIO. The machine's own vCPU has called `Start64`.
class OtherCpu {
 public:
  OtherCpu(Machine& machine, Gpa code, const GuestRegisters& registers);
  // Waits for the end.
  ~OtherCpu() { Join(); }
  void Join();
  bool is_done() const { return done_; }

  // Call these after `Join`.
  const VmExit& exit() const { return exit_; }
  const GuestRegisters& registers() const { return registers_; }
  const std::vector<SeenFault>& faults() const { return faults_; }

 private:
  void Run(Machine& machine, Gpa code);

  GuestRegisters registers_;
  VmExit exit_;
  std::vector<SeenFault> faults_;
  std::atomic<bool> done_ = false;
  std::thread thread_;
};

}  // namespace tdp::vtx

#endif  // TDP_TESTS_VTX_MACHINE_H_
