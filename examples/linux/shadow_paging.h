// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Does what a hypervisor does where EPT is off: the guest's control registers and flushes go to the
// engine, which makes the tables that the CPU walks, and the guest's writes to page tables are
// carried out in its place. docs/shadow.md has the engine's side.

#ifndef TDP_EXAMPLES_LINUX_SHADOW_PAGING_H_
#define TDP_EXAMPLES_LINUX_SHADOW_PAGING_H_

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/backends/vtx/vmx_capabilities.h"
#include "tdp/backends/vtx/vtx_vcpu.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/shadow/paging_fault.h"
#include "tdp/mmu/shadow/shadow_vcpu.h"
#include "tdp/mmu/vcpu.h"

namespace tdp::linux_example {

class ShadowPaging {
 public:
  // Reads guest memory within a page; false if there is none.
  using ReadMemory = std::function<bool(Gpa gpa, absl::Span<uint8_t> to)>;

  // `options` without EPT, and with every exit that this class answers.
  static vtx::VtxVcpuOptions Options(vtx::VtxVcpuOptions options);

  // `vcpu` was made with `Options` and is loaded.
  static absl::StatusOr<std::unique_ptr<ShadowPaging>> Create(vtx::FrameArena& arena,
                                                              const vtx::VmxMsrs& msrs,
                                                              vtx::VtxVcpu& vcpu, ReadMemory read);

  // Starts the guest in `state` on `mmu`, which is of a `Vm` with `Paging::kShadow`.
  absl::Status Start(const vtx::GuestState& state, Vcpu& mmu);
  // It goes on as it is on another one.
  absl::Status Adopt(Vcpu& mmu);
  // Before each entry, after `Vcpu::EnterGuest`: the registers that the tables need.
  absl::Status Enter();
  // Answers an exit that concerns paging; false for others.
  absl::StatusOr<bool> Handle(const vtx::VmExit& exit);

 private:
  ShadowPaging(const vtx::VmxMsrs& msrs, vtx::VtxVcpu& vcpu, ReadMemory read, uint64_t* pdptes,
               Hpa pdptes_at);

  ShadowVcpu& shadow() { return *mmu_->shadow(); }
  absl::StatusOr<GuestControls> Controls();
  absl::Status SetPaging(const GuestControls& controls);
  absl::Status WriteShadows();

  absl::Status OnControlRegister(const vtx::VmExit& exit);
  absl::Status MoveToRegister(const vtx::VmExit& exit, int number, uint64_t value);
  absl::StatusOr<bool> OnMsr(const vtx::VmExit& exit);
  absl::Status OnInvpcid(const vtx::VmExit& exit);
  absl::Status OnPageFault(const vtx::VmExit& exit);
  absl::Status EmulateWrite(const vtx::VmExit& exit, Gpa gpa);
  absl::Status GiveUpTable(Gpa gpa, const absl::Status& why);

  absl::Status Finish(const vtx::VmExit& exit, GuestEvent event = GuestEvent::kNone);
  absl::StatusOr<uint64_t> RegisterOf(int number);
  absl::StatusOr<int> Privilege();
  absl::StatusOr<size_t> Fetch(Gva gva, absl::Span<uint8_t> to);
  absl::StatusOr<bool> Read(Gva gva, GuestAccess access, absl::Span<uint8_t> to);

  const vtx::VmxMsrs& msrs_;
  vtx::VtxVcpu& vcpu_;
  const ReadMemory read_;
  uint64_t* const pdptes_;  // where the hardware finds those of a guest without 64-bit paging
  const Hpa pdptes_at_;
  Vcpu* mmu_ = nullptr;
  std::optional<ShadowRegisters> loaded_;  // what the VMCS has
  uint64_t pat_;                           // the guest's, which counts for nothing
  Gpa given_up_;                           // the table that was given up last,
  int times_given_up_ = 0;                 // and how often in a row
};

}  // namespace tdp::linux_example

#endif  // TDP_EXAMPLES_LINUX_SHADOW_PAGING_H_
