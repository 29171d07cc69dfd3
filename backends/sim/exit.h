// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Says what an access ends in: a host physical address, or an event with its fields.

#ifndef TDP_BACKENDS_SIM_EXIT_H_
#define TDP_BACKENDS_SIM_EXIT_H_

#include <cstdint>
#include <string>

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/exit_qualification.h"

namespace tdp::sim {

enum class Event : uint8_t {
  kNone,                 // the access is done
  kKick,                 // VM exit: the CPU was kicked
  kEptViolation,         // VM exit 48: qualification, gpa, gva
  kEptMisconfiguration,  // VM exit 49: gpa
  kWalkedNoTable,        // no event of hardware: a walk read what is no table (`TableFrames`): gpa
  kPmlFull,              // VM exit 62, of which no address is told: the access has not happened
  kSppEvent,             // VM exit 66: qualification, gpa, gva
  kVmfunc,               // VM exit 59: VMFUNC refused
  kEntryFailure,         // VM entry refused the EPTP
  kPageFault,            // guest #PF: error code, gva (CR2)
  kGeneralProtection,    // guest #GP(0): a non-canonical address, or reserved bits of a PDPTE
  kVirtualizationException  // guest #VE: the information page is filled
};

// Returns whether the guest's own kernel handles the event; the hypervisor does not see it.
constexpr bool IsGuestEvent(Event event) { return event >= Event::kPageFault; }

const char* EventName(Event event);

// Holds everything that a handler can ask about the last event of a CPU. Fields that the event does
// not define are 0, as the SDM's table of each exit has it.
struct Exit {
  Event event = Event::kNone;
  uint32_t error_code = 0;            // of a page fault
  ExitQualification qualification{};  // of a violation (also one that became #VE) or SPP event
  Gpa gpa{};                          // guest-physical address
  Gva gva{};                          // guest-linear address
  uint64_t length = 0;                // bytes of the access from `gva` on

  std::string DebugString() const;
};

// Bits of a page-fault error code (SDM vol. 3A, 5.7).
inline constexpr uint32_t kFaultPresent = 1;
inline constexpr uint32_t kFaultWrite = 2;
inline constexpr uint32_t kFaultUser = 4;
inline constexpr uint32_t kFaultReserved = 8;
inline constexpr uint32_t kFaultFetch = 16;
inline constexpr uint32_t kFaultProtectionKey = 32;

// Bits of the qualification of an SPP event (SDM table 28-8).
inline constexpr uint64_t kSppMiss = uint64_t{1} << 11;  // else a misconfiguration
inline constexpr uint64_t kSppNmiUnblocked = uint64_t{1} << 12;

// The answer to an access. It is two words, so that it travels in registers.
struct AccessResult {
  Hpa hpa{};  // of the first byte, if `event` is kNone
  Event event = Event::kNone;
  MemoryType memory_type = MemoryType::kWriteBack;  // what the page's EPT and PAT combine to
  uint8_t ept_level = 0;                            // of the leaf; 0 without EPT
  uint8_t guest_level = 0;                          // of the leaf; 0 without guest paging

  bool ok() const { return event == Event::kNone; }
};
static_assert(sizeof(AccessResult) == 16);

}  // namespace tdp::sim

#endif  // TDP_BACKENDS_SIM_EXIT_H_
