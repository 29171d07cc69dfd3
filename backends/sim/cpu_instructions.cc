// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The instructions that change translations or drop them. Each drops what the SDM requires (vol. 3A
// 5.10.4.1, vol. 3C 30.4.3.1) and nothing else.

#include <algorithm>
#include <cstdint>

#include "tdp/backends/sim/cpu.h"
#include "tdp/backends/sim/ept_rules.h"
#include "tdp/backends/sim/virtualization_exception.h"

namespace tdp::sim {
namespace {

constexpr uint64_t kCr3KeepTranslations = uint64_t{1} << 63;
constexpr uint64_t kPcidMask = 0xfff;
constexpr uint64_t kEptpListEntries = 512;

bool Changed(uint64_t a, uint64_t b, uint64_t bits) { return ((a ^ b) & bits) != 0; }

// Returns whether MOV to CR0 or CR4 may make `after` of `before` (SDM vol. 2B, "MOV—Move to/from
// Control Registers").
bool IsLegalChange(const Registers& before, const Registers& after) {
  const bool paging = (after.cr0 & kCr0Pg) != 0;
  const bool was_64_bit = Is64Bit(PagingModeOf(before));
  const uint64_t cr4_set = after.cr4 & ~before.cr4;
  if (paging && (after.cr0 & kCr0Pe) == 0) return false;
  if ((after.cr0 & (kCr0Cd | kCr0Nw)) == kCr0Nw || after.cr0 >> 32 != 0) return false;
  // IA-32e mode begins with PAE, and keeps it and the number of levels.
  const bool long_mode = paging && (after.efer & (kEferLme | kEferLma)) != 0;
  if (long_mode && (after.cr4 & kCr4Pae) == 0) return false;
  if (was_64_bit && paging && Changed(before.cr4, after.cr4, kCr4La57)) return false;
  // PCIDs are for IA-32e mode, and begin with PCID 0.
  if ((after.cr4 & kCr4Pcide) != 0 && !paging) return false;
  return (cr4_set & kCr4Pcide) == 0 || (was_64_bit && (before.cr3 & kPcidMask) == 0);
}

}  // namespace

void Cpu::DropVpid(uint16_t vpid) {
  ++invalidations_;
  DropLinearIf([vpid](const Context& context) { return context.vpid == vpid; });
}

// Drops the current context's mappings of the page at `gva`, of every size.
void Cpu::DropPage(uint64_t gva) {
  for (int level = 1; level <= 3; ++level) {
    if (tlb_[level].live() == 0) continue;
    tlb_[level].Erase(ContextTable::Tag(context_, gva, ShiftOf(level)));
    if (has_globals_) tlb_[level].Erase(ContextTable::Tag(global_context_, gva, ShiftOf(level)));
  }
}

// Drops one address's mappings whose context satisfies `predicate(const Context&)`. A large page of
// the guest may be cached in pieces, since EPT maps it by smaller ones: they all go, whichever the
// address is in.
template <typename Predicate>
void Cpu::DropLinearAddressIf(uint64_t gva, Predicate predicate) {
  for (int level = 1; level <= 3; ++level) {
    const uint64_t page = ContextTable::Tag(0, gva, ShiftOf(level));
    tlb_[level].EraseIf([&](uint64_t tag, const TlbEntry& entry) {
      const Context& context = state_.contexts.OfTag(tag);
      const int pieces = std::max(entry.guest_shift - ShiftOf(level), 0);
      return context.pcid != kGuestPhysicalPcid && predicate(context) &&
             ContextTable::PageOfTag(tag) >> pieces == page >> pieces;
    });
  }
}

// --- the guest's ---

Event Cpu::RaiseGeneralProtection() {
  state_.exit = {.event = Event::kGeneralProtection};
  return Fail(Event::kGeneralProtection).event;
}

Event Cpu::ReloadPdptesIf(bool needed) {
  if (!needed || PagingModeOf(state_.registers) != PagingMode::kPae) return Event::kNone;
  return LoadPdptes();
}

Event Cpu::LoadPdptes() {
  Event event = guest_.LoadPdptes();
  if (event == Event::kEptViolation) event = DeliverVirtualizationException(state_);
  if (event != Event::kNone) return Fail(event).event;
  return Event::kNone;
}

Event Cpu::WriteCr0(uint64_t value) {
  const Registers before = state_.registers;
  Registers after = before;
  after.cr0 = value;
  if (!IsLegalChange(before, after)) return RaiseGeneralProtection();
  state_.registers = after;
  Reload();
  const Event event = ReloadPdptesIf(Changed(before.cr0, value, kCr0Pg | kCr0Cd | kCr0Nw));
  if (event != Event::kNone) {
    SetRegisters(before);
    return event;
  }
  if (Changed(before.cr0, value, kCr0Pg)) DropVpid(state_.controls.vpid);
  return Event::kNone;
}

Event Cpu::WriteCr3(uint64_t value) {
  const Registers before = state_.registers;
  const bool pcids = (before.cr4 & kCr4Pcide) != 0;
  const bool keep = pcids && (value & kCr3KeepTranslations) != 0;
  const uint64_t cr3 = pcids ? value & ~kCr3KeepTranslations : value;
  // Elsewhere CR3 has 32 bits, whatever stands above them.
  const bool is_64_bit = Is64Bit(PagingModeOf(before));
  if (is_64_bit && cr3 >> state_.features.physical_address_bits != 0) {
    return RaiseGeneralProtection();
  }
  state_.registers.cr3 = cr3;
  Reload();
  const Event event = ReloadPdptesIf(true);
  if (event != Event::kNone) {
    SetRegisters(before);
    return event;
  }
  if (keep) return Event::kNone;
  ++invalidations_;
  const uint16_t pcid = pcids ? value & kPcidMask : 0;
  DropLinearIf([vpid = state_.controls.vpid, pcid](const Context& context) {
    return context.vpid == vpid && context.pcid == pcid;
  });
  return Event::kNone;
}

Event Cpu::WriteCr4(uint64_t value) {
  const Registers before = state_.registers;
  const uint64_t set = value & ~before.cr4;
  const uint64_t cleared = before.cr4 & ~value;
  Registers after = before;
  after.cr4 = value;
  if (!IsLegalChange(before, after)) return RaiseGeneralProtection();
  state_.registers = after;
  Reload();
  constexpr uint64_t kEither = kCr4Pse | kCr4Pae | kCr4Pge;
  const Event event = ReloadPdptesIf(Changed(before.cr4, value, kEither | kCr4Smep));
  if (event != Event::kNone) {
    SetRegisters(before);
    return event;
  }
  if (((set | cleared) & kEither) != 0 || (cleared & kCr4Pcide) != 0) {
    DropVpid(state_.controls.vpid);
  } else if ((set & kCr4Smep) != 0) {
    // The translations of other PCIDs may stay.
    ++invalidations_;
    const Context current = state_.contexts.Of(context_);
    DropLinearIf([current](const Context& context) {
      return context.vpid == current.vpid &&
             (context.pcid == current.pcid || context.pcid == kGlobalPcid);
    });
  }
  return Event::kNone;
}

void Cpu::SetPkru(uint32_t pkru) {
  state_.registers.pkru = pkru;
  Reload();
}

void Cpu::Invlpg(Gva gva) {
  // An address that is none names no page.
  if (!guest_.rules().IsCanonical(gva.raw() & linear_mask_)) return;
  // The page goes under all EP4TAs of the current VPID; upper entries go for the whole PCID.
  ++invalidations_;
  const uint16_t vpid = state_.controls.vpid;
  const uint16_t pcid = state_.contexts.Of(context_).pcid;
  DropLinearAddressIf(gva.raw() & linear_mask_, [vpid, pcid](const Context& context) {
    return context.vpid == vpid && (context.pcid == pcid || context.pcid == kGlobalPcid);
  });
  guest_.DropIf([vpid, pcid](const Context& context) {
    return context.vpid == vpid && context.pcid == pcid;
  });
}

Event Cpu::Invpcid(int type, uint16_t pcid, Gva gva) {
  const bool pcids = (state_.registers.cr4 & kCr4Pcide) != 0;
  const bool bad_pcid = pcid > 0xfff || (type <= 1 && pcid != 0 && !pcids);
  const int linear_bits = (state_.registers.cr4 & kCr4La57) != 0 ? 57 : 48;
  const bool bad_address = type == 0 && !GuestRules::IsCanonicalIn(linear_bits, gva.raw());
  if (type < 0 || type > 3 || bad_pcid || bad_address) {
    return RaiseGeneralProtection();
  }
  ++invalidations_;
  const uint16_t vpid = state_.controls.vpid;
  if (type == 0) {
    // Global translations of the address may stay: only this PCID's go. So may upper entries on the
    // way to other addresses.
    const auto matches = [vpid, pcid](const Context& context) {
      return context.vpid == vpid && context.pcid == pcid;
    };
    DropLinearAddressIf(gva.raw() & linear_mask_, matches);
    guest_.DropAddressIf(gva.raw() & linear_mask_, matches);
    return Event::kNone;
  }
  DropLinearIf([type, vpid, pcid](const Context& context) {
    if (context.vpid != vpid) return false;
    if (type == 1) return context.pcid == pcid;
    return type == 2 || context.pcid != kGlobalPcid;
  });
  return Event::kNone;
}

// SDM vol. 3C, 26.5.6.3. The new EPTP takes effect without a flush.
Event Cpu::Vmfunc(uint32_t leaf, uint32_t index) {
  const bool offered = state_.controls.eptp_switching && state_.controls.ept && leaf == 0;
  Eptp eptp;
  if (offered && index < kEptpListEntries) {
    eptp = Eptp(state_.memory.Load(state_.controls.eptp_list.raw() + uint64_t{8} * index));
  }
  if (!offered || index >= kEptpListEntries || !IsValidEptp(eptp, state_.features)) {
    state_.exit = {.event = Event::kVmfunc};
    return Fail(Event::kVmfunc).event;
  }
  state_.eptp_index = static_cast<uint16_t>(index);
  UseEptp(eptp, true);
  return Event::kNone;
}

// --- the hypervisor's ---

const char* VmFailName(VmFail fail) {
  switch (fail) {
    case VmFail::kOk:
      return "it succeeds";
    case VmFail::kType:
      return "the CPU does not offer the type";
    case VmFail::kEptp:
      return "VM entry would refuse the EPTP";
    case VmFail::kReserved:
      return "bits 127:64 of the descriptor are not zero";
  }
  return "?";
}

VmFail Cpu::Invept(int type, uint64_t eptp, uint64_t reserved) {
  const EptCapabilities& can = state_.features.ept;
  if (!(type == 1 && can.invept_single()) && !(type == 2 && can.invept_all())) {
    return VmFail::kType;
  }
  if (reserved != 0) return VmFail::kReserved;
  if (type == 2) return InveptAll() ? VmFail::kOk : VmFail::kType;
  return InveptSingle(Eptp(eptp)) ? VmFail::kOk : VmFail::kEptp;
}

bool Cpu::InveptSingle(Eptp eptp) {
  if (!state_.features.ept.invept_single() || !IsValidEptp(eptp, state_.features)) return false;
  ++invalidations_;
  const uint64_t ep4ta = eptp.root().raw();
  const auto matches = [ep4ta](const Context& context) { return context.ep4ta == ep4ta; };
  DropLinearIf(matches);
  ept_.DropIf(matches);
  return true;
}

bool Cpu::InveptAll() {
  if (!state_.features.ept.invept_all()) return false;
  ++invalidations_;
  const auto matches = [](const Context& context) { return context.ep4ta != kNoEp4ta; };
  DropLinearIf(matches);
  ept_.DropIf(matches);
  return true;
}

bool Cpu::Invvpid(int type, uint16_t vpid, Gva gva) {
  if (!state_.features.ept.invvpid(type) || (vpid == 0 && type != 2)) return false;
  // The address is canonical or not by the widest linear addresses of the CPU, whatever mode the
  // guest is in.
  if (type == 0 && !GuestRules::IsCanonicalIn(57, gva.raw())) return false;
  ++invalidations_;
  if (type == 0) {
    const auto matches = [vpid](const Context& context) { return context.vpid == vpid; };
    DropLinearAddressIf(gva.raw(), matches);
    guest_.DropAddressIf(gva.raw(), matches);
    return true;
  }
  DropLinearIf([type, vpid](const Context& context) {
    if (type == 2) return context.vpid != 0;
    return context.vpid == vpid && (type == 1 || context.pcid != kGlobalPcid);
  });
  return true;
}

}  // namespace tdp::sim
