// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Walks that leave no trace: what a referee asks of tables that a CPU is using.

#include <cstdint>

#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/ept_rules.h"
#include "tdp/backends/sim/guest_rules.h"
#include "tdp/backends/sim/memory_types.h"
#include "tdp/base/index.h"
#include "tdp/mmu/format/ept_format.h"

namespace tdp::sim {

// Reads the entry of `level` in the table at `table` and notes it.
bool Cpu::ReadForProbe(uint64_t table, uint64_t address, int level, ProbeResult& result,
                       uint64_t& entry) const {
  const uint64_t place = (table & ept::kAddressMask) | (address >> (ShiftOf(level) - 3) & 0xff8);
  result.level = level;
  if (state_.tables != nullptr && !state_.tables->IsTable(Hpa(place & ~kPageOffsetMask))) {
    result.event = Event::kWalkedNoTable;
    return false;
  }
  entry = state_.memory.Load(place);
  result.path.steps[result.path.count++] = {place, entry};
  return true;
}

ProbeResult Cpu::Probe(Gpa gpa) const {
  const Eptp eptp = state_.eptp;
  ProbeResult result;
  result.path = {
      .gpa = gpa.raw(), .eptp = eptp.raw(), .root_level = static_cast<uint8_t>(eptp.levels())};
  const EptRules rules(state_.features, state_.controls.mbec, state_.controls.paging_write);
  unsigned rights = 15;
  uint64_t table = eptp.raw();
  if (gpa.raw() >> ShiftOf(eptp.levels() + 1) != 0) {
    result.event = Event::kEptViolation;
    result.level = eptp.levels();
    return result;
  }
  for (int level = eptp.levels();; --level) {
    uint64_t entry = 0;
    if (!ReadForProbe(table, gpa.raw(), level, result, entry)) return result;
    if (!rules.IsPresent(entry)) {
      result.event = Event::kEptViolation;
      return result;
    }
    if (rules.IsMisconfigured(entry, level)) {
      result.event = Event::kEptMisconfiguration;
      return result;
    }
    rights &= RightsOf(entry);
    table = entry;
    if (!EptRules::IsLeaf(entry, level)) continue;
    const uint64_t offset = (uint64_t{1} << ShiftOf(level)) - 1;
    result.hpa = Hpa((entry & ept::kAddressMask & ~offset) | (gpa.raw() & offset));
    result.rights = state_.controls.mbec ? rights : rights & 7;
    result.memory_type =
        static_cast<MemoryType>((entry & ept::kMemoryTypeMask) >> ept::kMemoryTypeShift);
    result.ignore_pat = (entry & ept::kIgnorePat) != 0;
    return result;
  }
}

ProbeResult Cpu::ProbeLinear(Gva gva) const {
  const GuestRules& rules = guest_.rules();
  ProbeResult result;
  result.path = {
      .gpa = gva.raw(), .root_level = static_cast<uint8_t>(rules.levels()), .linear = true};
  if (!rules.IsCanonical(gva.raw())) {
    result.event = Event::kGeneralProtection;
    return result;
  }
  uint64_t rights = kGuestWrite | kGuestUser | kGuestNoExecute;
  uint64_t table = rules.RootOf(state_.registers.cr3);
  for (int level = rules.levels();; --level) {
    uint64_t entry = 0;
    if (!ReadForProbe(table, gva.raw(), level, result, entry)) return result;
    if ((entry & kGuestPresent) == 0 || rules.HasReservedBit(entry, level)) {
      result.event = Event::kPageFault;
      result.reserved = (entry & kGuestPresent) != 0;
      return result;
    }
    rights &= entry ^ kGuestNoExecute;
    table = GuestRules::TableOf(entry);
    if (!rules.IsLeaf(entry, level)) continue;
    result.hpa = Hpa(rules.GpaOf(entry, level, gva.raw()));
    result.rights = kRightRead | ((rights & kGuestWrite) != 0 ? kRightWrite : 0) |
                    ((rights & kGuestNoExecute) != 0 ? kRightExecute : 0);
    result.user = (rights & kGuestUser) != 0;
    result.memory_type = CombineMemoryTypes(
        MemoryType::kWriteBack, false,
        PatType(state_.registers.pat, GuestRules::PatIndex(entry, level)), false);
    return result;
  }
}

}  // namespace tdp::sim
