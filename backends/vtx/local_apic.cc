// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/vtx/local_apic.h"

#include <cstdint>

#include "tdp/backends/vtx/vmx_asm.h"

namespace tdp::vtx {
namespace {

constexpr uint32_t kMsrApicBase = 0x1b;
constexpr uint64_t kX2ApicMode = uint64_t{1} << 10;
constexpr uint64_t kBaseAddress = 0xffffffffff000;

constexpr uint32_t kIdOffset = 0x20;
constexpr uint32_t kCommandLowOffset = 0x300;
constexpr uint32_t kCommandHighOffset = 0x310;
constexpr uint32_t kMsrX2ApicId = 0x802;
constexpr uint32_t kMsrX2ApicCommand = 0x830;

// SDM 11.6.1: delivery mode, level assert, one destination by physical id.
constexpr uint32_t kNmiCommand = 4 << 8 | 1 << 14;
constexpr uint32_t kStartUpCommand = 6 << 8 | 1 << 14;
constexpr uint32_t kDeliveryPending = 1 << 12;

}  // namespace

ApicId LocalApic::CurrentId() const {
  const uint64_t base = tdp_rdmsr(kMsrApicBase);
  if ((base & kX2ApicMode) != 0) return static_cast<ApicId>(tdp_rdmsr(kMsrX2ApicId));
  return Register(base & kBaseAddress, kIdOffset) >> 24;
}

void LocalApic::SendNmi(ApicId to) const { Send(to, kNmiCommand); }

void LocalApic::SendStartUp(ApicId to, uint8_t vector) const { Send(to, kStartUpCommand | vector); }

void LocalApic::Send(ApicId to, uint32_t command) const {
  const uint64_t base = tdp_rdmsr(kMsrApicBase);
  if ((base & kX2ApicMode) != 0) {
    tdp_wrmsr(kMsrX2ApicCommand, uint64_t{to} << 32 | command);
    return;
  }
  const uint64_t registers = base & kBaseAddress;
  const auto wait = [&] {
    while ((Register(registers, kCommandLowOffset) & kDeliveryPending) != 0) {
    }
  };
  const uint32_t destination_before = Register(registers, kCommandHighOffset);
  wait();
  Register(registers, kCommandHighOffset) = to << 24;
  Register(registers, kCommandLowOffset) = command;
  wait();
  Register(registers, kCommandHighOffset) = destination_before;
}

}  // namespace tdp::vtx
