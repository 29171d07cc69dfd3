// SPDX-License-Identifier: Apache-2.0

#include "tdp/memslot/slot_limits.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/memory_slot.h"

namespace tdp {
namespace {

constexpr uint32_t kKnownFlags = kSlotLogDirtyPages | kSlotReadOnly;
// An index of host ranges packs page number, address space and id into one word.
constexpr Hva kMaxUserAddressEnd{uint64_t{1} << 56};

absl::Status CheckRange(const char* field, uint64_t value, uint64_t low, uint64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("SlotLimits.%s = %d: not in %d to %d", field, value, low, high));
}

absl::Status CheckHva(const MemoryRegion& region, const SlotLimits& limits) {
  if (!region.hva.is_page_aligned()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("hva = 0x%x: not page aligned", region.hva.raw()));
  }
  const Hva end = region.hva + region.size;
  if (end < region.hva || end > limits.user_address_end) {
    return absl::InvalidArgumentError(
        absl::StrFormat("hva = 0x%x, size = 0x%x: ends beyond the user addresses at 0x%x",
                        region.hva.raw(), region.size, limits.user_address_end.raw()));
  }
  return absl::OkStatus();
}

absl::Status CheckSlotAndFlags(const MemoryRegion& region, const SlotLimits& limits) {
  if (region.slot >= limits.slots) {
    return absl::InvalidArgumentError(
        absl::StrFormat("slot = %d: the limit is %d", region.slot, limits.slots));
  }
  if ((region.flags & ~kKnownFlags) != 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "flags = 0x%x: only log-dirty-pages (1) and read-only (2) are known", region.flags));
  }
  return absl::OkStatus();
}

absl::Status CheckSizeAndGpa(const MemoryRegion& region) {
  if ((region.size & kPageOffsetMask) != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("size = 0x%x: not a multiple of the page size", region.size));
  }
  if (!region.gpa.is_page_aligned()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("gpa = 0x%x: not page aligned", region.gpa.raw()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckLimits(const SlotLimits& limits) {
  TDP_RETURN_IF_ERROR(CheckRange("slots", limits.slots, 1, 65536));
  TDP_RETURN_IF_ERROR(CheckRange("address_spaces", limits.address_spaces, 1, kMaxAddressSpaces));
  TDP_RETURN_IF_ERROR(
      CheckRange("guest_physical_address_bits", limits.guest_physical_address_bits, 32, 52));
  if (!limits.user_address_end.is_page_aligned() || limits.user_address_end > kMaxUserAddressEnd) {
    return absl::InvalidArgumentError(
        absl::StrFormat("SlotLimits.user_address_end = 0x%x: not page aligned, or above 2^56",
                        limits.user_address_end.raw()));
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const MemoryRegion& region, const SlotLimits& limits) {
  TDP_RETURN_IF_ERROR(CheckSlotAndFlags(region, limits));
  TDP_RETURN_IF_ERROR(CheckSizeAndGpa(region));
  TDP_RETURN_IF_ERROR(CheckHva(region, limits));
  if (region.address_space >= limits.address_spaces) {
    return absl::InvalidArgumentError(absl::StrFormat("address_space = %d: the VM offers %d",
                                                      region.address_space, limits.address_spaces));
  }
  if (region.gpa + region.size < region.gpa) {
    return absl::InvalidArgumentError(
        absl::StrFormat("gpa = 0x%x, size = 0x%x: wraps around", region.gpa.raw(), region.size));
  }
  if (PageCount::FromBytes(region.size) > kMaxSlotPages) {
    return absl::InvalidArgumentError(
        absl::StrFormat("size = 0x%x: more than 2^31 - 1 pages", region.size));
  }
  return absl::OkStatus();
}

}  // namespace tdp
