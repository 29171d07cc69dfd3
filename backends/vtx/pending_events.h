// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Decides what a guest is to be told at its next entry: an event whose delivery an exit cut short,
// and what the host wants to add. The rules are the CPU's own (SDM 6.15, table 6-5). Values only.

#ifndef TDP_BACKENDS_VTX_PENDING_EVENTS_H_
#define TDP_BACKENDS_VTX_PENDING_EVENTS_H_

#include <array>
#include <cstdint>

namespace tdp::vtx {

// An event in the format of the VMCS: VM-entry interruption information, and what belongs to it.
struct PendingEvent {
  static constexpr uint32_t kValid = 1u << 31;
  static constexpr uint32_t kHasErrorCode = 1u << 11;

  enum class Type : uint8_t {
    kExternalInterrupt = 0,
    kNmi = 2,
    kException = 3,
    kSoftwareInterrupt = 4,
    kPrivilegedSoftwareException = 5,
    kSoftwareException = 6,
  };

  uint32_t information = 0;
  uint32_t error_code = 0;
  uint32_t instruction_bytes = 0;

  static PendingEvent Make(Type type, uint8_t vector) {
    return {.information = kValid | static_cast<uint32_t>(type) << 8 | vector};
  }
  bool is_valid() const { return (information & kValid) != 0; }
  Type type() const { return static_cast<Type>(information >> 8 & 7); }
  uint8_t vector() const { return static_cast<uint8_t>(information); }
};

class PendingEvents {
 public:
  // The delivery of `event` was cut short by an exit: it goes in again at the next entry.
  void Keep(const PendingEvent& event) { now_ = event; }

  // Adds a fault of the guest's. Where an exception is on its way already, the two make a double
  // fault or a triple fault as the CPU has it, or the first one is dropped, whose instruction will
  // raise it again. An interrupt or NMI that was on its way waits until the guest can take it.
  void AddException(uint8_t vector, int64_t error_code);
  // Returns whether the interrupt was taken on: false while an earlier one waits.
  bool AddInterrupt(uint8_t vector);
  // Does the same for an NMI; one that a fault stops merges with one that waits.
  bool AddNmi();

  // Puts a waiting event on its way if none is and the guest can take it.
  void Promote(bool takes_interrupts, bool takes_nmis);
  // Returns the event for the next entry. `Delivered` says that the guest was entered with it.
  const PendingEvent& now() const { return now_; }
  void Delivered() { now_ = PendingEvent(); }
  bool interrupt_waits() const { return interrupts_[0].is_valid(); }
  bool nmi_waits() const { return nmi_.is_valid(); }
  // Says at which windows the guest is to come back for what waits.
  struct Windows {
    bool interrupt = false;
    bool nmi = false;

    friend bool operator==(const Windows&, const Windows&) = default;
  };
  // `after_sti` says that STI blocks events for one instruction more. No NMI may be given then, and
  // yet a CPU may open the window for one, again and again: that of interrupts opens when it is
  // over (SDM vol. 3C, 27.3.1.5 and 27.7.6).
  Windows windows(bool after_sti) const {
    return {.interrupt = interrupt_waits() || (nmi_waits() && after_sti),
            .nmi = nmi_waits() && !after_sti};
  }
  // Returns whether a fault came on top of a double fault: the guest is to be shut down, not
  // entered.
  bool is_triple_fault() const { return triple_fault_; }
  void TakeTripleFault() { triple_fault_ = false; }

 private:
  PendingEvent now_;
  // Oldest first. Two wait where one was taken on while another, on its way by then, was stopped
  // by a fault.
  std::array<PendingEvent, 2> interrupts_;
  PendingEvent nmi_;
  bool triple_fault_ = false;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_PENDING_EVENTS_H_
