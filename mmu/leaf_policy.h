// SPDX-License-Identifier: Apache-2.0
//
// What a leaf may look like: how large it is, and its rights, type and software bits. One place for
// faults, prefault and collapse, so that all three make the same leaf of the same page.

#ifndef TDP_MMU_LEAF_POLICY_H_
#define TDP_MMU_LEAF_POLICY_H_

#include <algorithm>

#include "absl/base/attributes.h"
#include "absl/base/optimization.h"
#include "tdp/base/access.h"
#include "tdp/base/address.h"
#include "tdp/base/level.h"
#include "tdp/memslot/memory_slot.h"
#include "tdp/memslot/slot_state.h"
#include "tdp/mmu/backend.h"
#include "tdp/mmu/direct_mmu.h"
#include "tdp/mmu/dirty_tracking.h"
#include "tdp/mmu/ept_entry.h"

namespace tdp {

// The members that a fault calls are inlined into it: the path is short enough for calls to show.
class LeafPolicy {
 public:
  LeafPolicy(bool accessed_dirty, Level largest, DirtyTracking tracking)
      : accessed_dirty_(accessed_dirty), largest_(largest), tracking_(tracking) {}

  // How a fault in `slot` opens what the start of logging has closed.
  ABSL_ATTRIBUTE_ALWAYS_INLINE Unprotect UnprotectIn(const MemorySlot& slot) const {
    if (ABSL_PREDICT_TRUE(!slot.logs_dirty_pages())) return Unprotect::kLift;
    return IsByHardware(tracking_) ? Unprotect::kPushDirty : Unprotect::kPushWrite;
  }

  // The largest leaf that slot, host page and options allow for `gfn`, a frame of `slot` behind
  // which `page` stands. Inside a section that has checked the change sequence.
  ABSL_ATTRIBUTE_ALWAYS_INLINE Level LargestLevel(const MemorySlot& slot, Gfn gfn,
                                                  const HostPage& page) const {
    Level level = slot.logs_dirty_pages() ? kLevel4K : largest_;
    while (level > kLevel4K && !Holds(page, gfn, level)) level = level.below();
    // The slot is asked last: most small pages are small because the host's are.
    if (level > kLevel4K) level = std::min(level, slot.state->MaxLevel(gfn));
    return level;
  }

  // Whether a page like this may be mapped by a large leaf somewhere; quick, and any thread.
  bool MayBeLarge(const HostPage& page) const {
    return largest_ > kLevel4K && page.order >= kLevel2M.shift() - kPageShift;
  }

  // The 4 KiB leaf for `page` as an access of `access` wants it. Where writes are logged by their
  // faults a page becomes writable only by the write that marks it. A and D are clear.
  ABSL_ATTRIBUTE_ALWAYS_INLINE EptEntry Leaf(const MemorySlot& slot, const HostPage& page,
                                             Access access) const {
    const bool writable = page.writable && !slot.is_read_only();
    const bool give_write =
        writable && (access.can_write() || UnprotectIn(slot) != Unprotect::kPushWrite);
    const Access rights = give_write ? Access::All() : Access::All().Without(Access::Write());
    const EptEntry leaf =
        EptEntry::Leaf(page.hfn, kLevel4K, rights, page.memory_type).WithIgnorePat();
    return writable ? leaf.WithHostWritable() : leaf;
  }

  // The same for a page that is used at once: A and D are set, which saves the CPU its own locked
  // updates.
  ABSL_ATTRIBUTE_ALWAYS_INLINE EptEntry UsedLeaf(const MemorySlot& slot, const HostPage& page,
                                                 Access access) const {
    const EptEntry leaf = Leaf(slot, page, access);
    if (!accessed_dirty_) return leaf;
    return access.can_write() ? leaf.WithAccessed().WithDirty() : leaf.WithAccessed();
  }

 private:
  // Whether the host page covers the whole leaf of `level` around the frame, from a host frame that
  // is aligned alike.
  ABSL_ATTRIBUTE_ALWAYS_INLINE static bool Holds(const HostPage& page, Gfn gfn, Level level) {
    const uint64_t inside = level.pages().raw() - 1;
    return page.order >= level.shift() - kPageShift &&
           (gfn.raw() & inside) == (page.hfn.raw() & inside);
  }

  const bool accessed_dirty_;
  const Level largest_;
  const DirtyTracking tracking_;
};

}  // namespace tdp

#endif  // TDP_MMU_LEAF_POLICY_H_
