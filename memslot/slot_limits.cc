// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/slot_limits.h"

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/address.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/memory_slot.h"

namespace tdp {
namespace {

absl::Status CheckLimit(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("SlotLimits.%s = %d: not in %d to %d", field, value, low, high));
}

absl::Status CheckHva(const char* field, Hva hva, const MemoryRegion& region,
                      const SlotLimits& limits) {
  if (!hva.is_page_aligned()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s = 0x%x: not page aligned", field, hva.raw()));
  }
  // The memory may end with the address space.
  if (region.size != 0 && hva + (region.size - 1) < hva) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s = 0x%x, size = 0x%x: wraps around", field, hva.raw(), region.size));
  }
  const Hva end = limits.user_address_end;
  if (end != Hva(0) && (hva > end || region.size > end - hva)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s = 0x%x, size = 0x%x: ends beyond the user addresses at 0x%x", field,
                        hva.raw(), region.size, end.raw()));
  }
  return absl::OkStatus();
}

absl::Status BadFrames(const char* field, uint64_t value, const char* why) {
  return absl::InvalidArgumentError(absl::StrFormat("%s = 0x%x: %s", field, value, why));
}

// Checks what a slot of host frames says of them, and that any other slot says nothing.
absl::Status CheckHostFrames(const MemoryRegion& region, const SlotLimits& limits) {
  if ((region.flags & kSlotHostFrames) == 0) {
    constexpr const char* kNone = "flags have no kSlotHostFrames";
    if (region.hpa != Hpa(0)) return BadFrames("hpa", region.hpa.raw(), kNone);
    if (region.rights != Access::All()) return BadFrames("rights", region.rights.raw(), kNone);
    if (region.memory_type != MemoryType::kWriteBack) {
      return BadFrames("memory_type", static_cast<uint64_t>(region.memory_type), kNone);
    }
    return absl::OkStatus();
  }
  if (region.hva != Hva(0)) {
    return BadFrames("hva", region.hva.raw(), "a slot of host frames has none");
  }
  if (!region.hpa.is_page_aligned()) {
    return BadFrames("hpa", region.hpa.raw(), "not page aligned");
  }
  const uint64_t end = uint64_t{1} << limits.host_physical_address_bits;
  if (region.hpa.raw() > end || region.size > end - region.hpa.raw()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("hpa = 0x%x, size = 0x%x: beyond the host's MAXPHYADDR of %d bits",
                        region.hpa.raw(), region.size, limits.host_physical_address_bits));
  }
  if (region.rights.can_write() && !region.rights.can_read()) {
    return BadFrames("rights", region.rights.raw(), "no page can be written and not read");
  }
  const auto type = static_cast<uint64_t>(region.memory_type);
  return IsValidMemoryType(type) ? absl::OkStatus() : BadFrames("memory_type", type, "reserved");
}

// Checks the flags as KVM's check_memory_region_flags does: what is private is neither logged nor
// read-only.
absl::Status CheckFlags(uint32_t flags, const SlotLimits& limits) {
  constexpr uint32_t kOfShared = kSlotLogDirtyPages | kSlotReadOnly;
  if (limits.private_memory && flags == kSlotPrivateMemory) return absl::OkStatus();
  if ((flags & ~(kOfShared | kSlotHostFrames)) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat(
      "flags = 0x%x: only log-dirty-pages (1), read-only (2)%s and host frames (64) are known",
      flags, limits.private_memory ? ", or else private memory (4)," : ""));
}

absl::Status CheckSlotAndFlags(const MemoryRegion& region, const SlotLimits& limits) {
  if (region.slot >= limits.slots) {
    return absl::InvalidArgumentError(
        absl::StrFormat("slot = %d: the limit is %d", region.slot, limits.slots));
  }
  return CheckFlags(region.flags, limits);
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
  TDP_RETURN_IF_ERROR(CheckLimit("slots", limits.slots, 1, 65536));
  TDP_RETURN_IF_ERROR(CheckLimit("address_spaces", limits.address_spaces, 1, kMaxAddressSpaces));
  TDP_RETURN_IF_ERROR(
      CheckLimit("guest_physical_address_bits", limits.guest_physical_address_bits, 32, 52));
  TDP_RETURN_IF_ERROR(
      CheckLimit("max_physical_address_bits", limits.max_physical_address_bits, 32, 52));
  TDP_RETURN_IF_ERROR(
      CheckLimit("host_physical_address_bits", limits.host_physical_address_bits, 32, 52));
  if (!limits.user_address_end.is_page_aligned()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "SlotLimits.user_address_end = 0x%x: not page aligned", limits.user_address_end.raw()));
  }
  return absl::OkStatus();
}

absl::Status CheckRequest(const MemoryRegion& region, const SlotLimits& limits) {
  TDP_RETURN_IF_ERROR(CheckSlotAndFlags(region, limits));
  TDP_RETURN_IF_ERROR(CheckSizeAndGpa(region));
  if ((region.flags & kSlotHostFrames) == 0) {
    TDP_RETURN_IF_ERROR(CheckHva("hva", region.hva, region, limits));
  }
  TDP_RETURN_IF_ERROR(CheckHostFrames(region, limits));
  if ((region.flags & kSlotPrivateMemory) != 0) {
    TDP_RETURN_IF_ERROR(CheckHva("private_hva", region.private_hva, region, limits));
  }
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
