// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//
// One entry of a table that is loaded into CR3 in place of a guest's own: the x86 paging format of
// PAE, 4-level and 5-level paging (SDM vol. 3A, chapter 5), as a value.
//
// The hardware's positions stand in mmu/format/guest_format.h. Entries of PAE paging have no
// ignored bits but 11:9, so what the engine remembers in an entry stands there.

#ifndef TDP_MMU_FORMAT_PAGING_ENTRY_H_
#define TDP_MMU_FORMAT_PAGING_ENTRY_H_

#include <cstdint>

#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/mmu/format/ept_entry.h"
#include "tdp/mmu/format/guest_format.h"
#include "tdp/mmu/format/guest_paging.h"

namespace tdp {

// An immutable value of the shape of `EptEntry`; stored ones are reached through `BasicEntryRef`.
class PagingEntry {
 public:
  constexpr PagingEntry() = default;
  constexpr explicit PagingEntry(uint64_t raw) : raw_(raw) {}

  // --- makers ---
  static constexpr PagingEntry Empty() { return PagingEntry(); }
  // Makes one that points to the table at `table` with every right: leaves decide.
  static constexpr PagingEntry Table(Hpa table) {
    return PagingEntry(table.raw() | guest::kPresent | guest::kWrite | guest::kUser |
                       guest::kAccessed);
  }
  // Makes one that maps the page at `frame`, aligned to `level` (1 to 3), with A set, and with D if
  // it is writable: no walk has to write it. It is write-back by a PAT as after reset.
  static constexpr PagingEntry Leaf(Hfn frame, Level level, GuestRights rights) {
    return PagingEntry(frame.address().raw() | guest::kPresent | guest::kAccessed |
                       (rights.writable() ? guest::kWrite | guest::kDirty : 0) |
                       (rights.user() ? guest::kUser : 0) |
                       (rights.executable() ? 0 : guest::kNoExecute) |
                       (level > kLevel4K ? guest::kLargePage : 0));
  }

  // --- what it is ---
  constexpr EntryKind kind(Level level) const {
    if (!is_present()) return EntryKind::kHole;
    if (level == kLevel4K || (raw_ & guest::kLargePage) != 0) return EntryKind::kLeaf;
    return EntryKind::kTable;
  }
  constexpr bool is_present() const { return (raw_ & guest::kPresent) != 0; }

  // --- getters ---
  constexpr uint64_t raw() const { return raw_; }
  constexpr Hpa address() const { return Hpa(raw_ & guest::kAddressMask); }
  constexpr Hfn frame() const { return Hfn::Of(address()); }
  constexpr GuestRights rights() const { return GuestRights::Of(raw_); }
  constexpr bool is_writable() const { return (raw_ & guest::kWrite) != 0; }
  constexpr bool accessed() const { return (raw_ & guest::kAccessed) != 0; }
  constexpr bool host_writable() const { return (raw_ & kSoftHostWritable) != 0; }
  constexpr bool is_uncached() const { return (raw_ & kUncached) != 0; }

  // --- changed copies ---
  constexpr PagingEntry WithoutWrite() const {
    return PagingEntry(raw_ & ~(guest::kWrite | guest::kDirty));
  }
  constexpr PagingEntry WithoutAccessed() const { return PagingEntry(raw_ & ~guest::kAccessed); }
  // Returns it without the rights that `narrow` lacks.
  constexpr PagingEntry NarrowedTo(GuestRights narrow) const {
    PagingEntry entry = narrow.writable() ? *this : WithoutWrite();
    if (!narrow.executable()) entry.raw_ |= guest::kNoExecute;
    if (!narrow.user()) entry.raw_ &= ~guest::kUser;
    return entry;
  }
  constexpr PagingEntry WithHostWritable() const { return PagingEntry(raw_ | kSoftHostWritable); }
  // Returns this leaf, made for frame 0, as one of `frame`.
  constexpr PagingEntry WithFrame(Hfn frame) const {
    return PagingEntry(raw_ | frame.address().raw());
  }
  // Returns the entry of a page that is a device: PAT entry 3, which is UC after reset.
  constexpr PagingEntry WithUncached() const { return PagingEntry(raw_ | kUncached); }

  // --- compared with another leaf ---
  // Returns whether both map the same page.
  constexpr bool MapsAs(PagingEntry other) const {
    constexpr uint64_t kSame = guest::kAddressMask | guest::kPresent | guest::kLargePage;
    return ((raw_ ^ other.raw_) & kSame) == 0;
  }
  // Returns whether a CPU that has this entry must forget it once `after`, of the same page, stands
  // there. A user page that becomes a supervisor's, or the other way round, is another thing under
  // SMAP and SMEP.
  constexpr bool OwesFlushFor(PagingEntry after) const {
    const uint64_t changed = raw_ ^ after.raw_;
    return (changed & (guest::kUser | kUncached)) != 0 || (is_writable() && !after.is_writable()) ||
           (rights().executable() && !after.rights().executable());
  }

  friend constexpr bool operator==(PagingEntry, PagingEntry) = default;

 private:
  static constexpr uint64_t kUncached = guest::kWriteThrough | guest::kCacheDisable;
  static constexpr uint64_t kSoftHostWritable = guest::Bit(9);

  uint64_t raw_ = 0;
};

static_assert(sizeof(PagingEntry) == sizeof(uint64_t));

}  // namespace tdp

#endif  // TDP_MMU_FORMAT_PAGING_ENTRY_H_
