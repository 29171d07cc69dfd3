// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/format/guest_paging.h"

#include <algorithm>

namespace tdp {

GuestPaging::GuestPaging(const GuestControls& controls)
    : controls_(controls), mode_(controls.mode()) {
  const bool wide = mode_ >= PagingMode::kPae;
  const bool is_64_bit = mode_ >= PagingMode::k4Level;
  const bool no_execute = wide && (controls.efer & guest::kEferNoExecute) != 0;
  reports_fetch_ = no_execute || (controls.cr4 & guest::kCr4Smep) != 0;
  user_keys_ = is_64_bit && (controls.cr4 & guest::kCr4UserKeys) != 0;
  supervisor_keys_ = is_64_bit && (controls.cr4 & guest::kCr4SupervisorKeys) != 0;
  pdpte_reserved_ = guest::Bits(63, controls.physical_address_bits) | guest::kPdpteReservedLow;
  if (mode_ == PagingMode::k32Bit) Set32BitRules();
  if (wide) SetWideRules();
  upper_oddities_ = guest::kLargePage | (has_keys() ? guest::kPresent : 0);
  for (size_t level = 2; level < reserved_[0].size(); ++level) {
    upper_oddities_ |= reserved_[0][level];
  }
  for (size_t access = 0; access < GuestAccess::kKinds; ++access) {
    for (unsigned rights = 0; rights <= GuestRights::kAll; ++rights) {
      const bool forbids = Forbids(GuestAccess::FromRaw(access), GuestRights(rights));
      forbidden_[access] |= static_cast<uint8_t>(forbids << rights);
    }
  }
}

// SDM vol. 3A, table 5-4 ("PDE that maps a 4-MByte page"): the width decides how many of the
// PSE-36 bits are address.
void GuestPaging::Set32BitRules() {
  if ((controls_.cr4 & guest::kCr4PageSizeExtensions) == 0) return;
  large_levels_ = 1u << 2;
  const int high_bits = std::clamp(controls_.physical_address_bits - 32, 0, guest::kPse36Bits);
  reserved_[1][2] = guest::Bits(21, guest::kPse36Shift + high_bits);
}

// SDM vol. 3A, tables 5-8 to 5-11 (PAE) and 5-14 to 5-20 (4- and 5-level).
void GuestPaging::SetWideRules() {
  const bool is_64_bit = mode_ >= PagingMode::k4Level;
  const int width = controls_.physical_address_bits;
  uint64_t everywhere = is_64_bit ? guest::Bits(51, width) : guest::Bits(62, width);
  if ((controls_.efer & guest::kEferNoExecute) == 0) everywhere |= guest::kNoExecute;
  for (auto& levels : reserved_) levels.fill(everywhere);
  for (const Level large : {kLevel2M, kLevel1G}) {
    // Bit 12 is the page's PAT bit.
    reserved_[1][static_cast<size_t>(large.raw())] |= guest::Bits(large.shift() - 1, 13);
  }
  large_levels_ = 1u << 2 | (is_64_bit && controls_.pages_1g ? 1u << 3 : 0);
  for (int level = 3; level <= 5; ++level) {
    if ((large_levels_ >> level & 1) == 0) {
      reserved_[0][static_cast<size_t>(level)] |= guest::kLargePage;
    }
  }
}

// These are the rules of SDM vol. 3A, 5.6.1 "Determination of access rights".
bool GuestPaging::Forbids(GuestAccess access, GuestRights rights) const {
  if (access.is_user() && !rights.user()) return true;
  const bool supervisor_at_user_page = !access.is_user() && rights.user();
  if (access.is_fetch()) {
    const bool smep = (controls_.cr4 & guest::kCr4Smep) != 0;
    return !rights.executable() || (smep && supervisor_at_user_page);
  }
  const bool smap = (controls_.cr4 & guest::kCr4Smap) != 0;
  if (smap && supervisor_at_user_page && !access.is_excused_from_smap()) return true;
  const bool write_protect = access.is_user() || (controls_.cr0 & guest::kCr0WriteProtect) != 0;
  return access.is_write() && !rights.writable() && write_protect;
}

// These are the rules of SDM vol. 3A, 5.6.2 "Protection keys".
bool GuestPaging::KeyForbids(GuestAccess access, GuestRights rights, uint64_t leaf,
                             const GuestRoots& roots) const {
  if (access.is_fetch()) return false;
  if (!(rights.user() ? user_keys_ : supervisor_keys_)) return false;
  const uint64_t key = leaf >> guest::kProtectionKeyShift & 15;
  const uint32_t bits = (rights.user() ? roots.pkru : roots.pkrs) >> 2 * key & 3;
  if ((bits & 1) != 0) return true;  // access disable
  const bool writes_checked = access.is_user() || (controls_.cr0 & guest::kCr0WriteProtect) != 0;
  return (bits & 2) != 0 && access.is_write() && writes_checked;
}

}  // namespace tdp
