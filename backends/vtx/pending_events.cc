// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/pending_events.h"

#include <cstdint>

namespace tdp::vtx {
namespace {

constexpr uint8_t kDivide = 0;
constexpr uint8_t kDoubleFault = 8;
constexpr uint8_t kInvalidTss = 10;
constexpr uint8_t kGeneralProtection = 13;
constexpr uint8_t kPageFault = 14;
constexpr uint8_t kVirtualization = 20;
constexpr uint8_t kControlProtection = 21;

bool IsContributory(uint8_t vector) {
  return vector == kDivide || (vector >= kInvalidTss && vector <= kGeneralProtection) ||
         vector == kControlProtection;
}

// #VE stands for an EPT violation as #PF does for a page fault, and is of the same class.
bool IsPageFault(uint8_t vector) { return vector == kPageFault || vector == kVirtualization; }

bool MakesDoubleFault(uint8_t first, uint8_t second) {
  if (IsContributory(first)) return IsContributory(second);
  return IsPageFault(first) && (IsContributory(second) || IsPageFault(second));
}

PendingEvent Exception(uint8_t vector, int64_t error_code) {
  PendingEvent event = PendingEvent::Make(PendingEvent::Type::kException, vector);
  if (error_code < 0) return event;
  event.information |= PendingEvent::kHasErrorCode;
  event.error_code = static_cast<uint32_t>(error_code);
  return event;
}

}  // namespace

void PendingEvents::AddException(uint8_t vector, int64_t error_code) {
  if (now_.is_valid()) {
    switch (now_.type()) {
      case PendingEvent::Type::kExternalInterrupt:
        interrupts_ = {now_, interrupts_[0]};
        break;
      case PendingEvent::Type::kNmi:
        nmi_ = now_;
        break;
      case PendingEvent::Type::kException:
        if (now_.vector() == kDoubleFault && (IsContributory(vector) || IsPageFault(vector))) {
          now_ = PendingEvent();
          triple_fault_ = true;
          return;
        }
        if (MakesDoubleFault(now_.vector(), vector)) {
          now_ = Exception(kDoubleFault, 0);
          return;
        }
        break;
      case PendingEvent::Type::kSoftwareInterrupt:
      case PendingEvent::Type::kPrivilegedSoftwareException:
      case PendingEvent::Type::kSoftwareException:
        break;  // the fault returns to the instruction, which raises it again
    }
  }
  now_ = Exception(vector, error_code);
}

bool PendingEvents::AddInterrupt(uint8_t vector) {
  if (interrupt_waits()) return false;
  interrupts_[0] = PendingEvent::Make(PendingEvent::Type::kExternalInterrupt, vector);
  return true;
}

bool PendingEvents::AddNmi() {
  constexpr uint8_t kNmiVector = 2;
  if (nmi_.is_valid()) return false;
  nmi_ = PendingEvent::Make(PendingEvent::Type::kNmi, kNmiVector);
  return true;
}

// An NMI goes first, as the CPU ranks them.
void PendingEvents::Promote(bool takes_interrupts, bool takes_nmis) {
  if (now_.is_valid()) return;
  if (nmi_.is_valid() && takes_nmis) {
    now_ = nmi_;
    nmi_ = PendingEvent();
  } else if (interrupt_waits() && takes_interrupts) {
    now_ = interrupts_[0];
    interrupts_ = {interrupts_[1], PendingEvent()};
  }
}

}  // namespace tdp::vtx
