// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Why a guest came back to the host.

#ifndef TDP_BACKENDS_VTX_VM_EXIT_H_
#define TDP_BACKENDS_VTX_VM_EXIT_H_

#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/mmu/format/exit_qualification.h"

namespace tdp::vtx {

// Basic exit reasons (SDM appendix C).
enum class ExitReason : uint16_t {
  kExceptionOrNmi = 0,
  kExternalInterrupt = 1,
  kTripleFault = 2,
  kInitSignal = 3,
  kStartUpIpi = 4,
  kIoSmi = 5,
  kOtherSmi = 6,
  kInterruptWindow = 7,
  kNmiWindow = 8,
  kTaskSwitch = 9,
  kCpuid = 10,
  kGetsec = 11,
  kHlt = 12,
  kInvd = 13,
  kInvlpg = 14,
  kRdpmc = 15,
  kRdtsc = 16,
  kRsm = 17,
  kVmcall = 18,
  kVmclear = 19,
  kVmlaunch = 20,
  kVmptrld = 21,
  kVmptrst = 22,
  kVmread = 23,
  kVmresume = 24,
  kVmwrite = 25,
  kVmxoff = 26,
  kVmxon = 27,
  kControlRegister = 28,
  kMovDr = 29,
  kIo = 30,
  kMsrRead = 31,
  kMsrWrite = 32,
  kInvalidGuestState = 33,
  kMsrLoading = 34,
  kMwait = 36,
  kMonitorTrapFlag = 37,
  kMonitor = 39,
  kPause = 40,
  kMachineCheckAtEntry = 41,
  kTprBelowThreshold = 43,
  kApicAccess = 44,
  kVirtualizedEoi = 45,
  kGdtrOrIdtr = 46,
  kLdtrOrTr = 47,
  kEptViolation = 48,
  kEptMisconfiguration = 49,
  kInvept = 50,
  kRdtscp = 51,
  kPreemptionTimer = 52,
  kInvvpid = 53,
  kWbinvd = 54,
  kXsetbv = 55,
  kApicWrite = 56,
  kRdrand = 57,
  kInvpcid = 58,
  kVmFunction = 59,
  kEncls = 60,
  kRdseed = 61,
  kPmlFull = 62,
  kXsaves = 63,
  kXrstors = 64,
  kPconfig = 65,
  kSppEvent = 66,
  kUmwait = 67,
  kTpause = 68,
  kLoadIwkey = 69,
  kEnclv = 70,
  kEnqcmdPasid = 72,
  kEnqcmdsPasid = 73,
  kBusLock = 74,
  kInstructionTimeout = 75,
  kSeamcall = 76,
  kTdcall = 77,
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
  uint32_t error_code = 0;    // of an exception that has one
  uint32_t instruction_bytes = 0;

  bool is_nmi() const {
    return reason == ExitReason::kExceptionOrNmi && (interruption & 0x700) == 0x200;
  }
  bool is_exception(uint8_t vector) const {
    return reason == ExitReason::kExceptionOrNmi && !is_nmi() && (interruption & 0xff) == vector;
  }
  // Returns whether the exit came in an IRET that had ended the blocking of NMIs by then (SDM vol.
  // 3C, 28.2.1 and 28.2.2). Means nothing where an event was being delivered.
  bool has_unblocked_nmis() const {
    constexpr uint64_t kUnblocked = 1 << 12;
    constexpr uint8_t kDoubleFault = 8;
    switch (reason) {
      case ExitReason::kEptViolation:
      case ExitReason::kPmlFull:
      case ExitReason::kSppEvent:
        return (qualification & kUnblocked) != 0;
      case ExitReason::kExceptionOrNmi:
        return (interruption & kUnblocked) != 0 && !is_nmi() && !is_exception(kDoubleFault);
      default:
        return false;
    }
  }
  // Someone wants this vCPU out of the guest.
  bool is_kick() const { return reason == ExitReason::kKickedBeforeEntry || is_nmi(); }
  // Nothing is to be done: the guest can take the event that waited for it, or is to be entered
  // again for another reason of the driver's own.
  bool is_window() const {
    return reason == ExitReason::kInterruptWindow || reason == ExitReason::kNmiWindow;
  }
  ExitQualification ept_qualification() const { return ExitQualification(qualification); }
};

// The qualification of an I/O exit (SDM table 28-5).
struct IoAccess {
  explicit IoAccess(uint64_t qualification)
      : port(static_cast<uint16_t>(qualification >> 16)),
        bytes(static_cast<uint8_t>((qualification & 7) + 1)),
        is_read((qualification & 8) != 0),
        is_string((qualification & 16) != 0) {}

  uint16_t port;
  uint8_t bytes;   // 1, 2 or 4
  bool is_read;    // IN
  bool is_string;  // INS or OUTS
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_VM_EXIT_H_
