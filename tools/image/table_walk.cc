// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/tools/image/table_walk.h"

#include "tdp/mmu/format/ept_format.h"

namespace tdp::tools {
namespace {

using sim::kGuestNoExecute;
using sim::kGuestPresent;
using sim::kGuestUser;
using sim::kGuestWrite;

constexpr uint32_t kFaultPresent = 1;
constexpr uint32_t kFaultWrite = 2;
constexpr uint32_t kFaultUser = 4;
constexpr uint32_t kFaultReserved = 8;
constexpr uint32_t kFaultFetch = 16;

sim::CpuFeatures FeaturesOf(const TableRoots& roots) {
  sim::CpuFeatures features;
  features.physical_address_bits = roots.physical_address_bits;
  return features;
}

uint64_t QualificationOf(WalkAccess access) {
  switch (access) {
    case WalkAccess::kRead:
      return ept::kQualRead;
    case WalkAccess::kWrite:
      return ept::kQualWrite;
    case WalkAccess::kFetch:
      return ept::kQualFetch;
  }
  return 0;
}

// A fetch in user mode needs a right of its own under MBEC.
unsigned RightsFor(WalkAccess access, bool user_execute) {
  switch (access) {
    case WalkAccess::kRead:
      return sim::kRightRead;
    case WalkAccess::kWrite:
      return sim::kRightWrite;
    case WalkAccess::kFetch:
      return user_execute ? sim::kRightUserExecute : sim::kRightExecute;
  }
  return 0;
}

}  // namespace

sim::Registers GuestRegisters(sim::PagingMode mode, uint64_t cr3) {
  sim::Registers registers;
  registers.cr3 = cr3;
  if (mode == sim::PagingMode::kNone) return registers;
  registers.cr0 |= sim::kCr0Pg | sim::kCr0Wp;
  registers.cr4 |= sim::kCr4Pse;
  if (mode == sim::PagingMode::k32Bit) return registers;
  registers.cr4 |= sim::kCr4Pae;
  registers.efer |= sim::kEferNxe;
  if (mode == sim::PagingMode::kPae) return registers;
  registers.efer |= sim::kEferLme | sim::kEferLma;
  if (mode == sim::PagingMode::k5Level) registers.cr4 |= sim::kCr4La57;
  return registers;
}

TableWalker::TableWalker(const MemoryImage& image, const TableRoots& roots)
    : image_(image),
      roots_(roots),
      ept_rules_(FeaturesOf(roots), roots.mbec, /*paging_write=*/false),
      guest_rules_(roots.guest.value_or(sim::Registers()), FeaturesOf(roots)) {}

std::optional<uint64_t> TableWalker::ThroughEpt(const EptQuestion& question,
                                                TableWalk& walk) const {
  walk.gpa = question.gpa;
  if (!roots_.eptp.has_value()) return question.gpa;
  const auto violate = [&](unsigned rights) {
    walk.end = WalkEnd::kViolation;
    walk.qualification =
        question.qualification | uint64_t{rights & 7} << ept::kQualRightsShift |
        (roots_.mbec && (rights & sim::kRightUserExecute) != 0 ? ept::kQualUserExecutable : 0);
    return std::nullopt;
  };
  const int levels = roots_.eptp->levels();
  if (question.gpa >> (12 + 9 * levels) != 0) return violate(0);
  uint64_t table = roots_.eptp->root().raw();
  unsigned rights = 15;
  for (int level = levels; level > 0; --level) {
    const int shift = 12 + 9 * (level - 1);
    const uint64_t address = table + (question.gpa >> shift & 511) * 8;
    const std::optional<uint64_t> entry = image_.Load(address);
    if (!entry.has_value()) {
      walk.end = WalkEnd::kOutsideImage;
      walk.hpa = address;
      return std::nullopt;
    }
    walk.steps.push_back({.is_ept = true, .level = level, .address = address, .entry = *entry});
    if (!ept_rules_.IsPresent(*entry)) return violate(0);
    if (ept_rules_.IsMisconfigured(*entry, level)) {
      walk.end = WalkEnd::kMisconfiguration;
      return std::nullopt;
    }
    rights &= sim::RightsOf(*entry);
    if (!sim::EptRules::IsLeaf(*entry, level)) {
      table = *entry & ept::kAddressMask;
      continue;
    }
    if ((rights & question.rights) != question.rights) return violate(rights);
    const uint64_t offset = (uint64_t{1} << shift) - 1;
    walk.ept_level = level;
    walk.ept_leaf = (*entry & ~(ept::kRightsMask | ept::kUserExecute)) | (rights & 7) |
                    uint64_t{rights & 8} << 7;
    return (*entry & ept::kAddressMask & ~offset) | (question.gpa & offset);
  }
  return std::nullopt;  // not reached: level 1 is a leaf
}

std::optional<uint64_t> TableWalker::ReadGuestEntry(uint64_t gpa, int level,
                                                    TableWalk& walk) const {
  // With accessed and dirty flags on, the CPU treats its accesses to guest tables as writes.
  const bool writes = roots_.eptp.has_value() && roots_.eptp->accessed_dirty();
  const EptQuestion question = {
      gpa, writes ? sim::kRightRead | sim::kRightWrite : sim::kRightRead,
      ept::kQualRead | (writes ? ept::kQualWrite : 0) | ept::kQualLinearAddressValid};
  const std::optional<uint64_t> address = ThroughEpt(question, walk);
  if (!address.has_value()) return std::nullopt;
  const std::optional<uint64_t> entry = image_.Load(*address, guest_rules_.entry_bytes());
  if (!entry.has_value()) {
    walk.end = WalkEnd::kOutsideImage;
    walk.hpa = *address;
    return std::nullopt;
  }
  walk.steps.push_back({.is_ept = false,
                        .level = level,
                        .address = *address,
                        .guest_address = gpa,
                        .entry = *entry});
  return entry;
}

bool TableWalker::Fault(TableWalk& walk, WalkAccess access, bool user, uint32_t bits) {
  walk.end = WalkEnd::kPageFault;
  walk.error_code = bits | (access == WalkAccess::kWrite ? kFaultWrite : 0) |
                    (access == WalkAccess::kFetch ? kFaultFetch : 0) | (user ? kFaultUser : 0);
  return false;
}

// `rights`: the AND over the walk, with XD inverted.
bool TableWalker::Permits(uint64_t rights, WalkAccess access, bool user) const {
  const bool user_page = (rights & kGuestUser) != 0;
  if (user && !user_page) return false;
  switch (access) {
    case WalkAccess::kRead:
      return true;
    case WalkAccess::kWrite:
      return (rights & kGuestWrite) != 0 || (!user && (roots_.guest->cr0 & sim::kCr0Wp) == 0);
    case WalkAccess::kFetch:
      return (rights & kGuestNoExecute) != 0 &&
             !(!user && user_page && (roots_.guest->cr4 & sim::kCr4Smep) != 0);
  }
  return false;
}

// The entries of the third level are four, and have no rights.
bool TableWalker::LoadPdpte(uint64_t gva, TableWalk& walk, uint64_t& table) const {
  const uint64_t at = (roots_.guest->cr3 & 0xffffffe0) + (gva >> 30 & 3) * 8;
  const std::optional<uint64_t> pdpte = ReadGuestEntry(at, 3, walk);
  if (!pdpte.has_value()) return false;
  table = sim::GuestRules::TableOf(*pdpte);
  return true;
}

bool TableWalker::WalkGuest(uint64_t gva, WalkAccess access, bool user, TableWalk& walk) const {
  uint64_t table = guest_rules_.RootOf(roots_.guest->cr3);
  uint64_t rights = kGuestWrite | kGuestUser | kGuestNoExecute;
  if (guest_rules_.mode() == sim::PagingMode::kPae) {
    if (!LoadPdpte(gva, walk, table)) return false;
    const uint64_t pdpte = walk.steps.back().entry;
    if ((pdpte & kGuestPresent) == 0) return Fault(walk, access, user, 0);
    if (!guest_rules_.IsValidPdpte(pdpte)) {
      return Fault(walk, access, user, kFaultPresent | kFaultReserved);
    }
  }
  for (int level = guest_rules_.levels(); level > 0; --level) {
    const auto entry = ReadGuestEntry(table + guest_rules_.EntryOffset(gva, level), level, walk);
    if (!entry.has_value()) return false;
    if ((*entry & kGuestPresent) == 0) return Fault(walk, access, user, 0);
    if (guest_rules_.HasReservedBit(*entry, level)) {
      return Fault(walk, access, user, kFaultPresent | kFaultReserved);
    }
    rights &= *entry ^ kGuestNoExecute;
    if (!guest_rules_.IsLeaf(*entry, level)) {
      table = sim::GuestRules::TableOf(*entry);
      continue;
    }
    walk.guest_level = level;
    constexpr uint64_t kRights = kGuestWrite | kGuestUser | kGuestNoExecute;
    walk.guest_leaf = (*entry & ~kRights) | ((rights ^ kGuestNoExecute) & kRights);
    if (!Permits(rights, access, user)) return Fault(walk, access, user, kFaultPresent);
    walk.gpa = guest_rules_.GpaOf(*entry, level, gva);
    return true;
  }
  return false;  // not reached: level 1 is a leaf
}

TableWalk TableWalker::WalkLinear(uint64_t gva, WalkAccess access, bool user) const {
  if (!roots_.guest.has_value()) return WalkPhysical(gva, access);
  TableWalk walk;
  if (sim::Is64Bit(guest_rules_.mode()) && !guest_rules_.IsCanonical(gva)) {
    walk.end = WalkEnd::kNotCanonical;
    return walk;
  }
  if (!WalkGuest(gva & guest_rules_.linear_mask(), access, user, walk)) return walk;
  // User-mode or supervisor-mode is a matter of the page, for the EPT.
  const bool user_page = (walk.guest_leaf & kGuestUser) != 0;
  const std::optional<uint64_t> hpa =
      ThroughEpt({walk.gpa, RightsFor(access, roots_.mbec && user_page),
                  QualificationOf(access) | ept::kQualLinearAddressValid | ept::kQualFinalAddress},
                 walk);
  if (hpa.has_value()) walk.hpa = *hpa;
  return walk;
}

TableWalk TableWalker::WalkPhysical(uint64_t gpa, WalkAccess access) const {
  TableWalk walk;
  const auto hpa = ThroughEpt({gpa, RightsFor(access, false), QualificationOf(access)}, walk);
  if (hpa.has_value()) walk.hpa = *hpa;
  return walk;
}

std::optional<uint64_t> TableWalker::Find(uint64_t gpa) const {
  if (!roots_.eptp.has_value()) return gpa;
  TableWalk walk;
  return ThroughEpt({gpa, sim::kRightRead, 0}, walk);
}

}  // namespace tdp::tools
