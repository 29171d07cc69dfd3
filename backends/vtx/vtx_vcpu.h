// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A virtual CPU on VT-x: its VMCS, its registers, and the way into the guest and out again.

#ifndef TDP_BACKENDS_VTX_VTX_VCPU_H_
#define TDP_BACKENDS_VTX_VTX_VCPU_H_

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "tdp/backends/vtx/frame_arena.h"
#include "tdp/backends/vtx/guest_state.h"
#include "tdp/backends/vtx/msr_areas.h"
#include "tdp/backends/vtx/pending_events.h"
#include "tdp/backends/vtx/vm_exit.h"
#include "tdp/backends/vtx/vmcs_field.h"
#include "tdp/backends/vtx/vmx_asm.h"
#include "tdp/backends/vtx/vmx_capabilities.h"
#include "tdp/backends/vtx/vmx_cpu.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/eptp.h"

namespace tdp::vtx {

// Tells what a vCPU uses of its CPU, and what its guest may do without an exit. What is asked for
// and not there is refused by name when the vCPU is made.
struct VtxVcpuOptions {
  // Returns the options of a guest that owns the machine's devices: interrupts, I/O ports, MSRs and
  // debug registers are its own, but for what `VtxVcpu::SetIoExits` and `SetMsrExits` except. So
  // are RDTSCP and INVPCID where the CPU of `msrs` has them for guests. NMIs remain the host's.
  static VtxVcpuOptions PassThrough(const VmxMsrs& msrs) {
    VtxVcpuOptions options;
    options.hlt_exiting = false;
    options.external_interrupt_exiting = false;
    options.io_bitmaps = true;
    options.msr_bitmap = true;
    options.mov_dr_exiting = false;
    options.rdtscp = msrs.Offers(ControlWord::kSecondary, secondary::kRdtscp);
    options.invpcid = msrs.Offers(ControlWord::kSecondary, secondary::kInvpcid);
    return options;
  }

  bool ept = true;                 // false: the guest's CR3 is the host's to choose
  bool unrestricted_guest = true;  // real mode, and protected mode without paging; with EPT only
  bool pml = false;
  bool mbec = false;
  bool spp = false;
  bool ve = false;              // EPT violations become #VE where an entry allows
  bool eptp_switching = false;  // VMFUNC leaf 0
  uint16_t vpid = 1;            // 0: without VPIDs
  // --- exits ---
  bool hlt_exiting = true;
  bool cr3_exiting = false;     // MOV to and from CR3
  bool invlpg_exiting = false;  // INVLPG and, where the guest has it, INVPCID
  // An interrupt of the machine ends the guest's turn and stays pending. false: it goes through the
  // guest's IDT.
  bool external_interrupt_exiting = true;
  bool io_bitmaps = false;  // I/O exits by `SetIoExits`, none at first; false: all I/O exits
  // MSR accesses exit by `SetMsrExits`, none at first; false: all exit. With it the MSRs of
  // `MsrAreas` are the guest's own while it runs.
  bool msr_bitmap = false;
  bool mov_dr_exiting = true;     // false: DR0-3, DR6 and DR7 change hands at each entry and exit
  uint32_t exception_bitmap = 0;  // guest exceptions that exit
  bool preemption_timer = false;  // `SetPreemptionTimer`
  bool virtual_nmis = false;      // the guest can be given NMIs (`InjectNmi`)
  // --- instructions that raise #UD in the guest unless they are enabled ---
  bool rdtscp = false;
  bool invpcid = false;
  bool xsaves = false;
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

// Tells what `VtxVcpu::Save` gives. Whole only between two vCPUs with the same options, on CPUs of
// one kind.
struct VtxVcpuState {
  std::vector<uint64_t> fields;  // of the VMCS, in an order of the driver's own
  bool is_64_bit = false;
  GuestRegisters registers;
  PendingEvents events;
  bool blocked_nmis_again = false;  // for an IRET that is to be executed once more
  uint64_t xcr0 = 0;
  std::array<uint64_t, 5> debug_registers = {};
  std::vector<uint64_t> msrs;    // those that change hands
  std::vector<uint8_t> vectors;  // x87, SSE and AVX
};

// Belongs to the thread of the CPU that it is loaded on.
class VtxVcpu {
 public:
  // The CPU's log of pages written (PML) has this many.
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
  // Takes it off this CPU, to be loaded on another or destroyed. Its state stays.
  absl::Status Unload();
  bool is_loaded() const { return cpu_ != nullptr; }

  // --- Loaded only ---
  absl::Status SetState(const GuestState& state);
  // Makes the guest's CPU wait, as after INIT, for a start-up IPI: `Run` returns kStartUpIpi with
  // its vector, for `GuestState::StartUp`, and hears nothing else. NMIs, and kicks with them, are
  // blocked meanwhile; the guest uses no memory.
  absl::Status AwaitStartUp();
  // Returns all of the vCPU that its guest can see, as it is between two runs; memory, and MSRs
  // that do not change hands, are not the vCPU's.
  absl::StatusOr<VtxVcpuState> Save() const;
  // Lets the guest go on from there. InvalidArgument, with nothing changed, if `state` is of a vCPU
  // with other options.
  absl::Status Restore(const VtxVcpuState& state);
  absl::StatusOr<uint64_t> Read(VmcsField field) const;
  absl::Status Write(VmcsField field, uint64_t value);
  // Moves the guest past the instruction that caused `exit`, as if it had been executed: blocking
  // by STI and MOV SS ends, and with RFLAGS.TF the guest gets its single-step trap.
  absl::Status SkipInstruction(const VmExit& exit);
  // Delivers exception `vector` at the next entry; `error_code` is -1 for those that have none. On
  // top of an exception whose delivery the exit cut short it becomes a double fault, or the next
  // `Run` returns kTripleFault without an entry, as the SDM's table 6-5 has it.
  void InjectException(uint8_t vector, int64_t error_code = -1);
  // Delivers external interrupt `vector` as soon as the guest takes it: at the next entry, or after
  // an exit kInterruptWindow, which asks for nothing but to enter again. False, with nothing done,
  // while an earlier one waits.
  bool InjectInterrupt(uint8_t vector);
  // Does the same for an NMI, with kNmiWindow. Needs `virtual_nmis`.
  bool InjectNmi();

