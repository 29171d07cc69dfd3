// SPDX-License-Identifier: Apache-2.0
//
// A virtual CPU on VT-x: its VMCS, its registers, and the way into the guest and out again.

#ifndef TDP_BACKENDS_VTX_VTX_VCPU_H_
#define TDP_BACKENDS_VTX_VTX_VCPU_H_

#include <array>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/base/address.h"
#include "tdp/mmu/eptp.h"
#include "tdp/mmu/exit_qualification.h"

namespace tdp::vtx {

// Basic exit reasons (SDM appendix C).
enum class ExitReason : uint16_t {
  kExceptionOrNmi = 0,
  kExternalInterrupt = 1,
  kTripleFault = 2,
  kCpuid = 10,
  kHlt = 12,
  kVmcall = 18,
  kControlRegister = 28,
  kIo = 30,
  kMsrRead = 31,
  kMsrWrite = 32,
  kInvalidGuestState = 33,
  kEptViolation = 48,
  kEptMisconfiguration = 49,
  kVmFunction = 59,
  kPmlFull = 62,
  kSppEvent = 66,
  // No exit: a kick came before the guest could run. Outside the hardware's 16 bits of use.
  kKickedBeforeEntry = 0xffff,
};

// One exit, as the VMCS reports it. What a field means depends on the reason.
struct VmExit {
  ExitReason reason = ExitReason::kKickedBeforeEntry;
  uint64_t qualification = 0;
  Gpa gpa;                    // EPT violation, misconfiguration, SPP event
  Gva gva;                    // valid if the qualification says so
  uint32_t interruption = 0;  // exception or NMI: vector, type, valid bit
  uint32_t instruction_bytes = 0;

  bool is_nmi() const {
    return reason == ExitReason::kExceptionOrNmi && (interruption & 0x700) == 0x200;
  }
  // Someone wants this vCPU out of the guest.
  bool is_kick() const { return reason == ExitReason::kKickedBeforeEntry || is_nmi(); }
  ExitQualification ept_qualification() const { return ExitQualification(qualification); }
};

// What a vCPU uses of its CPU. What is asked for and not there is refused by name when it is made.
struct VtxVcpuOptions {
  bool unrestricted_guest = true;  // real mode, and protected mode without paging
  bool pml = false;
  bool mbec = false;
  bool spp = false;
  bool ve = false;              // EPT violations become #VE where an entry allows
  bool eptp_switching = false;  // VMFUNC leaf 0
  bool hlt_exiting = true;
  uint16_t vpid = 1;              // 0: without VPIDs
  uint32_t exception_bitmap = 0;  // guest exceptions that exit
};

// The information area of a #VE (SDM table 26-1), in guest memory's reach through an own EPT leaf.
struct VeInformation {
  uint32_t reason;
  uint32_t busy;  // all ones while in use; the guest's handler clears it
  uint64_t qualification;
  uint64_t gva;
  uint64_t gpa;
  uint16_t eptp_index;
};

// Belongs to the thread of the CPU that it is loaded on.
class VtxVcpu {
 public:
  // Of the CPU's log of pages written (PML).
  static constexpr uint32_t kPmlEntries = 512;

  // Needs nothing of the CPU yet but its capabilities; memory comes from `arena`.
  static absl::StatusOr<std::unique_ptr<VtxVcpu>> Create(FrameArena& arena, const VmxMsrs& msrs,
                                                         const VtxVcpuOptions& options);
  // Unloaded.
  ~VtxVcpu();

  VtxVcpu(const VtxVcpu&) = delete;
  VtxVcpu& operator=(const VtxVcpu&) = delete;

  // Makes this the current vCPU of `cpu`, on which it is called, until `Unload`. Guest state set
  // before the first load is at its reset value until `SetState`.
  absl::Status Load(VmxCpu& cpu);
  // To be loaded on another CPU or destroyed. Its state stays.
  absl::Status Unload();
  bool is_loaded() const { return cpu_ != nullptr; }

  // --- Loaded only ---
  absl::Status SetState(const GuestState& state);
  absl::StatusOr<uint64_t> Read(VmcsField field) const;
  absl::Status Write(VmcsField field, uint64_t value);
  // Moves the guest past the instruction that caused `exit`.
  absl::Status SkipInstruction(const VmExit& exit);
  // Delivers exception `vector` at the next entry; `error_code` is -1 for those that have none.
  void InjectException(uint8_t vector, int64_t error_code = -1);

  // Runs the guest on the tables of `eptp` until its next exit. FailedPrecondition, with the CPU's
  // reason, if it cannot be entered.
  absl::StatusOr<VmExit> Run(Eptp eptp);
  // The tables that the guest ran on last: what `Run` was given, or what the guest has switched to.
  Eptp eptp() const { return eptp_; }

  // Roots for VMFUNC leaf 0 by index, at most 512; needs `eptp_switching`.
  absl::Status SetEptpList(absl::Span<const Eptp> list);
  // The guest frame's host address to map for the guest's #VE handler; needs `ve`.
  Hpa ve_information() const { return ve_information_; }
  // Needs `spp`.
  absl::Status SetSppTable(Hpa root);

  // The pages that the CPU has logged since the last call, oldest first, valid until the next one;
  // the CPU's log is empty then. Call it at every exit and hand the pages to `Vcpu::LogPml`. Needs
  // `pml`.
  absl::StatusOr<absl::Span<const Gpa>> DrainPml();

  GuestRegisters& registers() { return registers_; }

 private:
  struct Controls {
    uint32_t pin, primary, secondary, exit, entry;
  };

  VtxVcpu(FrameArena& arena, const VmxMsrs& msrs, const VtxVcpuOptions& options,
          const Controls& controls);

  static absl::StatusOr<Controls> Choose(const VmxMsrs& msrs, const VtxVcpuOptions& options);
  absl::Status AllocatePages();
  absl::Status WriteControls();
  absl::Status WriteOptionalControls();
  absl::Status WriteHostState();
  absl::Status WriteEvent();
  int Enter();
  absl::StatusOr<VmExit> ReadExit();
  absl::Status KeepInterruptedEvent();
  absl::Status EndNmi();

  FrameArena& arena_;
  const VmxMsrs msrs_;
  const VtxVcpuOptions options_;
  const Controls controls_;
  VmxCpu* cpu_ = nullptr;
  bool initialized_ = false;  // the VMCS holds this vCPU's controls
  bool launched_ = false;
  Eptp eptp_;
  GuestRegisters registers_;

  // An event for the next entry, in the format of the VMCS; bit 31 says that there is one.
  uint32_t event_ = 0;
  uint32_t event_error_code_ = 0;
  uint32_t event_instruction_bytes_ = 0;

  std::array<Gpa, kPmlEntries> drained_;  // what `DrainPml` returned last

  // One page each; 0 where not in use.
  Hpa vmcs_;
  Hpa msr_bitmap_;
  Hpa pml_;
  Hpa eptp_list_;
  Hpa ve_information_;
  Hpa guest_vectors_;  // x87, SSE and AVX state while the guest does not run, and the host's while
                       // it does
  Hpa host_vectors_;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VTX_VCPU_H_
