// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Brings a page that went unsync back in line with the guest's table (KVM's sync_page).

#ifndef TDP_MMU_REVERSE_MAPPED_SHADOW_SYNC_H_
#define TDP_MMU_REVERSE_MAPPED_SHADOW_SYNC_H_

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "tdp/base/level.h"
#include "tdp/base/sync.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"

namespace tdp {

// Returns the entry of a guest's table that stands `at` entries behind `place`. With `is_wide`
// entries are of 8 bytes, else of 4.
inline uint64_t LoadGuestEntry(const std::byte* place, int at, bool is_wide) {
  const auto load = [place, at](auto none) -> uint64_t {
    using Word = decltype(none);
    auto* words = reinterpret_cast<Word*>(const_cast<std::byte*>(place));
    return AtomicRef<Word>(words[at]).load(std::memory_order_acquire);
  };
  return is_wide ? load(uint64_t{}) : load(uint32_t{});
}
// Returns where in the guest's table the entry stands that is behind the one at `index` of a page
// of `role`, of level 1.
inline int PlaceOf(PageRole role, int index) { return role.quadrant() * Level::kEntries + index; }
// Returns the guest's entry behind the entry at `index` of `page`, of level 1, in the guest's table
// at `table`.
inline uint64_t GuestEntryBehind(const ShadowPage& page, int index, const std::byte* table) {
  return LoadGuestEntry(table, PlaceOf(page.role, index), page.role.wide_entries());
}

// Does syncs in a writer's section. `Guest` reads the guest's entries: `PagingGuest` shows the
// shape.
template <typename Guest>
class ShadowSyncer {
 public:
  using Entry = typename Guest::Entry;

  ShadowSyncer(ShadowTables<Entry>& tables, const Guest& guest, DescriptorCache& descriptors,
               ShadowZap& zap)
      : tables_(tables), guest_(guest), descriptors_(descriptors), zap_(zap) {}

  // Compares every leaf of `page` with the guest's table at `table`: what the table says no more is
  // dropped, what it says with fewer rights is narrowed. Returns false if the page was zapped,
  // since it is of a mode that the guest is not in.
  bool Sync(ShadowPage& page, const std::byte* table) {
    AssertWriting();
    if (!guest_.Reads(page.role)) {
      tables_.Zap(page, descriptors_, zap_);
      return false;
    }
    uint32_t left = page.present;
    for (int i = 0; left != 0 && i < Level::kEntries; ++i) left -= SyncEntry(page, i, table);
    return true;
  }

  // Does the same with one entry. Returns whether there was a leaf.
  bool SyncEntry(ShadowPage& page, int index, const std::byte* table) {
    AssertWriting();
    const auto at = ShadowTables<Entry>::At(page, index);
    Entry old = at.Load();
    if (old.kind(kLevel4K) != EntryKind::kLeaf) return false;
    const LeafOrigin before = page.OriginOf(index);
    LeafOrigin now;
    const bool maps = guest_.Leaf(GuestEntryBehind(page, index, table), page.role, now);
    // W beyond the guest's own rights (CR0.WP was clear) lasts only while nothing changes: D may
    // have been cleared.
    const bool is_excessive =
        maps && old.is_writable() && !Guest::Narrow(old, now.rights()).is_writable();
    if (maps && now == before && !is_excessive) return true;
    if (maps && now.gfn() == before.gfn() && Guest::IsNarrower(before.rights(), now.rights())) {
      // The CPU may set A meanwhile; nothing else changes the entry here.
      while (!at.CompareExchange(old, Guest::Narrow(old, now.rights()))) {
      }
      page.SetOrigin(index, now);
      zap_.flush = true;
    } else {
      tables_.Drop(page, index, descriptors_, zap_);
    }
    return true;
  }

 private:
  ShadowTables<Entry>& tables_;
  const Guest& guest_;
  DescriptorCache& descriptors_;
  ShadowZap& zap_;
};

}  // namespace tdp

#endif  // TDP_MMU_REVERSE_MAPPED_SHADOW_SYNC_H_