  // Runs the guest on the tables of `eptp` until its next exit; without `ept` they are those of the
  // guest's CR3 field, and `eptp` does not count. FailedPrecondition, with the CPU's reason, if it
  // cannot be entered.
  absl::StatusOr<VmExit> Run(Eptp eptp);
  // Returns the tables that the guest ran on last: what `Run` was given, or what the guest has
  // switched to.
  Eptp eptp() const { return eptp_; }

  // Roots for VMFUNC leaf 0 by index, at most 512; needs `eptp_switching`.
  absl::Status SetEptpList(absl::Span<const Eptp> list);
  // Returns the host address of the guest frame to map for the guest's #VE handler; needs `ve`.
  Hpa ve_information() const { return ve_information_; }
  // Needs `spp`.
  absl::Status SetSppTable(Hpa root);

  // Returns the pages that the CPU has logged since the last call, oldest first, valid until the
  // next one; the CPU's log is empty then. Call it at every exit and hand the pages to
  // `Vcpu::LogPml`. Needs `pml`.
  absl::StatusOr<absl::Span<const Gpa>> DrainPml();

  GuestRegisters& registers() { return registers_; }

  // --- What exits; any time outside the guest ---
  // Sets whether accesses to `count` ports from `first` on exit. Needs `io_bitmaps`.
  // InvalidArgument beyond port 0xffff, or for none.
  absl::Status SetIoExits(uint32_t first, uint32_t count, bool exits);
  // Sets whether RDMSR and WRMSR of `msr` exit. Needs `msr_bitmap`. InvalidArgument for MSRs that
  // always do.
  absl::Status SetMsrExits(uint32_t msr, bool read_exits, bool write_exits);
  // Returns the guest's value of an MSR that changes hands with `msr_bitmap` (`MsrAreas`); null for
  // others.
  uint64_t* SwitchedMsr(uint32_t msr) { return msr_areas_.Guest(msr); }
  // Makes the guest come back with kPreemptionTimer when it has run for `tsc_ticks` in all, over
  // however many entries, rounded up to the timer's unit and cut to its 32 bits; after that at each
  // entry, until the next call. Loaded; needs `preemption_timer`.
  absl::Status SetPreemptionTimer(uint64_t tsc_ticks);
  // Lets the guest run with this XCR0: it changes hands at each entry and exit. At first it is the
  // host's. InvalidArgument for one that XSETBV refuses, or with a bit that the host's lacks, whose
  // state would not be saved. Loaded.
  absl::Status SetXcr0(uint64_t xcr0);

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
  absl::Status OpenWindows(bool after_sti);
  void SwitchToGuest(bool xsave);
  void SwitchToHost(bool xsave);
  int Enter();
  absl::StatusOr<VmExit> ReadExit();
  absl::Status KeepInterruptedEvent(const VmExit& exit);
  absl::Status BlockNmisAgain(const VmExit& exit);
  absl::Status EndNmi();
  absl::Status EndWaitForSipi(const VmExit& exit);
  absl::Status EndBlocking(uint64_t kinds);
  absl::StatusOr<uint64_t> BehindInstruction(uint64_t rip, uint64_t bytes) const;

  FrameArena& arena_;
  const VmxMsrs msrs_;
  const VtxVcpuOptions options_;
  const Controls controls_;
  VmxCpu* cpu_ = nullptr;
  bool initialized_ = false;  // the VMCS holds this vCPU's controls
  bool launched_ = false;
  bool has_waited_for_sipi_ = false;
  Eptp eptp_;
  GuestRegisters registers_;

  uint32_t primary_now_ = 0;         // the primary word in the VMCS
  bool blocked_nmis_again_ = false;  // an IRET had ended that, and is to be executed again
  PendingEvents events_;
  uint64_t guest_xcr0_ = 0;  // 0: the host's
  uint64_t host_xcr0_ = 0;
  std::array<uint64_t, 5> debug_registers_ = {0, 0, 0, 0, 0xffff0ff0};  // as after reset
  MsrAreas msr_areas_;

  std::array<Gpa, kPmlEntries> drained_;  // what `DrainPml` returned last

  // One page each, but the I/O bitmaps two; 0 where not in use.
  Hpa vmcs_;
  Hpa io_bitmaps_;
  Hpa msr_bitmap_;
  Hpa msr_areas_page_;
  Hpa pml_;
  Hpa eptp_list_;
  Hpa ve_information_;
  Hpa guest_vectors_;  // x87, SSE and AVX state while the guest does not run, and the host's while
                       // it does
  Hpa host_vectors_;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VTX_VCPU_H_
