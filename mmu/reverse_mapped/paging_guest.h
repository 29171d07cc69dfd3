// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// Reads a guest's own page tables as the shadow needs them: entry by entry, without a walk.

#ifndef TDP_MMU_REVERSE_MAPPED_PAGING_GUEST_H_
#define TDP_MMU_REVERSE_MAPPED_PAGING_GUEST_H_

#include <cstdint>

#include "absl/base/attributes.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"
#include "tdp/mmu/format/page_role.h"
#include "tdp/mmu/format/paging_entry.h"
#include "tdp/mmu/reverse_mapped/shadow_page.h"

namespace tdp {

class PagingGuest {
 public:
  using Entry = PagingEntry;

  // `base` is the role of the guest's root.
  PagingGuest(const GuestPaging& paging, PageRole base)
      : reserved_(paging.ReservedBitsOf4K()), base_(base) {}

  // Returns whether a page of `role` shadows a table of this guest in the mode that it is in now.
  bool Reads(PageRole role) const { return Mode(role) == Mode(base_); }

  // Returns what the entry `raw` of a table of leaves asks for, if the shadow may have it unasked:
  // it maps a page, sets no reserved bit, and has A, which the guest would see set by a walk.
  // `role` is of the page that shadows the table. W only where D is set already, for the same
  // reason.
  bool Leaf(uint64_t raw, PageRole role, LeafOrigin& origin) const {
    return Leaf(raw, role.access(), origin);
  }
  // Answers the same for a table whose rights are `table`.
  ABSL_ATTRIBUTE_ALWAYS_INLINE bool Leaf(uint64_t raw, Access table, LeafOrigin& origin) const {
    constexpr uint64_t kUsed = guest::kPresent | guest::kAccessed;
    if ((raw & (kUsed | reserved_)) != kUsed) return false;
    const GuestRights rights = GuestRights(table.raw()) & GuestRights::Of(raw);
    origin = LeafOrigin(Gfn((raw & guest::kAddressMask) >> kPageShift), Clean(rights, raw).raw());
    return true;
  }

  // Returns `rights` without W where the leaf `raw` has no D: the write that sets it is to be seen.
  static GuestRights Clean(GuestRights rights, uint64_t raw) {
    return (raw & guest::kDirty) != 0
               ? rights
               : rights & GuestRights(GuestRights::kAll & ~GuestRights::kWrite);
  }

  // Returns `leaf` without the rights that `rights` lacks.
  static PagingEntry Narrow(PagingEntry leaf, uint32_t rights) {
    return leaf.NarrowedTo(GuestRights(rights));
  }
  // Returns whether the rights `after` are a part of `before`, so that a leaf can stay where it is.
  // A page that changes between user and supervisor cannot.
  static bool IsNarrower(uint32_t before, uint32_t after) {
    return (after & ~before) == 0 && ((before ^ after) & GuestRights::kUser) == 0;
  }

 private:
  // Returns the mode alone, without what differs between the tables of one guest.
  static PageRole Mode(PageRole role) {
    return role.WithLevel(Level(0)).WithAccess(Access::None()).WithQuadrant(0).WithDirect(false);
  }

  const uint64_t reserved_;
  const PageRole base_;
};

}  // namespace tdp

#endif  // TDP_MMU_REVERSE_MAPPED_PAGING_GUEST_H_
