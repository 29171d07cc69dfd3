// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The local APIC, as far as one CPU needs it to interrupt another.

#ifndef TDP_BACKENDS_VTX_LOCAL_APIC_H_
#define TDP_BACKENDS_VTX_LOCAL_APIC_H_

#include <cstdint>

namespace tdp::vtx {

// Names a CPU: its local APIC's id.
using ApicId = uint32_t;

// Ring 0; in xAPIC mode the registers are mapped uncached at `direct_map_offset` above their
// physical address. Serves both modes.
class LocalApic {
 public:
  explicit LocalApic(uintptr_t direct_map_offset = 0) : direct_map_offset_(direct_map_offset) {}

  // Returns the id of the CPU that this runs on.
  ApicId CurrentId() const;

  // Sends an NMI to another CPU. Any CPU may call at any time, but not from an NMI handler. A guest
  // that has the registers for its own, and was stopped between its writes of destination and
  // command, finds its destination again.
  void SendNmi(ApicId to) const;
  // Sends a start-up IPI, which concerns a CPU that waits for one: it begins in real mode at the
  // start of page `vector`. Like `SendNmi`.
  void SendStartUp(ApicId to, uint8_t vector) const;

 private:
  void Send(ApicId to, uint32_t command) const;
  volatile uint32_t& Register(uint64_t base, uint32_t offset) const {
    return *reinterpret_cast<volatile uint32_t*>(base + direct_map_offset_ + offset);
  }

  uintptr_t direct_map_offset_;
};

}  // namespace tdp::vtx

#endif  // TDP_BACKENDS_VTX_LOCAL_APIC_H_
