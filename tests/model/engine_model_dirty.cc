// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The engine model's dirty logs are here: whatever a guest or a device wrote to a page that logs is
// shown by the next take.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/types/span.h"
#include "tdp/base/check.h"
#include "tdp/base/status_macros.h"
#include "tdp/memslot/dirty_ring.h"
#include "tests/model/engine_model.h"

namespace tdp::model {

void EngineModel::NoteShown(uint32_t slot, uint64_t page_of_slot) {
  const auto found = unshown_.find(slot);
  if (found != unshown_.end()) writes_shown_ += found->second.erase(page_of_slot);
}

void EngineModel::NoteShownWord(uint32_t slot, uint64_t base, uint64_t mask) {
  for (uint64_t bit = 0; bit < 64; ++bit) {
    if ((mask >> bit & 1) != 0) NoteShown(slot, base + bit);
  }
}

absl::Status EngineModel::CheckAllShown(uint32_t slot) const {
  const auto found = unshown_.find(slot);
  if (found == unshown_.end() || found->second.empty()) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat(
      "page 0x%x of slot %u was written, and its log is silent", *found->second.begin(), slot));
}

absl::Status EngineModel::TakeLog(const Op& op) {
  written_.clear();  // where D bits are the log they are taken
  if (HasRings()) return Harvest();
  const uint32_t id = op.slot % kSlots;
  const auto note = [&](uint64_t base, uint64_t mask) { NoteShownWord(id, base, mask); };
  const absl::Status status =
      op.how % 2 == 0 ? vm().TakeDirtyLog(id, note) : vm().GetDirtyLog(id, note);
  const auto slot = slots_.find(id);
  if (slot == slots_.end() || (slot->second.flags & kSlotLogDirtyPages) == 0) {
    return absl::IsNotFound(status)
               ? absl::OkStatus()
               : absl::InternalError("a log that is not there was taken: " + status.ToString());
  }
  TDP_RETURN_IF_ERROR(status);
  return CheckAllShown(id);
}

absl::Status EngineModel::Harvest() {
  TDP_RETURN_IF_ERROR(vm().HarvestDirtyRings(
      [&](const DirtyRingEntry& entry) { NoteShown(entry.slot, entry.index); }));
  vm().ResetDirtyRings();
  for (const auto& [id, slot] : slots_) TDP_RETURN_IF_ERROR(CheckAllShown(id));
  return absl::OkStatus();
}

// Empties the ring as a collector does, who has copied the pages.
void EngineModel::EmptyRing(Vcpu& vcpu) {
  std::array<DirtyRingEntry, 256> entries;
  uint32_t count = 0;
  while ((count = vcpu.dirty_ring()->Harvest(absl::MakeSpan(entries))) != 0) {
    for (uint32_t i = 0; i < count; ++i) NoteShown(entries[i].slot, entries[i].index);
  }
  vm().ResetDirtyRings();
}

absl::Status EngineModel::MarkDirty(const Op& op) {
  const uint64_t first = op.page % kGuestPages;
  const uint64_t count = std::min<uint64_t>(op.count % 1024, kGuestPages - first);
  TDP_RETURN_IF_ERROR(vm().MarkDirty(Gfn(first).address(), count * kPageSize));
  for (const auto& [id, slot] : slots_) {
    if ((slot.flags & kSlotLogDirtyPages) == 0) continue;
    for (uint64_t page = std::max(first, slot.page);
         page < std::min(first + count, slot.page + slot.count); ++page) {
      unshown_[id].insert(page - slot.page);
    }
  }
  return absl::OkStatus();
}

absl::Status EngineModel::PushDownLog(const Op& op) {
  written_.clear();
  const uint32_t id = op.slot % kSlots;
  const absl::Status status = vm().PushDownDirtyLog(id);
  const auto slot = slots_.find(id);
  if (slot == slots_.end() || (slot->second.flags & kSlotLogDirtyPages) == 0) {
    return status.ok() ? absl::InternalError("a log that is not there was pushed down")
                       : absl::OkStatus();
  }
  if (IsUnsupported(status) || (is_quota_set_ && absl::IsResourceExhausted(status))) {
    return absl::OkStatus();
  }
  return status;
}

}  // namespace tdp::model
