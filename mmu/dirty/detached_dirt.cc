// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/dirty/detached_dirt.h"

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "tdp/base/index.h"
#include "tdp/base/level.h"
#include "tdp/memslot/dirty_log.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/format/frame_range.h"
#include "tdp/mmu/tables/table_scan.h"

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

}  // namespace

void MarkWritten(const MemorySlot& slot, absl::Span<const WrittenFrames> written) {
  AssertInSection();
  DirtyLog* log = slot.state == nullptr ? nullptr : slot.state->dirty_log();
  if (log == nullptr) return;
  const FrameRange frames{slot.base, slot.end()};
  // A mark is a locked operation, which would wait for its line alone. So all lines come first.
  for (const WrittenFrames& some : written) {
    if (frames.Holds(some.base, PageCount(1))) log->Prefetch(slot.IndexOf(some.base));
  }
  for (const WrittenFrames& some : written) {
    const uint64_t bits = some.Inside(frames);
    if (bits == 0) continue;
    if (some.base >= slot.base) {
      MarkBits(*log, slot.IndexOf(some.base), bits);
    } else {
      MarkBits(*log, 0, bits >> (slot.base - some.base).raw());
    }
  }
}

void DetachedDirt::OnLost(Gfn gfn) {
  AssertWriting();
  const MemorySlot* slot = slots_.Find(space_, gfn);
  if (slot == nullptr) return;
  DirtyLog* log = slot->state->dirty_log();
  const uint64_t index = slot->IndexOf(gfn);
  if (log != nullptr && log->IsPrepared(index)) log->Mark(index);
}

void DetachedHarvest::Take(const TablePage& table) {
  std::array<WrittenFrames, Level::kEntries / WrittenFrames::kFrames> all;
  size_t found = 0;
  for (int first = 0; first < Level::kEntries; first += 64) {
    uint64_t bits = FindIn64EntriesWith(table.entries() + first, EntryBits::kDirty);
    for (uint64_t rest = bits; rest != 0; rest &= rest - 1) {
      const uint64_t bit = rest & -rest;
      if (table.entry(first + std::countr_zero(bit)).Load().is_untracked()) bits &= ~bit;
    }
    if (bits != 0) all[found++] = {table.base + PageCount(AsIndex(first)), bits};
  }
  if (found == 0) return;
  // A slot that is found inside a section keeps its state until the section is over: whoever
  // replaces it has a writer's section between the two.
  MmuReadSection section(reader_);
  MarkSlots(table.role.address_space(), absl::MakeConstSpan(all.data(), found));
}

// A table may map more than one slot.
void DetachedHarvest::MarkSlots(AddressSpaceId space, absl::Span<const WrittenFrames> written) {
  Gfn done;
  for (const WrittenFrames& some : written) {
    for (uint64_t rest = some.bits; rest != 0; rest &= rest - 1) {
      const Gfn gfn = some.base + PageCount(AsIndex(std::countr_zero(rest)));
      if (gfn < done) continue;
      const MemorySlot* slot = slots_.Find(space, gfn);
      done = gfn + PageCount(1);
      if (slot == nullptr) continue;
      MarkWritten(*slot, written);
      done = slot->end();
    }
  }
}

}  // namespace tdp
