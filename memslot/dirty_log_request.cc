// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/memslot/dirty_log_request.h"

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_set.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {
namespace {

absl::Status CheckTarget(const SlotSet& slots, AddressSpaceId address_space, uint32_t id) {
  if (slots.dirty_bitmap_policy() == DirtyBitmapPolicy::kRings) {
    return absl::FailedPreconditionError("the VM logs dirty pages in rings, not in bitmaps");
  }
  if (id >= slots.limits().slots) {
    return absl::InvalidArgumentError(
        absl::StrFormat("slot = %d: the limit is %d", id, slots.limits().slots));
  }
  if (address_space >= slots.limits().address_spaces) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "address_space = %d: the VM offers %d", address_space, slots.limits().address_spaces));
  }
  return absl::OkStatus();
}

absl::StatusOr<MemorySlot> SlotWithLog(const SlotSet& slots, AddressSpaceId address_space,
                                       uint32_t id) {
  const std::optional<MemorySlot> slot = slots.FindById(address_space, id);
  if (!slot.has_value()) {
    return absl::NotFoundError(absl::StrFormat("slot = %d: there is no such slot", id));
  }
  if (slot->state->dirty_log() == nullptr) {
    return absl::NotFoundError(absl::StrFormat("slot = %d: does not log dirty pages", id));
  }
  return *slot;
}

}  // namespace

absl::StatusOr<MemorySlot> SlotToGetDirtyLog(const SlotSet& slots, AddressSpaceId address_space,
                                             uint32_t id) {
  TDP_RETURN_IF_ERROR(CheckTarget(slots, address_space, id));
  return SlotWithLog(slots, address_space, id);
}

absl::StatusOr<MemorySlot> SlotToClearDirtyLog(const SlotSet& slots, AddressSpaceId address_space,
                                               uint32_t id, const DirtyLogRange& range) {
  TDP_RETURN_IF_ERROR(CheckTarget(slots, address_space, id));
  if (range.first_page % DirtyLog::kPagesPerWord != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("first_page = %d: not a multiple of 64", range.first_page));
  }
  TDP_ASSIGN_OR_RETURN(const MemorySlot slot, SlotWithLog(slots, address_space, id));
  const uint64_t pages = slot.pages.raw();
  if (range.first_page > pages) {
    return absl::InvalidArgumentError(
        absl::StrFormat("first_page = %d: slot %d has %d pages", range.first_page, id, pages));
  }
  const uint64_t left = pages - range.first_page;
  if (range.num_pages > left) {
    return absl::InvalidArgumentError(
        absl::StrFormat("num_pages = %d: slot %d has %d pages from page %d on", range.num_pages, id,
                        left, range.first_page));
  }
  if (range.num_pages < left && range.num_pages % DirtyLog::kPagesPerWord != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("num_pages = %d: neither a multiple of 64 nor up to the end of slot %d",
                        range.num_pages, id));
  }
  return slot;
}

absl::Status CheckManualProtectFlags(uint64_t flags) {
  if (flags == 0 || flags == kDirtyLogManualProtect ||
      flags == (kDirtyLogManualProtect | kDirtyLogInitiallySet)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("manual protect flags = 0x%x: only 0, 1 and 3 are valid", flags));
}

}  // namespace tdp
