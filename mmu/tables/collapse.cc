// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause

#include "tdp/mmu/tables/collapse.h"

#include <cstdint>

namespace tdp {

// Returns true if everything that is mapped agrees and something is.
bool Collapse::Look(TablePage* table, Seen& seen) const {
  for (int i = 0; i < Level::kEntries; ++i) {
    // Readers are out, but CPUs set bits.
    const EptEntry entry = table->entry(i).Load();
    const EptEntry expected = leaf_.SplitChild(level_, i);
    if (entry.IsPartOf(expected, ignored_)) {
      seen.young = true;
    } else if (entry.is_hole() || entry.is_mmio()) {
      continue;
    } else if (entry.access_tracked() && entry.WithRightsRestored().IsPartOf(expected, ignored_)) {
      seen.tracked = true;
    } else {
      return false;
    }
    seen.any = seen.any.WithBitsOf(entry);
  }
  return seen.young || seen.tracked;
}

bool Collapse::Replace(DirectMmu& mmu) {
  AssertWriting();
  const auto [at, link] = mmu.Descend(mmu.Root(), base_, level_);
  if (at.level != level_ || link.kind(level_) != EntryKind::kTable) return false;
  TablePage* table = TablePage::Of(mmu.TableAt(link));
  Seen seen;
  if (!Look(table, seen)) return false;
  if (!link.is_writable()) leaf_ = leaf_.WithoutWrite();  // a protection at the link stays one
  leaf_ = leaf_.WithUseOf(seen.any);
  if (!seen.young) leaf_ = leaf_.WithAccessTracked();
  mmu.StructureChanged();
  at.entry(base_).Exchange(leaf_);
  old_table_ = table;
  return true;
}

void Collapse::AddLateBits(const DirectMmu& mmu, bool with_dirty) const {
  AssertInSection();
  // A bit that the large leaf has is no news, nor is a D that is not wanted.
  const EptEntry known = with_dirty ? leaf_ : leaf_.WithDirty();
  for (int i = 0; i < Level::kEntries; ++i) {
    const EptEntry late = old_table_->entry(i).Load();
    if (known.WithUseOf(late) == known || late.is_mmio()) continue;
    AddLateBits(mmu, base_ + PageCount(static_cast<uint64_t>(i) * level_.below().pages().raw()),
                with_dirty ? late : late.WithoutDirty());
  }
}

// The frame may be mapped by another leaf by now, or by none.
void Collapse::AddLateBits(const DirectMmu& mmu, Gfn gfn, EptEntry late) const {
  for (;;) {
    const Descent found = mmu.Descend(mmu.Root(), gfn, kLevel4K);
    if (found.kind() != EntryKind::kLeaf) return;
    if (Translation{found.seen, found.at.level, {}}.FrameOf(gfn) != late.frame()) return;
    EptEntry entry = found.seen;
    const EptEntry with = entry.WithUseOf(late);
    // This fails where the CPU sets a bit itself, or a fault splits the leaf: the bits then belong
    // into the table below.
    if (with == entry || found.at.entry(gfn).CompareExchange(entry, with)) return;
  }
}

}  // namespace tdp
