// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/dirty/detached_dirt.h"

#include <algorithm>
#include <cstdint>

#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/slot_state.h"

namespace tdp {
namespace {

constexpr uint64_t kWordPages = DirtyLog::kPagesPerWord;

// Marks `bits`, of 64 pages from `index` on, whatever its alignment.
void MarkBits(DirtyLog& log, uint64_t index, uint64_t bits) {
  const uint64_t word = index & ~(kWordPages - 1);
  const auto shift = static_cast<int>(index - word);
  const uint64_t low = bits << shift;
  const uint64_t high = shift == 0 ? 0 : bits >> (64 - shift);
  if (low != 0 && log.IsPrepared(word)) log.MarkWord(word, low);
  if (high != 0 && log.IsPrepared(word + kWordPages)) log.MarkWord(word + kWordPages, high);
}

// The part of `bits`, frames from `first` on, that lies in `slot`.
uint64_t ClipTo(const MemorySlot& slot, Gfn first, uint64_t bits) {
  if (slot.base > first) {
    const uint64_t before = (slot.base - first).raw();
    bits = before >= 64 ? 0 : bits & (~uint64_t{0} << before);
  }
  if (slot.end() < first + PageCount(64)) {
    const uint64_t inside = slot.end() > first ? (slot.end() - first).raw() : 0;
    bits = inside == 0 ? 0 : bits & (~uint64_t{0} >> (64 - inside));
  }
  return bits;
}

}  // namespace

void MarkWritten(const MemorySlot& slot, Gfn base, const TableMask& written) {
  DirtyLog* log = slot.state == nullptr ? nullptr : slot.state->dirty_log();
  if (log == nullptr) return;
  for (int i = 0; i < TableMask::kWords; ++i) {
    const Gfn first = base + PageCount(static_cast<uint64_t>(i) * 64);
    const uint64_t bits = ClipTo(slot, first, written.word(i));
    if (bits == 0) continue;
    if (first >= slot.base) {
      MarkBits(*log, slot.IndexOf(first), bits);
    } else {
      MarkBits(*log, 0, bits >> (slot.base - first).raw());
    }
  }
}

void DetachedDirt::OnLost(Gfn gfn) {
  const MemorySlot* slot = slots_.Find(space_, gfn);
  if (slot == nullptr) return;
  DirtyLog* log = slot->state->dirty_log();
  const uint64_t index = slot->IndexOf(gfn);
  if (log != nullptr && log->IsPrepared(index)) log->Mark(index);
}

void DetachedHarvest::Take(const TablePage& table) {
  TableMask written = FindEntriesWith(table.entries(), EntryBits::kDirty);
  if (!written.any()) return;
  written.ForEach([&](int i) {
    if (table.entry(i).Load().is_untracked()) written.Clear(i);
  });
  // A slot that is found inside a section keeps its state until the section is over: whoever
  // replaces it has a writer's section between the two.
  MmuReadSection section(reader_);
  MarkSlots(table.role.address_space(), table.base, written);
}

// A table may map more than one slot.
void DetachedHarvest::MarkSlots(AddressSpaceId space, Gfn base, TableMask written) {
  Gfn done = base;
  written.ForEach([&](int i) {
    const Gfn gfn = base + PageCount(static_cast<uint64_t>(i));
    if (gfn < done) return;
    const MemorySlot* slot = slots_.Find(space, gfn);
    done = gfn + PageCount(1);
    if (slot == nullptr) return;
    MarkWritten(*slot, base, written);
    done = slot->end();
  });
}

}  // namespace tdp
