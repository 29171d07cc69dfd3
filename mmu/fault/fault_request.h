// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// A fault as the engine sees it: what the guest asked of its tables, and the answer as one word.

#ifndef TDP_MMU_FAULT_FAULT_REQUEST_H_
#define TDP_MMU_FAULT_FAULT_REQUEST_H_

#include <cstdint>

#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/exit_qualification.h"
#include "tdp/mmu/page_fault.h"
#include "tdp/mmu/tables/direct_mmu.h"

namespace tdp {

// An access that the tables refused. Two registers hold it.
struct FaultRequest {
  // In which mode the guest fetched, as the exit says it; meaningful where the CPU has advanced
  // exit information (SDM, "Exit Qualification for EPT Violations", bit 9).
  enum class Mode : uint8_t { kUnknown, kSupervisor, kUser };

  Gpa gpa;
  Access access;   // what the guest tried; a fetch is `Execute`, whatever its mode
  Access allowed;  // what the walk allowed; nothing where it found nothing
  Mode mode = Mode::kUnknown;
  Privacy wanted = Privacy::kAsSet;
  bool is_ahead = false;  // nobody has made the access yet: it leaves no A and D

  static FaultRequest FromExit(Gpa gpa, ExitQualification exit, Privacy wanted = Privacy::kAsSet) {
    Mode mode = Mode::kUnknown;
    if (exit.linear_address_valid() && exit.final_address()) {
      mode = exit.user_address() ? Mode::kUser : Mode::kSupervisor;
    }
    return {gpa, exit.access(), exit.allowed(), mode, wanted};
  }

  // Makes the request for an access of `access` that nobody made yet; one of no kind is for all
  // that may be mapped.
  static FaultRequest Ahead(Gpa gpa, Access access) {
    const bool fetch = access.can_execute() || access.can_user_execute();
    const bool user = access.can_user_execute() && !access.can_execute();
    return {.gpa = gpa,
            .access = fetch ? (access & Access::ReadWrite()) | Access::Execute() : access,
            .allowed = Access::None(),
            .mode = user ? Mode::kUser : Mode::kSupervisor,
            .is_ahead = true};
  }

  // Returns whether the walk found a page that lacked a right.
  bool reached_leaf() const { return !allowed.is_empty(); }

  // Returns the access where the tables tell fetches of the two modes apart (MBEC). If the exit
  // does not say the mode, then of the two rights the one that was there is not the one that was
  // missing; it is both, where neither tells.
  Access AccessByMode(bool advanced_exit_information) const {
    if (!access.can_execute()) return access;
    if (advanced_exit_information && mode != Mode::kUnknown) {
      return mode == Mode::kUser ? Access::UserExecute() : Access::Execute();
    }
    const Access both = Access::Execute() | Access::UserExecute();
    const Access there = allowed & both;
    return there == both ? both : both.Without(there);
  }
};

// The outcome of a fault, its level and the denied access: all of a `FaultResult` but the status,
// which only an error has and which its handler keeps.
class FaultAnswer {
 public:
  constexpr FaultAnswer() = default;
  constexpr FaultAnswer(FaultOutcome outcome, Level level = kLevel4K, Access denied = Access())
      : raw_(static_cast<uint32_t>(outcome) | static_cast<uint32_t>(level.raw()) << kLevelShift |
             static_cast<uint32_t>(denied.raw()) << kDeniedShift) {}
  // Makes the answer of what was mapped.
  constexpr explicit FaultAnswer(MapResult mapped)
      : FaultAnswer(static_cast<FaultOutcome>(mapped.outcome()), mapped.level()) {
    static_assert(
        static_cast<int>(MapOutcome::kInstalled) == static_cast<int>(FaultOutcome::kFixed) &&
        static_cast<int>(MapOutcome::kSpurious) == static_cast<int>(FaultOutcome::kSpurious));
  }

  constexpr FaultOutcome outcome() const { return static_cast<FaultOutcome>(raw_ & 0xff); }
  constexpr Level level() const { return Level(static_cast<int>(raw_ >> kLevelShift & 0xff)); }
  constexpr Access denied() const {
    return Access::FromRaw(static_cast<uint8_t>(raw_ >> kDeniedShift));
  }

 private:
  static constexpr int kLevelShift = 8;
  static constexpr int kDeniedShift = 16;

  uint32_t raw_ = 1 << kLevelShift;  // fixed, at 4 KiB
};

}  // namespace tdp

#endif  // TDP_MMU_FAULT_FAULT_REQUEST_H_
