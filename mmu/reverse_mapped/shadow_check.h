// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// The invariants of `ShadowTables`: the part of shadow_tables.cc that looks and changes nothing. No
// unit of its own, because one that held both files would instantiate these functions twice.

#ifndef TDP_MMU_REVERSE_MAPPED_SHADOW_CHECK_H_
#define TDP_MMU_REVERSE_MAPPED_SHADOW_CHECK_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "tdp/base/status_macros.h"
#include "tdp/mmu/reverse_mapped/shadow_tables.h"

namespace tdp {
namespace internal {

inline absl::Status Broken(const ShadowPage& page, int index, std::string_view what) {
  return absl::InternalError(
      absl::StrFormat("shadow page of gfn 0x%x, level %d, role 0x%x, entry %d: %s", page.gfn.raw(),
                      page.level().raw(), page.role.raw(), index, what));
}

}  // namespace internal

template <typename Entry>
absl::Status ShadowTables<Entry>::CheckInvariants() const {
  AssertWriting(mmu_lock_);
  for (const ShadowPage* page = pages_.first(); page != nullptr; page = ShadowAgeList::Next(page)) {
    TDP_RETURN_IF_ERROR(CheckPage(*page));
  }
  return CheckCounts();
}

template <typename Entry>
absl::Status ShadowTables<Entry>::CheckPage(const ShadowPage& page) const {
  if (page.is_invalid) return internal::Broken(page, 0, "an invalid page is listed");
  if (hash_.Find(page.gfn, page.role, page.generation) != &page) {
    return internal::Broken(page, 0, "not in the hash, or there twice");
  }
  if (page.table->shadow != &page || page.table->role != page.role || !page.table->in_use) {
    return internal::Broken(page, 0, "its table does not know it");
  }
  const bool is_tracked = !page.is_direct() && !page.role.guest_mode();
  if (is_tracked != (page.tracking != nullptr)) return internal::Broken(page, 0, "tracked wrongly");
  if (page.tracking != nullptr && !page.tracking->IsWriteTracked(page.gfn)) {
    return internal::Broken(page, 0, "its frame is not tracked");
  }
  if (page.sync != ShadowSync::kSynced && page.level() > kLevel4K) {
    return internal::Broken(page, 0, "an upper page is unsync");
  }
  if (!Chain::IsSound(page.parents, ShadowPlaces()))
    return internal::Broken(page, 0, "its chain is broken");
  uint32_t present = 0;
  for (int i = 0; i < Level::kEntries; ++i) {
    const Entry entry = At(page, i).Load();
    if (entry.kind(page.level()) == EntryKind::kHole) {
      if (entry != hole())
        return internal::Broken(page, i, "a hole that is not as in a free table");
      continue;
    }
    ++present;
    TDP_RETURN_IF_ERROR(CheckEntry(page, i));
  }
  if (present != page.present) return internal::Broken(page, 0, "present entries are miscounted");
  absl::Status status;
  Chain::ForEach(page.parents, [&](const uint64_t* entry) {
    const Entry link = Ref(const_cast<uint64_t*>(entry)).Load();
    const ShadowPage* parent = ShadowPage::Of(entry);
    if (link.kind(parent->level()) != EntryKind::kTable || TableOf(link) != page.table) {
      status.Update(internal::Broken(page, 0, "a parent links another table"));
    }
  });
  return status;
}

template <typename Entry>
absl::Status ShadowTables<Entry>::CheckEntry(const ShadowPage& page, int index) const {
  const Entry entry = At(page, index).Load();
  const uint64_t* where = page.entry(index);
  const auto is_in = [where](const RmapHead& head) {
    size_t found = 0;
    Chain::ForEach(head, [&](const uint64_t* other) { found += other == where ? 1 : 0; });
    return found == 1;
  };
  if (entry.kind(page.level()) == EntryKind::kTable) {
    const ShadowPage* child = TableOf(entry)->shadow;
    if (child == nullptr)
      return internal::Broken(page, index, "links a table that is no shadow page");
    if (child->level() != page.level().below())
      return internal::Broken(page, index, "links a wrong level");
    return is_in(child->parents)
               ? absl::OkStatus()
               : internal::Broken(page, index, "not among its child's parents, once");
  }
  const LeafOrigin origin = page.OriginOf(index);
  const std::shared_ptr<SlotRmap>& rmap = rmaps_.Of(origin.gfn());
  const RmapHead* head = rmap == nullptr ? nullptr : rmap->Find(origin.gfn(), page.level());
  if (head == nullptr || !is_in(*head)) {
    return internal::Broken(page, index, "a leaf that is not in the reverse map, once");
  }
  if (!Chain::IsSound(*head, ShadowPlaces()))
    return internal::Broken(page, index, "a broken reverse map");
  if (!entry.is_writable()) return absl::OkStatus();
  absl::Status status;
  for (Gfn gfn = origin.gfn(); gfn < origin.gfn() + page.level().pages(); gfn += PageCount(1)) {
    hash_.ForEachShadowOf(gfn, [&](const ShadowPage* table) {
      // An obsolete upper page, which `ZapAll` has yet to come to, is no reason to track a frame.
      const bool counts = table->level() == kLevel4K || table->generation == generation_;
      if (counts && table->sync != ShadowSync::kUnsync && table->tracking != nullptr) {
        status.Update(internal::Broken(page, index, "a writable leaf of a table that is in sync"));
      }
    });
  }
  return status;
}

// Nothing is in a reverse map or a list but what has been looked at.
template <typename Entry>
absl::Status ShadowTables<Entry>::CheckCounts() const {
  size_t leaves = 0;
  size_t unsync = 0;
  for (const ShadowPage* page = pages_.first(); page != nullptr; page = ShadowAgeList::Next(page)) {
    unsync += page->sync != ShadowSync::kSynced ? 1 : 0;
    for (int i = 0; i < Level::kEntries; ++i) {
      leaves += At(*page, i).Load().kind(page->level()) == EntryKind::kLeaf ? size_t{1} : 0;
    }
  }
  size_t mapped = 0;
  rmaps_.ForEachHead(Gfn(0), Gfn(~uint64_t{0} >> kPageShift),
                     [&](Level, Gfn, const RmapHead& head) { mapped += Chain::Count(head); });
  if (mapped != leaves) {
    return absl::InternalError(
        absl::StrFormat("the reverse maps have %u entries for %u leaves", mapped, leaves));
  }
  if (unsync != unsync_.size()) {
    return absl::InternalError(
        absl::StrFormat("%u pages are unsync and %u listed", unsync, unsync_.size()));
  }
  return absl::OkStatus();
}

}  // namespace tdp

#endif  // TDP_MMU_REVERSE_MAPPED_SHADOW_CHECK_H_
