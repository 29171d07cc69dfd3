// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/engine/dirty_marker.h"

#include <algorithm>
#include <cstdint>

#include "tdp/base/status_macros.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {

// Goes from the top down, since slots are looked up by what is at a frame or below it: holes of any
// size cost nothing.
absl::Status DirtyMarker::Mark(Gfn first, Gfn end) {
  for (Part part; first < end && FindLast(first, end, part); end = part.first) {
    if (part.log != nullptr) TDP_RETURN_IF_ERROR(MarkPart(part));
  }
  return absl::OkStatus();
}

// Finds the highest part of [first, end) that lies in a slot. A slot that is moving counts: its log
// moves with it.
bool DirtyMarker::FindLast(Gfn first, Gfn end, Part& part) {
  const MmuReadSection section(reader_);
  const MemorySlot* slot = slots_.FindAtOrBelow(space_, end - PageCount(1));
  if (slot == nullptr || slot->end() <= first) return false;
  part.first = std::max(first, slot->base);
  part.end = std::min(end, slot->end());
  part.index = slot->IndexOf(part.first);
  part.log = slot->logs_dirty_pages() ? slot->state->shared_log() : nullptr;
  return true;
}

absl::Status DirtyMarker::MarkPart(const Part& part) {
  constexpr uint64_t kWord = DirtyLog::kPagesPerWord;
  const uint64_t end = part.index + (part.end - part.first).raw();
  for (uint64_t at = part.index; at < end;) {
    const uint64_t base = at & ~(kWord - 1);
    const uint64_t stop = std::min(base + kWord, end);
    TDP_RETURN_IF_ERROR(part.log->Prepare(at));
    part.log->MarkWord(base, (~uint64_t{0} >> (kWord - (stop - at))) << (at - base));
    at = stop;
  }
  return absl::OkStatus();
}

}  // namespace tdp
