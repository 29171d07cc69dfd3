// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/backends/sim/guest_rules.h"

#include <algorithm>

namespace tdp::sim {
namespace {

constexpr uint64_t Bits(int high, int low) {
  return high < low ? 0 : (~uint64_t{0} >> (63 - high)) & (~uint64_t{0} << low);
}

// A 4 MiB page of 32-bit paging keeps address bits 39:32 in bits 20:13 (PSE-36).
constexpr int kPse36Shift = 13;
constexpr int kPse36Bits = 8;

}  // namespace

GuestRules::GuestRules(const Registers& registers, const CpuFeatures& features)
    : mode_(PagingModeOf(registers)), levels_(GuestLevels(mode_)) {
  const int width = features.physical_address_bits;
  pdpte_reserved_ = Bits(63, width) | Bits(8, 5) | Bits(2, 1);
  if (mode_ == PagingMode::kNone) {
    // A 64-bit CPU without paging still has 32-bit linear addresses: long mode needs paging.
    return;
  }
  if (mode_ == PagingMode::k32Bit) {
    index_bits_ = 10;
    index_mask_ = 1023;
    entry_bytes_ = 4;
    large_levels_ = (registers.cr4 & kCr4Pse) != 0 ? 1u << 2 : 0;
    const int high_bits = std::clamp(width - 32, 0, kPse36Bits);
    leaf_reserved_[2] = Bits(21, kPse36Shift + high_bits);
    plain_table_mask_[2] = kGuestPresent | (large_levels_ != 0 ? kGuestLargePage : 0);
    return;
  }
  const bool wide = Is64Bit(mode_);
  const uint64_t common = (wide ? Bits(51, width) : Bits(62, width)) |
                          ((registers.efer & kEferNxe) == 0 ? kGuestNoExecute : 0);
  table_reserved_.fill(common);
  leaf_reserved_.fill(common);
  leaf_reserved_[2] |= Bits(20, 13);
  leaf_reserved_[3] |= Bits(29, 13);
  large_levels_ = 1u << 2;
  plain_table_mask_.fill(common | kGuestPresent | kGuestLargePage);
  plain_table_mask_[1] = 0;
  if (!wide) return;
  if (features.guest_pages_1g) {
    large_levels_ |= 1u << 3;
  } else {
    table_reserved_[3] |= kGuestLargePage;
  }
  table_reserved_[4] |= kGuestLargePage;
  table_reserved_[5] |= kGuestLargePage;
  canonical_shift_ = mode_ == PagingMode::k5Level ? 7 : 16;
  linear_mask_ = ~uint64_t{0};
}

uint64_t GuestRules::GpaOf(uint64_t leaf, int level, uint64_t gva) const {
  const uint64_t offset = (uint64_t{1} << shift(level)) - 1;
  uint64_t frame = leaf & kTableMask & ~offset;
  if (mode_ == PagingMode::k32Bit && level == 2) {
    frame |= (leaf >> kPse36Shift & ((1 << kPse36Bits) - 1)) << 32;
  }
  return frame | (gva & offset);
}

}  // namespace tdp::sim
