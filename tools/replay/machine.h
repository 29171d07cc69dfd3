// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The machine that a trace is replayed on: host memory, a PC's memory map as slots of a `Vm`, the
// guest kernel, CPUs that run it, and between it and the `Vm` perhaps a hypervisor in the guest.

#ifndef TDP_TOOLS_REPLAY_MACHINE_H_
#define TDP_TOOLS_REPLAY_MACHINE_H_

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/host_memory.h"
#include "tdp/backends/sim/mmu_config.h"
#include "tdp/backends/sim/registers.h"
#include "tdp/backends/sim/sim_backend.h"
#include "tdp/base/address.h"
#include "tdp/mmu/shadow/nested_vcpu.h"
#include "tdp/mmu/vcpu.h"
#include "tdp/mmu/vm.h"
#include "tdp/tools/guest/guest_hypervisor.h"
#include "tdp/tools/guest/guest_kernel.h"
#include "tdp/tools/guest/memory_map.h"
#include "tdp/tools/replay/replay_options.h"

namespace tdp::tools {

class Machine {
 public:
  // InvalidArgument for options that do not go together; ResourceExhausted.
  static absl::StatusOr<std::unique_ptr<Machine>> Create(const ReplayOptions& options);
  ~Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  const ReplayOptions& options() const { return options_; }
  const MemoryMap& map() const { return map_; }
  GuestKernel& kernel() { return *kernel_; }
  sim::HostMemory& host() { return *host_; }
  // Returns whether the CPUs walk an EPT.
  bool uses_ept() const { return options_.paging == Paging::kEpt || is_nested(); }
  bool is_shadowed() const { return options_.paging == Paging::kShadow; }
  // Returns whether the program's kernel is the guest of a hypervisor in the guest. Guest addresses
  // here are those of this kernel (L2's) then.
  bool is_nested() const { return options_.paging == Paging::kNested; }
  // Returns the VM; there is none natively.
  Vm& vm() { return *vm_; }

  int cpus() const { return backend_->cpus(); }
  sim::Cpu& cpu(int index) { return backend_->cpu(static_cast<VcpuId>(index)); }
  // Returns the vCPU; there is none natively.
  Vcpu& vcpu(int index) { return *vcpus_[index]; }
  // Gives CPU `index` the registers that the shadow wants; its vCPU has just entered the guest.
  void LoadShadowRegisters(int index);

  // Nested only.
  GuestHypervisor& hypervisor() { return *hypervisor_; }
  // CPU `index` runs L2 from its next entry on, as the hypervisor wants it. Nested only; the errors
  // are those of `NestedVcpu::Enter`.
  absl::Status EnterL2(int index);
  // The hypervisor executes single-context INVEPT on CPU `index`, as it has to after it took
  // something away; it runs L2 again afterwards. Whether the instruction succeeded. Nested only.
  absl::StatusOr<bool> Invept(int index);
  // The page at `gfn` of the memory in which the hypervisor keeps its tables. Nested only.
  absl::StatusOr<std::byte*> HypervisorPage(Gfn gfn);

  // Returns the MMU of a real part that times the accesses; null if there is none.
  const sim::MmuConfig* mmu() const { return mmu_.has_value() ? &*mmu_ : nullptr; }

  // The slots of RAM log written pages from now on. Under `Paging::kEpt`.
  absl::Status LogDirtyPages();
  // Those slots by number, with their first guest address.
  const std::vector<std::pair<uint32_t, Gpa>>& logged_slots() const { return logged_slots_; }
  // Returns where the host keeps the page of guest RAM at `gfn`.
  absl::StatusOr<std::byte*> PageOf(Gfn gfn) { return GuestPage(gfn); }
  // Calls `pager` before the guest's kernel touches the page at a frame, and before a violation
  // there is answered: a host that keeps the page elsewhere brings it back then.
  void SetPager(std::function<absl::Status(Gfn gfn)> pager) { pager_ = std::move(pager); }
  bool has_pager() const { return pager_ != nullptr; }
  absl::Status PageIn(Gfn gfn) { return pager_ == nullptr ? absl::OkStatus() : pager_(gfn); }

  // Returns the registers of the program in `space`: user mode, on the guest kernel's tables.
  sim::Registers ProgramRegisters(size_t space = 0) const;
  // The guest's kernel loads CR3 of CPU `index` for the program in `space`; with `keep` what is
  // cached under its PCID stays. False without PCIDs: nothing could.
  absl::StatusOr<bool> SwitchSpace(int index, size_t space, bool keep);

  // Returns where the slots put `gpa` in host virtual memory. NotFound if no slot holds it. Not
  // natively.
  absl::StatusOr<Hva> HvaBySlots(Gpa gpa) const;
  // Returns where the slots put `gpa`: the host's page for the slot's address, brought in if need
  // be. NotFound if no slot holds it. Natively the address itself.
  absl::StatusOr<Hpa> HpaBySlots(Gpa gpa);

 private:
  Machine(const ReplayOptions& options, const MemoryMap& map);

  absl::Status MakeBackend();
  absl::Status MapGuestMemory();
  absl::Status MakeVm();
  absl::Status Prefault();
  absl::Status SetSlots();
  absl::Status MakeHypervisor();
  absl::Status MakeKernel();
  absl::Status StartCpus();
  // Returns where the slots put the region's byte at `gpa` in host virtual memory.
  static Hva HvaOf(const MapRegion& region, Gpa gpa);
  NestedContext ContextOfL2() const;
  absl::StatusOr<std::byte*> GuestPage(Gfn gfn);

  const ReplayOptions options_;
  const MemoryMap map_;
  std::optional<sim::MmuConfig> mmu_;
  std::vector<std::pair<uint32_t, Gpa>> logged_slots_;
  std::unique_ptr<sim::HostMemory> host_;
  std::unique_ptr<sim::SimBackend> backend_;
  std::unique_ptr<Vm> vm_;                       // null natively
  std::unique_ptr<GuestHypervisor> hypervisor_;  // null if not nested
  std::function<absl::Status(Gfn)> pager_;
  std::unique_ptr<GuestKernel> kernel_;
  std::vector<std::unique_ptr<Vcpu>> vcpus_;  // none natively; vCPU n runs on CPU n
};

}  // namespace tdp::tools

#endif  // TDP_TOOLS_REPLAY_MACHINE_H_
