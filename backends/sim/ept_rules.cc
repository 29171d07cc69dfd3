// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/ept_rules.h"

namespace tdp::sim {

EptRules::EptRules(const CpuFeatures& features, bool mbec, bool paging_write)
    : present_mask_(ept::kRightsMask | (mbec ? ept::kUserExecute : 0)),
      paging_write_mask_(paging_write ? ept::kPagingWrite : 0) {
  for (unsigned rights = 0; rights < 16; ++rights) {
    if ((rights & kRightRead) != 0) continue;
    const unsigned execute = kRightExecute | (mbec ? kRightUserExecute : 0);
    const bool executes = (rights & execute) != 0 && !features.ept.execute_only();
    if ((rights & kRightWrite) != 0 || executes) illegal_rights_ |= 1u << rights;
  }
  illegal_types_ = 1u << 2 | 1u << 3 | 1u << 7;

  const uint64_t beyond = ept::Bits(51, features.physical_address_bits);
  for (int level = 1; level <= 5; ++level) {
    // Bits 6:3 of a table entry; bit 7 too where no page can be mapped.
    table_reserved_[level] = beyond | ept::Bits(6, 3) | (level >= 4 ? ept::Bits(7, 7) : 0);
    leaf_reserved_[level] = beyond;
    if (level > 1) plain_table_mask_[level] = table_reserved_[level] | ept::Bits(7, 7) | 7;
  }
  leaf_reserved_[2] |= ept::Bits(20, 12) | (features.ept.pages_2m() ? 0 : ept::Bits(7, 7));
  leaf_reserved_[3] |= ept::Bits(29, 12) | (features.ept.pages_1g() ? 0 : ept::Bits(7, 7));
}

QuietEptRules::QuietEptRules(const CpuFeatures& features, bool mbec, bool accessed_dirty) {
  const uint64_t beyond = ept::Bits(51, features.physical_address_bits);
  const uint64_t accessed = accessed_dirty ? ept::kAccessed : 0;
  table_value_ = ept::kRightsMask | (mbec ? ept::kUserExecute : 0) | accessed;
  table_mask_ = table_value_ | beyond | ept::Bits(7, 3);
  constexpr uint64_t kWriteBack = uint64_t{6} << ept::kMemoryTypeShift;
  const bool offered[] = {false, true, features.ept.pages_2m(), features.ept.pages_1g()};
  constexpr uint64_t kBelowFrame[] = {0, 0, ept::Bits(20, 12), ept::Bits(29, 12)};
  for (int level = 1; level <= 3; ++level) {
    if (!offered[level]) continue;
    const uint64_t large = level > 1 ? ept::kLargePage : 0;
    leaf_value_[level] = ept::kRead | kWriteBack | large | accessed;
    leaf_mask_[level] = leaf_value_[level] | ept::kMemoryTypeMask | beyond | kBelowFrame[level];
  }
}

bool IsValidEptp(Eptp eptp, const CpuFeatures& features) {
  const EptCapabilities& can = features.ept;
  const uint64_t type = eptp.raw() & 7;
  const bool type_ok =
      (type == 0 && can.uncacheable_tables()) || (type == 6 && can.write_back_tables());
  const uint64_t length = eptp.raw() >> 3 & 7;
  const bool length_ok = (length == 3 && can.walk_4()) || (length == 4 && can.walk_5());
  uint64_t reserved = ept::Bits(11, 8) | ept::Bits(63, features.physical_address_bits);
  if (!can.accessed_dirty()) reserved |= ept::Bits(6, 6);
  if (!can.supervisor_shadow_stack()) reserved |= ept::Bits(7, 7);
  return type_ok && length_ok && (eptp.raw() & reserved) == 0;
}

}  // namespace tdp::sim
